"""Sources that are empty, or not what their names say: they are refused by name, or their bad rows say why."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import index, questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.gen.dataset.index import read_part
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import SourceError
from stillhouse.gen.views.preview import preview

IDS = ["../../etc/passwd", "a/b", "CON", "x" * 10_000, "\U0001f600", "nul\0 \u2028 \r\n", ""]


def parquet_bytes() -> bytes:
    """A small file's."""
    out = io.BytesIO()
    pq.write_table(pa.table({"question": ["why?"]}), out)
    return out.getvalue()


@pytest.mark.parametrize("content", [b"", b"\n\n\r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_a_source_without_rows_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """By both plan and run, and before anything is planned: rows may still be written to its files."""
    path = write_source(tmp_path, [], name=name)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    recipe = recipe_of(tmp_path)
    for act in (preview, index):
        with pytest.raises(SourceError, match=rf"expected rows, got none in .*{name}"):
            act(recipe)
    assert not list((tmp_path / "out").rglob("plan-*"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_text_file_among_others_holds_no_rows(tmp_path: Path, name: str) -> None:
    """A job that writes many files may leave empty ones; one that is added later does not stop a run either."""
    write_source(tmp_path, [], name=name)
    write_source(tmp_path, questions(2), name="b.jsonl")
    recipe = recipe_of(tmp_path)
    assert preview(recipe).prompts == 2
    assert index(recipe) is not None
    write_source(tmp_path, [], name="c.jsonl")
    assert index(recipe) is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b'{"question": "why?"}\n', mtime=0), r"gzip data.*\.gz"),
        (pa.Codec("zstd").compress(b"{}\n", asbytes=True), r"Zstandard data.*\.zst"),
        (parquet_bytes(), r"a Parquet file.*\.parquet"),
        (b"ARROW1\0\0" + bytes(40), r"an Arrow file.*\.arrow"),
        (b"PK\x03\x04" + bytes(40), "archive: unpack it"),
        ('{"question": "why?"}\n'.encode("utf-16"), "UTF-16.*write it as UTF-8"),
        ('{"question": "why?"}\n'.encode("utf-16-be"), "UTF-16.*write it as UTF-8"),
        ('{"question": "why?"}\n'.encode("utf-32"), "UTF-32.*write it as UTF-8"),
    ],
)
def test_a_binary_file_is_refused_by_its_kind(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """Its first bytes tell, so there is no bad row per line."""
    write_source(tmp_path, [], name=name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name}: expected lines of UTF-8 text, got .*{told}"):
        preview(recipe_of(tmp_path))


def test_text_that_begins_like_another_format_is_still_text(tmp_path: Path) -> None:
    """A CSV's header may be any word."""
    write_source(tmp_path, [], name="a.csv").write_text("PAR1,PK,id,question\n1,2,3,why?\n")
    assert preview(recipe_of(tmp_path)).prompts == 1


async def test_ids_are_data_and_never_part_of_a_path(tmp_path: Path) -> None:
    """Row 68: any text comes back as it was, and every file is where it belongs."""
    write_source(tmp_path, [{"id": own, "question": f"what is {n}?"} for n, own in enumerate(IDS)])
    recipe = recipe_of(tmp_path)
    summary = await run_in_process(recipe)
    records = pq.read_table(tmp_path / "out" / "data", columns=["prompt_id"], partitioning=None)[
        "prompt_id"
    ].to_pylist()
    assert (summary.state, sorted(records)) == ("done", sorted(IDS))
    stored = {path.relative_to(tmp_path).parts for path in tmp_path.rglob("*")}  # noqa: ASYNC240 - all is done
    assert {parts[:2] for parts in stored if len(parts) > 1} == {
        ("source", "a.jsonl"), ("out", "data"), ("out", "_stillhouse"),
    }  # fmt: skip


async def test_a_bad_row_keeps_its_id(tmp_path: Path) -> None:
    """In the index and in failed/; a line that is not JSON has no id."""
    write_source(tmp_path, [{"id": "no-question", "question": " "}, "{torn", *questions(1)])
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe)
    failed = pq.read_table(tmp_path / "out" / "failed", partitioning=None).to_pylist()
    assert [(row["prompt_id"], row["line"]) for row in failed] == [("no-question", 1), (None, 2)]
    assert read_part(open_dataset(recipe), 0, 0)["prompt_id"].to_pylist() == ["no-question", None, "q0"]
