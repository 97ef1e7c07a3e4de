"""A source on S3 gives the same files and rows as one on disk."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import index, recipe_of
from s3_server import S3Server

from stillhouse.gen.dataset.upstream import inherited
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.dataset_folder import dataset_of
from stillhouse.gen.source.files import read_rows
from stillhouse.gen.source.survey import survey
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.source import Source

ROWS = [{"q": f"question {number} \U0001f600"} for number in range(5000)]
JSONL = b"".join(b'{"q": "%s"}\n' % row["q"].encode() for row in ROWS)


@pytest.fixture
def store(s3: S3Server) -> Store:
    """The bucket with a file of each kind, and some that are not sources."""
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
    assert [file.url for file in survey(source(s3, key)).files] == [f"{s3.url}/in/{name}" for name in names]


@pytest.mark.usefixtures("store")
def test_every_format_can_be_read_from_any_row(s3: S3Server) -> None:
    """Ranges are fetched as they are read."""
    wanted = source(s3, "in")
    for file in survey(wanted).files:
        rows = list(read_rows(file, source=wanted, columns={"q"}))
        assert [row.values for row in rows] == ROWS
        assert list(read_rows(file, source=wanted, columns={"q"}, start=rows[4321].at)) == rows[4321:]


def test_a_changed_object_is_refused_by_name(s3: S3Server, store: Store) -> None:
    """Even one of the same size."""
    wanted = source(s3, "in/a.jsonl")
    (file,) = survey(wanted).files
    store.put("in/a.jsonl", JSONL.replace(b"question", b"Question"))
    with pytest.raises(SourceError, match=r"s3://.*/in/a\.jsonl changed since it was planned"):
        list(read_rows(file, source=wanted))


@pytest.mark.usefixtures("store")
def test_an_empty_place_is_reported_with_what_was_looked_for(s3: S3Server) -> None:
    """For a key, a folder and a glob."""
    for key in ("missing.jsonl", "missing/", "in/*.zst", "in/notes.pdf/"):
        with pytest.raises(SourceError, match=r"expected files at s3://"):
            survey(source(s3, key))
    with pytest.raises(SourceError, match="an unsupported kind"):
        survey(source(s3, "in/notes.pdf"))


def test_a_dataset_on_s3_is_a_source(s3: S3Server, tmp_path: Path) -> None:
    """Its records and, if asked for, what it rejected; with its teachers, and a note if it is not finished."""
    fixture = Path(__file__).parents[1] / "fixtures" / "first_format" / "dataset"
    store = open_store(f"{s3.url}/lake/first", endpoint_url=s3.endpoint_url)
    for file in sorted(fixture.rglob("*")):
        if file.is_file():
            store.put(str(file.relative_to(fixture)), file.read_bytes())
    there = {"path": f"{s3.url}/lake/first/", "endpoint_url": s3.endpoint_url, "prompt": None, "id": "record_id"}
    recipe = recipe_of(tmp_path, source=there, ask={"template": "{{ completion[0].content }}"})
    files = survey(recipe.source).files
    assert {dataset_of(file.url) for file in files} == {f"{s3.url}/lake/first"}
    assert all("/data/" in file.url for file in files)
    with_rejected = recipe.source.model_copy(update={"rejected": True})
    assert any("/rejected/" in file.url for file in survey(with_rejected).files)
    shown = preview(recipe)
    assert shown.prompts > shown.bad == 0
    assert f"{s3.url}/lake/first is not finished" in "".join(shown.warnings)
    found = index(recipe)
    assert found is not None
    assert {each.source for each in found[0].upstream} == {f"{s3.url}/lake/first"}
    itself = {"path": f"{s3.url}/lake/first", "endpoint_url": s3.endpoint_url}
    with pytest.raises(SourceError, match=r"got records of dataset\.path itself"):
        inherited(files, recipe_of(tmp_path, source=there, ask={"template": "{{ completion }}"}, dataset=itself))
