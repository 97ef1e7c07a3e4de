"""Which files belong to the source, and the messages about those that can't be read."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.files import SourceFile, kept_fields, read_rows
from stillhouse.gen.source.survey import passed_over_note, survey
from stillhouse.schemas.source import Source

ROW = b'{"q": "a"}\n'


def source(*paths: Path | str, **fields: object) -> Source:
    """A source with the prompt column 'q'."""
    return Source.model_validate({"path": [str(path) for path in paths], "prompt": "q", **fields})


def fill(folder: Path, *names: str) -> None:
    """Files of one row each."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ROW)


def names(folder: Path, *paths: str) -> list[str]:
    """What is found, relative to the folder."""
    return [file.url.removeprefix(f"{folder}/") for file in survey(source(*(folder / path for path in paths))).files]


def test_a_folder_is_read_in_name_order_at_any_depth(tmp_path: Path) -> None:
    """Hidden names, names that begin with '_' and other kinds are passed over."""
    fill(
        tmp_path, "b.jsonl", "a/2.jsonl", "a/1.ndjson", "_x.jsonl", ".y.jsonl", "_d/a.jsonl", ".d/a.jsonl", "README.md"
    )
    assert names(tmp_path, "") == ["a/1.ndjson", "a/2.jsonl", "b.jsonl"]


def test_paths_keep_the_recipes_order_and_a_file_counts_once(tmp_path: Path) -> None:
    """A glob that finds a named file again adds nothing."""
    fill(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl")
    assert names(tmp_path, "c.jsonl", "*.jsonl") == ["c.jsonl", "a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.jsonl", ["a1.jsonl", "b2.jsonl"]),
        ("?1.jsonl", ["a1.jsonl"]),
        ("[ab]?.jsonl", ["a1.jsonl", "b2.jsonl"]),
        ("[!a]?.jsonl", ["b2.jsonl"]),
        ("**/*.jsonl", ["a1.jsonl", "b2.jsonl", "d/e/f.jsonl", "d/g.jsonl"]),
        ("d/*.jsonl", ["d/g.jsonl"]),
        ("*/*/*.jsonl", ["d/e/f.jsonl"]),
    ],
)
def test_globs_find_files(tmp_path: Path, glob: str, found: list[str]) -> None:
    """A star stays within a folder, two do not."""
    fill(tmp_path, "a1.jsonl", "b2.jsonl", "d/g.jsonl", "d/e/f.jsonl", "d/.h.jsonl", "z.txt")
    assert names(tmp_path, glob) == found


@pytest.mark.parametrize("path", ["missing.jsonl", "missing", "missing/*.jsonl", "*.parquet", "empty"])
def test_an_empty_result_says_what_was_looked_for(tmp_path: Path, path: str) -> None:
    """The message holds the path and the kinds that can be read."""
    fill(tmp_path, "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"expected files at .*found none.*\.parquet") as caught:
        names(tmp_path, path)
    assert path in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a.pdf", "a.xlsx", "a.parquet.gz", "a"])
def test_a_named_file_of_an_unknown_kind_is_refused(tmp_path: Path, name: str) -> None:
    """In a folder it is skipped; if it is named, it is refused."""
    fill(tmp_path, name)
    with pytest.raises(SourceError, match=r"an unsupported kind: expected \.jsonl"):
        names(tmp_path, name)


def test_a_changed_file_and_a_missing_one_are_refused_by_name(tmp_path: Path) -> None:
    """Rows of another content than was planned are never given out."""
    fill(tmp_path, "a.jsonl")
    (file,) = survey(source(tmp_path)).files
    (tmp_path / "a.jsonl").write_bytes(ROW * 2)
    with pytest.raises(SourceError, match=r"a\.jsonl changed since it was planned"):
        list(read_rows(file, source=source(tmp_path)))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl is gone"):
        list(read_rows(file, source=source(tmp_path)))


def found(path: Path) -> SourceFile:
    """The file at the path."""
    return survey(source(path)).files[0]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.zst", "a.csv.gz"])
@pytest.mark.parametrize("content", [ROW * 100, b"PAR1", b"ARROW1\0\0", b"", b"\0" * 100])
def test_the_wrong_extension_is_a_source_error_with_the_name(tmp_path: Path, name: str, content: bytes) -> None:
    """Whatever the file holds instead."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        list(read_rows(found(tmp_path / name), source=source(tmp_path)))


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_parquet_file_is_a_source_error(tmp_path: Path, kept: float) -> None:
    """The footer is at its end."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": [str(i) for i in range(10_000)]}), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(SourceError, match=r"a\.parquet can't be read"):
        list(read_rows(found(path), source=source(path)))


def test_a_truncated_gzip_file_gives_its_rows_and_then_fails(tmp_path: Path) -> None:
    """Rows before the fault are good."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"q": "%d"}\n' % i for i in range(400_000)))[:-9])
    read: list[dict[str, object] | None] = []
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz can't be read.*cut off"):
        read.extend(row.values for row in read_rows(found(path), source=source(path)))
    assert read == [{"q": str(number)} for number in range(len(read))]
    assert len(read) > 200_000


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv"])
def test_a_missing_column_is_refused_with_the_existing_ones(tmp_path: Path, name: str) -> None:
    """JSONL has no such header: there a row lacks the column."""
    table = pa.table({"question": ["a"], "answer": ["b"]})
    path = tmp_path / name
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path)
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write(table)
        case _:
            path.write_text("question,answer\na,b\n")
    with pytest.raises(SourceError, match=rf"{path.name}: the column 'q' is missing.*'question', 'answer'"):
        list(read_rows(found(path), source=source(path), columns={"q"}))


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    """Wide beyond any use, with and without parsing the whole footer."""
    path = tmp_path / "a.parquet"
    for wide in (10_001, 60_000):
        pq.write_table(pa.table({f"c{i}": pa.array([], pa.int8()) for i in range(wide)}), path)
        with pytest.raises(SourceError, match=r"a\.parquet: it(s footer)? has .*columns"):
            list(read_rows(found(path), source=source(path), columns={"c0"}))


def test_an_encrypted_parquet_file_is_refused(tmp_path: Path) -> None:
    """Its first four bytes say so."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a"]}), path)
    path.write_bytes(b"PARE" + path.read_bytes()[4:-4] + b"PARE")
    with pytest.raises(SourceError, match=r"a\.parquet can't be read.*encrypted"):
        list(read_rows(found(path), source=source(path)))


def test_kept_columns_have_the_files_types_or_the_declared_ones(tmp_path: Path) -> None:
    """Text files are all strings unless declared; a dictionary column is kept as its values."""
    table = pa.table({"q": ["a"], "n": pa.array([1], pa.int32()), "d": pa.array(["x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("q,n,d\n")
    keep = source(tmp_path, keep=["n", "d", {"q": "string"}])
    own = {field.name: field.type for field in kept_fields([found(tmp_path / "a.parquet")], source=keep)}
    assert own == {"n": pa.int32(), "d": pa.string(), "q": pa.string()}
    typed = source(tmp_path, keep=["d", {"n": "int64"}])
    assert [field.type for field in kept_fields([found(tmp_path / "a.csv")], source=typed)] == [pa.string(), pa.int64()]
    with pytest.raises(SourceError, match=r"a\.parquet: the column 'x' is missing"):
        kept_fields([found(tmp_path / "a.parquet")], source=source(tmp_path, keep=["x"]))


def test_files_skipped_in_a_folder_are_named(tmp_path: Path) -> None:
    """Files of other kinds, even those that often lie next to prompts; hidden ones are not mentioned."""
    fill(tmp_path, "a.jsonl", "README.md", "dataset_info.json", "b.tsv", ".c.txt", "_d.txt")
    found = survey(source(tmp_path))
    assert [file.url for file in found.files] == [f"{tmp_path}/a.jsonl"]
    assert found.passed_over == tuple(f"{tmp_path}/{name}" for name in ("README.md", "b.tsv", "dataset_info.json"))
    assert passed_over_note(found.passed_over) == (
        "skipped 3 files of other kinds: README.md, b.tsv, dataset_info.json"
    )
    assert passed_over_note(survey(source(tmp_path / "a.jsonl")).passed_over) is None


def test_json_and_tsv_count_if_named(tmp_path: Path) -> None:
    """When a glob ends in their suffix, when they are named, or when there is nothing else."""
    fill(tmp_path, "x/a.json", "x/b.tsv", "y/a.json", "y/a.jsonl")
    assert names(tmp_path, "x") == ["x/a.json", "x/b.tsv"]
    assert names(tmp_path, "y/*") == ["y/a.jsonl"]
    assert names(tmp_path, "y/*.json", "y/a.jsonl") == ["y/a.json", "y/a.jsonl"]
    assert names(tmp_path, "y/a.json") == ["y/a.json"]


def test_a_dataset_of_ours_in_a_source_folder_is_skipped(tmp_path: Path) -> None:
    """Its records would be asked as prompts; named itself it is read."""
    fill(tmp_path, "a.jsonl", "out/data/part.jsonl", "out/_stillhouse/plan-000.json", "my_stillhouse/b.jsonl")
    assert names(tmp_path, "") == ["a.jsonl", "my_stillhouse/b.jsonl"]
    assert names(tmp_path, "out") == ["out/data/part.jsonl"]


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("openai/gsm8k", "hf download openai/gsm8k --repo-type dataset"),
        ("hf://datasets/openai/gsm8k@main/x.parquet", "hf download openai/gsm8k --repo-type dataset"),
        ("https://huggingface.co/datasets/openai/gsm8k", "hf download openai/gsm8k --repo-type dataset"),
        ("https://me:secret@host.example/a.jsonl?token=secret", "curl -LO '<the URL>'"),
    ],
)
def test_a_hub_name_and_a_url_are_refused_with_how_to_get_the_files(path: str, advice: str) -> None:
    """In one line, which repeats nothing that may be a credential."""
    with pytest.raises(SourceError) as caught:
        survey(source(path))
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
