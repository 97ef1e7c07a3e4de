"""What a file holds comes back exactly, from any row on, and anything that is not a row is reported with its line."""

import csv
import datetime
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.files import read_rows
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, Position, Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.source.survey import survey
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.source import Source

Texts = list[dict[str, str]]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS: st.SearchStrategy[Texts] = st.lists(st.fixed_dictionaries({"q": TEXT, "id": TEXT}), min_size=1, max_size=20)


def read(path: Path, start: Position | None = None, columns: set[str] | None = None) -> list[Row]:
    """The file's rows."""
    source = Source(path=str(path), prompt="q")
    (file,) = survey(source).files
    return list(read_rows(file, source=source, columns=columns, start=start or Position()))


def bad(path: Path, content: bytes) -> list[tuple[int, str]]:
    """(line, reason) of the bad rows of a file with this content."""
    path.write_bytes(content)
    return [(row.at.line, row.bad) for row in read(path) if row.bad is not None]


def good(path: Path, content: bytes) -> list[object]:
    """The column 'q' of the rows of a file with this content, which has no bad ones."""
    path.write_bytes(content)
    rows = read(path)
    assert all(row.bad is None for row in rows)
    return [row.values["q"] for row in rows if row.values is not None]


def zstd(data: bytes) -> bytes:
    """One frame."""
    compressed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return compressed


def as_jsonl(rows: Texts) -> bytes:
    """Raw Unicode, line ends of both kinds, a few blank lines, and no line end after the last row."""
    lines = [json.dumps(row, ensure_ascii=False) + ("\r\n", "\n", "\n \n")[i % 3] for i, row in enumerate(rows)]
    return "".join(lines).rstrip("\r\n ").encode()


def as_csv(rows: Texts) -> bytes:
    """With every field quoted, as a lone NUL or an empty line must be."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["q", "id"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def as_parquet(rows: Texts) -> bytes:
    """Row groups of three rows."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=3)
    return out.getvalue()


def as_arrow(rows: Texts, new: Callable[..., pa.ipc.RecordBatchStreamWriter]) -> bytes:
    """Batches of three rows."""
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return out.getvalue()


FORMATS: dict[str, Callable[[Texts], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "a.ndjson.zst": lambda rows: zstd(as_jsonl(rows)),
    "a.json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1).encode(),
    "b.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "c.json": as_jsonl,
    "a.csv": as_csv,
    "a.csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "a.csv.zst": lambda rows: zstd(as_csv(rows)),
    "a.parquet": as_parquet,
    "a.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "b.arrow": lambda rows: as_arrow(rows, pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_any_text_is_read_back_from_any_position(name: str, rows: Texts) -> None:
    """The rows from a row's position are just that row and those after it, positions and all."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(FORMATS[name](rows))
        whole = read(path, columns={"q", "id"})
        assert [row.values for row in whole] == rows
        assert [row.at.row for row in whole] == list(range(len(rows)))
        for index, row in enumerate(whole):
            assert read(path, row.at, columns={"q", "id"}) == whole[index:]


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b"{", b'{"q": 1}\n'])).map(b"".join)
)
def test_any_bytes_are_rows_or_bad_rows(content: bytes) -> None:
    """No JSONL or CSV, however broken, stops the run, and reading from any row on gives the tail."""
    with TemporaryDirectory() as folder:
        for name, head in (("a.jsonl", b"{}\n\n{}\n"), ("a.json", b"[{},\n\n{},"), ("a.csv", b"q,b\n")):
            path = Path(folder) / name
            path.write_bytes(head + content)
            whole = read(path)
            assert all((row.values is None) == (row.bad is not None) for row in whole)
            for index, row in enumerate(whole):
                assert read(path, row.at) == whole[index:]


def test_concatenated_frames_and_members_are_one_file(tmp_path: Path) -> None:
    """As parallel compressors and `cat` write them; a row may lie across two."""
    line = b'{"q": "across"}\n'
    assert good(tmp_path / "a.jsonl.gz", gzip.compress(line + line[:7]) + gzip.compress(line[7:])) == ["across"] * 2
    assert good(tmp_path / "a.jsonl.zst", zstd(line + line[:7]) + zstd(line[7:])) == ["across"] * 2


def test_a_line_that_is_not_a_row_is_reported_with_its_number(tmp_path: Path) -> None:
    """The good rows between are kept."""
    lines = [
        b'\xef\xbb\xbf{"q": "after a byte order mark"}',
        b"{broken",
        b"[1]",
        b"",
        b'{"q": "\xff"}',
        b'{"q": "\xed\xa0\x80"}',
        b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"q": "\0"}',
        b"\0\0\0",
        b'"text"',
        b"null",
        b'{"q": "last"}',
    ]
    content = b"\n".join(lines)
    reasons = dict(bad(tmp_path / "a.jsonl", content))
    assert list(reasons) == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert "valid JSON" in reasons[2]
    assert reasons[3] == "expected a JSON object, got an array"
    assert "UTF-8" in reasons[5]
    rows = read(tmp_path / "a.jsonl")
    assert [row.values for row in rows if row.values] == [{"q": "after a byte order mark"}, {"q": "last"}]


@pytest.mark.parametrize("odd", ["NaN", "-Infinity", "1e999", "9" * 5000, '"\\ud800"'])
def test_an_odd_value_matters_only_if_used(tmp_path: Path, odd: str) -> None:
    """Asked, kept as text or used as an id it makes the row bad by the column's name; unused it does not matter."""
    (tmp_path / "a.jsonl").write_text(f'{{"q": "2+2?", "n": {odd}}}')
    (row,) = read(tmp_path / "a.jsonl")
    assert row.values is not None
    assert isinstance(PromptMaker(Source(path="x", prompt="q"), Ask()).make(row.values), Prompt)
    for fields in ({"prompt": "n"}, {"prompt": "q", "id": "n"}, {"prompt": "q", "keep": ["n"]}):
        said = PromptMaker(Source.model_validate({"path": "x"} | fields), Ask()).make(row.values)
        assert isinstance(said, str)
        assert said.startswith("column 'n': ")


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (
            '{\n  "q": "Hi",\n  "n": {\n    "a": [\n      1\n    ]\n  }\n}\n',
            "a piece of JSON spread over several lines",
        ),
        ('{"q":"Hi"}{"q":"Ho"}\n', "several objects on one line"),
        ('{"q":"Hi"}, {"q":"Ho"}\n', "several objects on one line"),
        ('{"q":"Hi"},\n{"q":"Ho"},\n', "an object followed by a comma"),
        ('{"q":"Hi"}\r{"q":"Ho"}\r', "bare carriage returns"),
        ('[{"q":"Hi"},{"q":"Ho"}]', "an array of objects: make the file's name end with .json"),
    ],
)
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, content: str, form: str) -> None:
    """Of all reasons it is the commonest, and so the one that a refusal of the source tells."""
    (tmp_path / "a.jsonl").write_text(content, newline="")
    reasons = Counter(row.bad for row in read(tmp_path / "a.jsonl"))
    assert form in (reasons.most_common(1)[0][0] or "")


def test_json_text_sequences_are_read(tmp_path: Path) -> None:
    """With the separator before each object."""
    assert good(tmp_path / "a.jsonl", b'\x1e{"q":"Hi"}\n\x1e{"q":"Ho"}\n') == ["Hi", "Ho"]


@pytest.mark.parametrize(
    "content",
    [
        b'[{"q":"Hi"},{"q":"Ho"}]',
        b' \n[\n  {\n    "q": "Hi"\n  },\n  {"q": "Ho"}\n]\n',
        b'\xef\xbb\xbf[{"q":"Hi"},{"q":"Ho"},]',
        b'{"q":"Hi"}\n{"q":"Ho"}\n',
    ],
)
def test_a_json_file_is_an_array_or_lines(tmp_path: Path, content: bytes) -> None:
    """However it is spread over lines; lines are what most that is called .json on the Hub holds."""
    assert good(tmp_path / "a.json", content) == ["Hi", "Ho"]


def test_a_broken_array_element_is_reported_with_its_line(tmp_path: Path) -> None:
    """Those around it are kept; a file that is cut off ends with a bad row."""
    content = b'[\n{"q": "first]}{[,\\""},\n{"q": wrong},\n\n"text", ,{"q":\n"last"},\n{"q": "cut'
    assert bad(tmp_path / "a.json", content)[-1] == (6 + 1, "the file ends inside its array: it is cut off")
    assert [line for line, _ in bad(tmp_path / "a.json", content)] == [3, 5, 5, 7]
    assert [row.values["q"] for row in read(tmp_path / "a.json") if row.values] == ['first]}{[,"', "last"]


def test_an_oversized_element_is_bad_and_reading_continues_after_it(tmp_path: Path) -> None:
    """Though it is never held."""
    huge = b'{"q": ["' + b'x\\"' * (MAX_ROW_BYTES // 2) + b'"' + b', "y,]}"' * (MAX_ROW_BYTES // 7) + b"]}"
    content = b'[{"q": "a"},\n' + huge + b',\n{"q": "b"}]'
    assert [line for line, _ in bad(tmp_path / "a.json", content)] == [2]
    rows = read(tmp_path / "a.json")
    assert [row.values for row in rows] == [{"q": "a"}, None, {"q": "b"}]
    assert rows[2].at.line == 3
    assert read(tmp_path / "a.json", rows[2].at) == rows[2:]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_a_delimiter_is_found_by_the_wanted_columns(tmp_path: Path, delimiter: str, name: str) -> None:
    """Quoted or not, whatever else is in the header, and from any row on."""
    lines = [["q", "a b,c;d|e\tf"], ['what, or; "who"?', "x"], ["two\nlines\t|", "y"]]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL if name == "a.csv" else csv.QUOTE_MINIMAL).writerows(
        lines
    )
    content = text.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    whole = read(tmp_path / name, columns={"q"})
    assert [row.values for row in whole] == [{"q": 'what, or; "who"?'}, {"q": "two\nlines\t|"}]
    assert read(tmp_path / name, whole[1].at, columns={"q"}) == whole[1:]


def test_a_stated_delimiter_is_the_only_one(tmp_path: Path) -> None:
    """A recipe may give any character; a wanted column that no header has is reported with those that exist."""
    path = tmp_path / "a.csv"
    path.write_text("q~a,b\nhi~1\n")
    source = Source(path=str(path), prompt="q", delimiter="~")
    (file,) = survey(source).files
    assert [row.values for row in read_rows(file, source=source, columns={"q", "a,b"})] == [{"q": "hi", "a,b": "1"}]
    with pytest.raises(SourceError, match=r"'q' is missing from the header, which has 'q~a', 'b'"):
        read(path, columns={"q"})


def test_folders_named_by_value_give_columns(tmp_path: Path) -> None:
    """To every kind of file, unless the file has a column of that name; text, decoded, or null."""
    folder = tmp_path / "lang=de" / "topic=a%2Fb" / "rest=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    given = {"lang": "de", "topic": "a/b", "rest": None}
    for name, make in FORMATS.items():
        (folder / name).write_bytes(make([{"q": "hi", "id": "1"}]))
        wanted = {"q", "lang", "topic", "rest"}
        (row,) = read(folder / name, columns=wanted)
        assert row.values is not None
        assert {name: row.values[name] for name in wanted} == {"q": "hi"} | given
    pq.write_table(pa.table({"q": ["hi"], "lang": ["fr"]}), folder / "own.parquet")
    assert [row.values for row in read(folder / "own.parquet", columns={"q", "lang"})] == [
        given | {"q": "hi", "lang": "fr"}
    ]


def test_a_dotted_name_is_a_column_s_or_a_path_into_one(tmp_path: Path) -> None:
    """A column of that very name is read once and alone, even if a struct has such a field too."""
    table = pa.table({"m.q": ["flat"], "m.tags": [["a", "b"]], "m": [{"q": "nested", "other": "x"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        (row,) = read(tmp_path / name, columns={"m.q", "m.tags"})
        assert row.values == {"m.q": "flat", "m.tags": ["a", "b"]}
        (row,) = read(tmp_path / name, columns={"m.other"})
        assert row.values is not None
        assert row.values["m"]["other"] == "x"
        with pytest.raises(SourceError, match=r"the column 'm\.nothing' is missing"):
            read(tmp_path / name, columns={"m.nothing"})


def test_values_are_exact_or_the_row_is_bad(tmp_path: Path) -> None:
    """Integers of any size stay integers; of two equal keys the last counts; NUL and line separators are text."""
    lines = [
        b'{"q": 18446744073709551616}',
        b'{"q": -9223372036854775809}',
        b'{"q": [{"a": 123456789012345678901234567890}]}',
        b'{"q": "123456789012345678901234567890"}',
        b'{"q": 0.1234567890123456789012}',
        b'{"q": 1, "q": 2}',
        '{"q": "\u2028\u2029\x85\\u0000\U0001f600"}'.encode(),
    ]
    assert good(tmp_path / "a.jsonl", b"\n".join(lines)) == [
        2**64,
        -(2**63) - 1,
        [{"a": 123456789012345678901234567890}],
        "123456789012345678901234567890",
        0.1234567890123456789012,
        2,
        "\u2028\u2029\x85\0\U0001f600",
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_row_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path, name: str) -> None:
    """And reading continues after it, at the right place."""
    head, before, after = (b"q\n", b'"', b'"') if name == "a.csv" else (b"", b'{"q": "', b'"}')
    fits = before + b"x" * (MAX_ROW_BYTES - len(before + after)) + after
    small = before + b"small" + after
    path = tmp_path / name
    assert [len(str(q)) for q in good(path, head + fits + b"\n" + small + b"\n")] == [
        MAX_ROW_BYTES - len(before + after),
        5,
    ]
    line = 1 + len(head.splitlines())
    ((bad_line, reason),) = bad(path, head + fits[:-2] + b"xxx" + after + b"\n" + small + b"\n" + small)
    assert (bad_line, "larger than 16 MiB" in reason) == (line, True)
    rows = read(path)
    assert [row.values for row in rows] == [None, {"q": "small"}, {"q": "small"}]
    assert read(path, rows[1].at) == rows[1:]


def test_an_oversized_csv_row_ends_with_its_quotes(tmp_path: Path) -> None:
    """Lines inside its quotes are not rows; the one after it is."""
    inside = b"a,b\n" * (MAX_ROW_BYTES // 4 + 10)
    content = b'q,id\n"' + inside + b'end",1\nsmall,2\n'
    assert [line for line, _ in bad(tmp_path / "a.csv", content)] == [2]
    rows = read(tmp_path / "a.csv")
    assert [row.values for row in rows] == [None, {"q": "small", "id": "2"}]
    assert rows[1].at.line == 3 + inside.count(b"\n")


def test_csv_rows_that_do_not_fit_the_header_are_bad(tmp_path: Path) -> None:
    """Too few fields, too many, not UTF-8, a quote in the wrong place, a quote never closed."""
    content = b'q,id\na\nb,2,3\n\xff,4\n"x"y,5\n\n"two\r\nlines",6\r\nlast,7\n"open,8\n'
    reasons = dict(bad(tmp_path / "a.csv", content))
    assert list(reasons) == [2, 3, 4, 5, 10]
    assert reasons[2] == "expected 2 fields as in the header, got 1"
    assert reasons[4] == "not UTF-8"
    values = [row.values for row in read(tmp_path / "a.csv") if row.values]
    assert values == [{"q": "two\r\nlines", "id": "6"}, {"q": "last", "id": "7"}]


def test_a_csv_quote_that_is_never_closed_is_reported_with_what_it_swallows(tmp_path: Path) -> None:
    """A good row may hold newlines within quotes, so nobody can say where this one ends."""
    content = b'q,n\ngood,1\n"open quote,2\n' + b"good,3\n" * 30
    reason = "a quote is never closed, so lines 3 to 33 count as one row"
    assert bad(tmp_path / "a.csv", content) == [(3, reason)]
    assert bad(tmp_path / "a.csv", content[:24]) == [(3, "not valid CSV: unexpected end of data")]


def test_long_csv_fields_are_read(tmp_path: Path) -> None:
    """The parser's own limit of 131,072 characters does not apply."""
    assert good(tmp_path / "a.csv", b"q\n" + b"x" * 1_000_000 + b"\n") == ["x" * 1_000_000]


def test_a_parquet_value_that_is_not_text_is_a_bad_row(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 in a string column; the rows around it are kept."""
    raw = pa.array([b"a", b"\xff", b"c"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"q": texts}), tmp_path / "a.parquet", store_schema=False)
    rows = read(tmp_path / "a.parquet")
    assert [row.values and row.values["q"] for row in rows] == ["a", None, "c"]
    assert rows[1].at.line == 2
    assert "utf-8" in (rows[1].bad or "")


def test_nested_values_are_read_from_parquet(tmp_path: Path) -> None:
    """Lists of structs, nulls, numbers and maps."""
    rows = [
        {"q": [{"role": "user", "content": "a"}, {"role": "user", "content": None}], "n": 1.5, "m": [("k", "v")]},
        {"q": None, "n": None, "m": []},
    ]
    schema = pa.schema(
        {
            "q": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "n": pa.float64(),
            "m": pa.map_(pa.string(), pa.string()),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    assert [row.values for row in read(tmp_path / "a.parquet")] == rows


def test_a_time_that_would_wrap_around_is_a_bad_row(tmp_path: Path) -> None:
    """Spark writes INT96, in which 9999-12-31 is common and which Arrow would read as 1816; others come back exact."""
    end = datetime.datetime(9999, 12, 31)
    good = [datetime.datetime(1700, 1, 1, 0, 0, 0, 1), None, datetime.datetime(2026, 1, 2, 3, 4, 5, 6)] * 900
    times = [*good, end, *good]
    table = pa.table({"q": [f"q{n}" for n in range(len(times))], "t": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True, row_group_size=2000)
    rows = read(tmp_path / "a.parquet")
    assert [row.values and row.values["t"] for row in rows] == [None if each is end else each for each in times]
    assert [row.at.row for row in rows if row.bad] == [len(good)]
    assert "after 2262" in (rows[len(good)].bad or "")
    assert read(tmp_path / "a.parquet", rows[2500].at) == rows[2500:]
    assert all(row.bad is None for row in read(tmp_path / "a.parquet", columns={"q"}))


def test_a_nested_time_does_not_wrap_around_either(tmp_path: Path) -> None:
    """In structs, lists and maps, with nulls on the way."""
    end, now = datetime.datetime(9999, 12, 31), datetime.datetime(2026, 1, 2)
    time = pa.timestamp("us")
    schema = pa.schema(
        [
            ("s", pa.struct([("t", time), ("n", pa.int32())])),
            ("l", pa.list_(pa.struct([("t", time)]))),
            ("m", pa.map_(pa.string(), time)),
        ]
    )
    fine = {"s": {"t": now, "n": 1}, "l": [{"t": now}, None, {"t": None}], "m": [("a", now), ("b", None)]}
    none: dict[str, object] = {"s": None, "l": None, "m": None}
    wrapped: list[dict[str, object]] = [
        {"s": {"t": end, "n": 1}},
        {"l": [{"t": now}, {"t": end}]},
        {"m": [("a", now), ("b", end)]},
    ]
    rows = [none, fine, *(none | each for each in wrapped), {"s": {"t": None, "n": 2}, "l": [], "m": []}, fine]
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    found = read(tmp_path / "a.parquet")
    assert [row.at.row for row in found if row.bad] == [2, 3, 4]
    assert [found[1].values, found[6].values] == [fine, fine]


@pytest.mark.parametrize("repeats", [False, True], ids=["all different", "from a dictionary"])
def test_memory_does_not_grow_with_a_row_group(tmp_path: Path, repeats: bool) -> None:
    """With large values such as images, whether they are written one by one or as a dictionary that repeats them."""
    path, size = tmp_path / "a.parquet", 2**20
    values = [number.to_bytes(size, "big") for number in range(24 if repeats else 60)]
    numbers = pa.array([number % 24 for number in range(1500)], pa.int32())
    column = pa.DictionaryArray.from_arrays(numbers, values) if repeats else pa.array(values)
    table = pa.table({"image": column})
    form: dict[str, Any] = (
        {"dictionary_pagesize_limit": 2**26, "store_schema": False} if repeats else {"use_dictionary": False}
    )
    pq.write_table(table, path, compression="zstd", write_batch_size=2, **form)
    del column, table
    source = Source(path=str(path), prompt="image")
    (file,) = survey(source).files
    before, most = pa.total_allocated_bytes(), 0
    for row in read_rows(file, columns=["image"], start=Position(), source=source):
        assert row.values == {"image": values[row.at.row % len(values)]}
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < (200 if repeats else 20) * size
