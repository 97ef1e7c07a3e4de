"""A source on S3 gives the same files and rows as one on disk."""

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3Server

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.files import find_files, read_rows
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Source

ROWS = [{"q": f"question {number} \U0001f600"} for number in range(5000)]
JSONL = b"".join(b'{"q": "%s"}\n' % row["q"].encode() for row in ROWS)


@pytest.fixture
def store(s3: S3Server) -> Store:
    """The bucket with a file of each kind, and some that are none."""
    store = open_store(s3.url, endpoint_url=s3.endpoint_url)
    table = pa.Table.from_pylist(ROWS)
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=1000)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    files = {
        "in/a.jsonl": JSONL,
        "in/b.jsonl.gz": gzip.compress(JSONL),
        "in/d/c.csv": b"q\n" + b"".join(row["q"].encode() + b"\n" for row in ROWS),
        "in/d/e.parquet": parquet.getvalue(),
        "in/f.arrow": arrow.getvalue(),
        "in/notes.pdf": b"text",
        "in/_hidden/a.jsonl": JSONL,
        "inside.jsonl": JSONL,
    }
    for key, body in files.items():
        store.put(key, body)
    return store


def source(s3: S3Server, *keys: str) -> Source:
    """Keys of the bucket as a source."""
    return Source(path=tuple(f"{s3.url}/{key}" for key in keys), prompt="q", endpoint_url=s3.endpoint_url)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("in", ["a.jsonl", "b.jsonl.gz", "d/c.csv", "d/e.parquet", "f.arrow"]),
        ("in/", ["a.jsonl", "b.jsonl.gz", "d/c.csv", "d/e.parquet", "f.arrow"]),
        ("in/*.jsonl*", ["a.jsonl", "b.jsonl.gz"]),
        ("in/**/*.csv", ["d/c.csv"]),
        ("in/d/e.parquet", ["d/e.parquet"]),
    ],
)
def test_folders_globs_and_keys_are_found(s3: S3Server, key: str, names: list[str]) -> None:
    """A folder is its slash: 'in' does not find 'inside.jsonl'."""
    assert [file.url for file in find_files(source(s3, key))] == [f"{s3.url}/in/{name}" for name in names]


@pytest.mark.usefixtures("store")
def test_every_kind_gives_its_rows_from_any_row_on(s3: S3Server) -> None:
    """Ranges are fetched as they are read."""
    wanted = source(s3, "in")
    for file in find_files(wanted):
        rows = list(read_rows(file, source=wanted, columns={"q"}))
        assert [row.values for row in rows] == ROWS
        assert list(read_rows(file, source=wanted, columns={"q"}, start=rows[4321].at)) == rows[4321:]


def test_a_changed_object_is_refused_by_name(s3: S3Server, store: Store) -> None:
    """Even one of the same size."""
    wanted = source(s3, "in/a.jsonl")
    (file,) = find_files(wanted)
    store.put("in/a.jsonl", JSONL.replace(b"question", b"Question"))
    with pytest.raises(SourceError, match=r"s3://.*/in/a\.jsonl changed since it was planned"):
        list(read_rows(file, source=wanted))


@pytest.mark.usefixtures("store")
def test_nothing_there_says_what_was_looked_for(s3: S3Server) -> None:
    """A key, a folder and a glob alike."""
    for key in ("missing.jsonl", "missing/", "in/*.zst", "in/notes.pdf/"):
        with pytest.raises(SourceError, match=r"expected files at s3://"):
            find_files(source(s3, key))
    with pytest.raises(SourceError, match="an unsupported kind"):
        find_files(source(s3, "in/notes.pdf"))
