"""Rows from Arrow record batches; at most MAX_ROW_BYTES become Python objects at once.

A batch can represent far more than it holds (a dictionary's megabyte repeated a million times), so its size is that of
its rows written out. A batch over the limit is halved until it fits or is a single, bad row.
"""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from stillhouse.gen.source.columns import column_of, listed, names_of
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, TOO_LARGE, FormatError, MissingColumn, Position, Row


@dataclass(frozen=True, slots=True)
class Nanoseconds:
    """A point in time, a time of day or a duration that Python's own types, which are limited to microseconds, can't
    hold.
    """

    count: int
    """Nanoseconds since the epoch or midnight, or of the duration."""
    kind: pa.DataType

    def is_like(self, kind: pa.DataType) -> bool:
        """True if a value of the type means the same kind of thing, in any unit."""
        types = pa.types
        if types.is_timestamp(kind) and types.is_timestamp(self.kind):
            return bool(kind.tz == self.kind.tz)
        return bool(kind == self.kind or (types.is_time(kind) and types.is_time(self.kind)))

    def __str__(self) -> str:
        return str(pa.scalar(self.count, self.kind).cast(pa.string()).as_py())


def batch_rows(batch: pa.RecordBatch, *, first: int) -> Iterator[Row]:
    """The batch's rows; `first` is the ordinal of its first row in the file."""
    bad = None
    if sum(map(_written_out_bytes, batch.columns)) > MAX_ROW_BYTES:
        bad = TOO_LARGE
    else:
        try:
            rows = _python_rows(batch)
        except (ValueError, OverflowError, pa.ArrowException) as error:  # not UTF-8; a date beyond the year 9999
            bad = f"a value can't be read: {error}"
    if bad is None:
        for row, values in enumerate(rows, first):
            yield Row(Position(row, 0, row + 1), values, None)
    elif batch.num_rows == 1:
        yield Row(Position(first, 0, first + 1), None, bad)
    else:
        half = batch.num_rows // 2
        yield from batch_rows(batch.slice(0, half), first=first)
        yield from batch_rows(batch.slice(half), first=first + half)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parts of a file with columns that are read."""

    names: list[str]
    """The columns to read, in the schema's order."""
    paths: list[str]
    """What is read, including names inside columns: `data.question` for the column `data`."""


def check_columns(
    schema: pa.Schema, columns: Collection[str] | None, *, elsewhere: Collection[str] = frozenset()
) -> Wanted:
    """The wanted parts of the file; columns that are `elsewhere` may be missing.

    Raises:
        FormatError: one is missing or duplicated.
    """
    paths: dict[str, str] = {}
    for name in schema.names if columns is None else sorted(columns):
        found = column_of(schema, name)
        if found is None and name in elsewhere:
            continue
        if found is None or schema.names.count(found[0]) != 1:
            if found is not None:
                raise FormatError(f"the column {name!r} occurs twice; the file has {listed(schema.names)}")
            raise MissingColumn(name, names=schema.names, likely=names_of(schema))
        paths[name] = found[0]
    return Wanted([name for name in schema.names if name in paths.values()], list(paths))


def _python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows as Python objects, each equal to its value in the file.

    Raises:
        ValueError, OverflowError, pyarrow.ArrowException: Python has no equal value.
    """
    columns: list[pa.Array] = []
    finer: dict[str, list[Nanoseconds | None]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):  # its values would become Python objects one by one, three times as slowly
            column = column.dictionary_decode()
        elif _has_nanoseconds(kind):
            column, finer[name] = _micros(column)
        elif _can_be_cut(kind) and _is_cut_by_python(column):
            raise ValueError(f"{kind} with a value that lies between those that Python has")
        columns.append(column)
    rows: list[dict[str, Any]] = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    for name, values in finer.items():
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return rows


def _has_nanoseconds(kind: pa.DataType) -> bool:
    types = pa.types
    return bool((types.is_timestamp(kind) or types.is_time64(kind) or types.is_duration(kind)) and kind.unit == "ns")


def _micros(column: pa.Array) -> tuple[pa.Array, list[Nanoseconds | None]]:
    """(the column in microseconds, per row the value itself where that would lose nanoseconds, else None)."""
    kind = column.type
    counts = column.cast(pa.int64()).to_pylist()
    whole = pa.time64("us") if pa.types.is_time(kind) else _with_unit(kind, "us")
    values = [Nanoseconds(n, kind) if n is not None and n % 1000 else None for n in counts]
    return column.cast(whole, safe=False), values


def _with_unit(kind: pa.DataType, unit: Literal["us"]) -> pa.DataType:
    return pa.duration(unit) if pa.types.is_duration(kind) else pa.timestamp(unit, kind.tz)


def _is_cut_by_python(column: pa.Array) -> bool:
    """True if a time of day inside a list or struct has nanoseconds, which its Python object would lose."""
    kind = column.type
    types = pa.types
    if types.is_time64(kind) and kind.unit == "ns":
        return any(n is not None and n % 1000 for n in column.cast(pa.int64()).to_pylist())
    if types.is_struct(kind):
        return any(map(_is_cut_by_python, column.flatten()))
    if types.is_map(kind):
        first, stop = column.offsets[0].as_py(), column.offsets[len(column)].as_py()
        return any(_is_cut_by_python(part.slice(first, stop - first)) for part in (column.keys, column.items))
    return _can_be_cut(kind) and _is_cut_by_python(column.flatten())


@functools.lru_cache(maxsize=1024)
def _can_be_cut(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return any(_can_be_cut(field.type) for field in kind)
    if types.is_map(kind):
        return _can_be_cut(kind.key_type) or _can_be_cut(kind.item_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _can_be_cut(kind.value_type)
    return bool(types.is_time64(kind) and kind.unit == "ns")


def _written_out_bytes(array: pa.Array) -> int:
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _written_out_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        if not _is_bytes(kind.value_type):
            return 8 * len(array)
        return pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0
    if pa.types.is_struct(kind):
        return sum(map(_written_out_bytes, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _written_out_bytes(array.flatten())
    return int(array.nbytes)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )
