"""Kept columns over files of several types: every value comes back equal, or is refused before it is asked."""

import datetime
import decimal
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.source.files import SourceFile, kept_fields, read_rows
from stillhouse.gen.source.kept_columns import converter
from stillhouse.gen.source.kept_types import common_type, normal
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.source.survey import survey
from stillhouse.gen.worker.columns import column as stored_column
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.source import Source

LEAVES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    **{
        kind: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for kind, bits in ((pa.int8(), 8), (pa.int16(), 16), (pa.int32(), 32), (pa.int64(), 64))
    },
    **{
        kind: st.integers(0, 2**bits - 1)
        for kind, bits in ((pa.uint8(), 8), (pa.uint16(), 16), (pa.uint32(), 32), (pa.uint64(), 64))
    },
    pa.float16(): st.floats(width=16),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    pa.large_string(): st.text("ab7.", max_size=3),
    pa.string_view(): st.text("ab", max_size=20),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b"]),
    pa.binary(): st.binary(max_size=3),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.decimal128(5, 2): st.decimals(-999, 999, places=2),
    pa.decimal128(20, 5): st.decimals(-(10**14), 10**14, places=5),
    pa.decimal256(50, 0): st.integers(-(10**49), 10**49).map(decimal.Decimal),
    pa.date32(): st.dates(),
    pa.date64(): st.integers(-(10**3), 10**4).map(lambda days: days * 86_400_000),
    pa.time32("s"): st.integers(0, 86_399),
    pa.time64("us"): st.times(),
    pa.time64("ns"): st.integers(0, 86_400 * 10**9 - 1),
    pa.timestamp("s"): st.integers(-(10**9), 10**10),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("ns"): st.integers(-(2**63) + 1, 2**63 - 1),
    pa.timestamp("ns", "UTC"): st.integers(-(10**18), 10**18),
    pa.timestamp("ms", "UTC"): st.integers(-(10**12), 10**13),
    pa.timestamp("us", "Europe/Berlin"): st.integers(-(10**15), 10**15),
    pa.duration("ms"): st.integers(-(10**12), 10**12),
    pa.duration("ns"): st.integers(-(10**18), 10**18),
}


@st.composite
def columns(draw: st.DrawFn, depth: int = 2) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    """A type and what makes its values."""
    shape = draw(st.sampled_from(("leaf", "leaf", "list", "fixed", "large", "struct", "map"))) if depth else "leaf"
    if shape == "leaf":
        # pyarrow makes no valid array of a null struct with a dictionary inside, so there is no file of one either.
        kind = draw(st.sampled_from([kind for kind in LEAVES if depth == 2 or not pa.types.is_dictionary(kind)]))
        return kind, LEAVES[kind]
    if shape == "struct":
        names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
        inner = {name: draw(columns(depth=depth - 1)) for name in names}
        return pa.struct([(name, kind) for name, (kind, _) in inner.items()]), st.fixed_dictionaries(
            {name: st.none() | values for name, (_, values) in inner.items()}
        )
    kind, values = draw(columns(depth=depth - 1))
    if shape == "map":
        return pa.map_(pa.string(), kind), st.lists(st.tuples(st.sampled_from("xyz"), st.none() | values), max_size=2)
    items = st.none() | values
    if shape == "fixed":
        return pa.list_(kind, 2), st.lists(items, min_size=2, max_size=2)
    return (pa.large_list if shape == "large" else pa.list_)(kind), st.lists(items, max_size=3)


def exact(array: pa.Array) -> list[Any]:
    """The values as Python objects that say all of them: times as counts of nanoseconds, absent fields left out."""
    kind = array.type
    types = pa.types
    if types.is_dictionary(kind):
        return exact(array.dictionary_decode())
    if types.is_struct(kind):
        fields = {field.name: exact(array.field(at)) for at, field in enumerate(kind)}
        valid = array.is_valid().to_pylist()
        return [
            {name: values[row] for name, values in fields.items() if values[row] is not None} if there else None
            for row, there in enumerate(valid)
        ]
    if types.is_map(kind):
        entries = zip(exact(array.keys), exact(array.items), strict=True)
        pairs = [list(entry) for entry in entries]
        ends = array.offsets.to_pylist()
        return [pairs[ends[row] : ends[row + 1]] if array[row].is_valid else None for row in range(len(array))]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        out: list[Any] = []
        for row in range(len(array)):
            out.append(exact(array.slice(row, 1).flatten()) if array[row].is_valid else None)
        return out
    if types.is_temporal(kind):
        per = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
        step = 86_400 * 10**9 if types.is_date32(kind) else 10**6 if types.is_date64(kind) else per[kind.unit]
        narrow = types.is_date32(kind) or types.is_time32(kind)
        counts = array.cast(pa.int32()).cast(pa.int64()) if narrow else array.cast(pa.int64())
        return [None if count is None else count * step for count in counts.to_pylist()]
    return list(array.to_pylist())


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to NaN; true is not 1, and text is not bytes."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def write(path: Path, values: pa.Array) -> SourceFile:
    """An Arrow file of these kept values, each with its prompt."""
    table = pa.table({"q": [f"what is {n}?" for n in range(len(values))], "kept": values})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    (file,) = survey(Source(path=str(path), prompt="q")).files
    return file


def all_kept(files: list[SourceFile], source: Source, fields: tuple[pa.Field, ...]) -> list[list[Any] | None]:
    """Each row's kept value as it would be stored, over all files; None if the row is bad."""
    maker = PromptMaker(source, Ask(), kept=fields)
    stored: list[list[Any] | None] = []
    for file in files:
        for row in read_rows(file, source=source, columns=maker.columns):
            made = row.bad if row.values is None else maker.make(row.values)
            if isinstance(made, Prompt):
                array = stored_column(made.kept, fields[0])
                pq.write_table(pa.table({"kept": array}), pa.BufferOutputStream())
                stored.append(exact(array))
            else:
                stored.append(None)
    return stored


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_two_types_keep_every_value_or_refuse_it(data: st.DataObject) -> None:
    """The files are refused by both names, or every row's value comes back equal or is bad; no row is lost."""
    arrays = []
    for _ in range(2):
        kind, values = data.draw(columns())
        arrays.append(pa.array(data.draw(st.lists(st.none() | values, min_size=1, max_size=3)), kind))
    with TemporaryDirectory() as folder:
        files = [write(Path(folder) / name, array) for name, array in zip(("a.arrow", "b.arrow"), arrays, strict=True)]
        source = Source(path=folder, prompt="q", keep=("kept",))
        try:
            fields = kept_fields(files, source=source)
        except SourceError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert all(file.url in refusal for file in files)
            return
        wanted = [value for array in arrays for value in exact(array)]
        stored = all_kept(files, source, fields)
        assert len(stored) == len(wanted)
        for kept, value in zip(stored, wanted, strict=True):
            assert kept is None or same(kept[0], value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_values_of_a_single_type_are_all_kept(data: st.DataObject) -> None:
    """Next to nulls too, as other files of a source have them; only values that Python can't represent are bad."""
    kind, values = data.draw(columns())
    array = pa.array(data.draw(st.lists(st.none() | values, min_size=1, max_size=4)), kind)
    nothing = pa.array([None], pa.null())
    with TemporaryDirectory() as folder:
        files = [write(Path(folder) / "a.arrow", nothing), write(Path(folder) / "b.arrow", array)]
        source = Source(path=folder, prompt="q", keep=("kept",))
        stored = all_kept(files, source, kept_fields(files, source=source))
        for kept, value in zip(stored[1:], exact(array), strict=True):
            beyond_python = _has(kind, lambda each: pa.types.is_temporal(each))
            assert (kept is None and beyond_python) or (kept is not None and same(kept[0], value))


def _has(kind: pa.DataType, is_so: Any) -> bool:
    inner = [kind.field(at).type for at in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return bool(is_so(kind)) or any(_has(each, is_so) for each in inner)


PAIRS = [
    (pa.null(), pa.int8(), pa.int8()),
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.uint32(), pa.int8(), pa.int64()),
    (pa.uint64(), pa.int64(), None),
    (pa.int64(), pa.float64(), None),
    (pa.int16(), pa.float32(), pa.float32()),
    (pa.int32(), pa.float32(), pa.float64()),
    (pa.float16(), pa.float64(), pa.float64()),
    (pa.bool_(), pa.int8(), None),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.string(), pa.binary(), None),
    (pa.string(), pa.int64(), None),
    (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns")),
    (pa.timestamp("us", "UTC"), pa.timestamp("us"), None),
    (pa.date32(), pa.timestamp("us"), None),
    (pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal256(48, 10)),
    (pa.decimal256(76, 0), pa.decimal128(38, 10), None),
    (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.list_(pa.int64())),
    (pa.list_(pa.null()), pa.large_list(pa.string()), pa.large_list(pa.string())),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
    (
        pa.struct([("a", pa.int8())]),
        pa.struct([("b", pa.list_(pa.null())), ("a", pa.int16())]),
        pa.struct([("a", pa.int16()), ("b", pa.list_(pa.null()))]),
    ),
    (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())]), None),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int16()), pa.map_(pa.string(), pa.int16())),
    (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
]


@pytest.mark.parametrize(("one", "other", "common"), PAIRS, ids=lambda kind: str(kind)[:40])
def test_types_are_unified_where_no_value_changes(
    one: pa.DataType, other: pa.DataType, common: pa.DataType | None
) -> None:
    """Whichever comes first."""
    assert common_type(normal(one), normal(other)) == common
    if common is None or not pa.types.is_struct(common):
        assert common_type(normal(other), normal(one)) == common


REFUSED: list[tuple[pa.DataType, Any]] = [
    (pa.int32(), 7.9),
    (pa.int32(), 2**31),
    (pa.int32(), True),
    (pa.uint8(), -1),
    (pa.float32(), 0.1),
    (pa.float32(), 2**24 + 1),
    (pa.date32(), datetime.datetime(2026, 1, 1, 5)),
    (pa.timestamp("s"), datetime.datetime(2026, 1, 1, 0, 0, 0, 5)),
    (pa.timestamp("ns"), datetime.datetime(1500, 1, 1)),
    (pa.timestamp("us", "UTC"), datetime.datetime(2026, 1, 1)),
    (pa.timestamp("us"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
    (pa.time32("ms"), datetime.time(1, 2, 3, 4)),
    (pa.binary(), "text"),
    (pa.binary(2), b"abc"),
    (pa.decimal128(5, 1), decimal.Decimal("1.23")),
    (pa.struct([("a", pa.int8())]), {"a": 1, "b": 2}),
    (pa.struct([pa.field("a", pa.int8(), nullable=False)]), {"a": None}),
    (pa.list_(pa.int8()), [1, 2.5]),
    (pa.list_(pa.int8(), 2), [1]),
    (pa.list_(pa.string()), [1]),
    (pa.list_(pa.int8()), {"a": 1}),
    (pa.map_(pa.string(), pa.int8()), [("a", 300)]),
    (pa.null(), 1),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=str)
def test_a_value_that_would_change_is_refused(kind: pa.DataType, value: Any) -> None:
    """By the column's name; Arrow alone would have cut most of them to fit."""
    with pytest.raises(NoPrompt, match="column 'x'"):
        converter(kind)(value, "column 'x'")
