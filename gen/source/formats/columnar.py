"""Rows out of Arrow record batches: what becomes Python objects at once is bounded by MAX_ROW_BYTES.

A batch can stand for far more than it holds (a dictionary's megabyte repeated a million times), so its size is that of
its rows written out, and a batch over the limit is halved until it fits or is a single, bad row.
"""

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, TOO_LARGE, FormatError, Position, Row


def batch_rows(batch: pa.RecordBatch, *, first: int) -> Iterator[Row]:
    """The batch's rows; `first` is the ordinal of its first row in the file."""
    bad = None
    if sum(map(_written_out_bytes, batch.columns)) > MAX_ROW_BYTES:
        bad = TOO_LARGE
    else:
        try:
            rows = _written_out(batch).to_pylist()
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


def check_columns(schema: pa.Schema, columns: Collection[str] | None) -> list[str]:
    """The wanted columns in the schema's order.

    Raises:
        FormatError: one is missing or there twice.
    """
    for name in schema.names if columns is None else sorted(columns):
        if schema.names.count(name) != 1:
            there = "there twice" if name in schema.names else "missing"
            names = ", ".join(map(repr, schema.names[:100])) + (", …" if len(schema.names) > 100 else "")
            raise FormatError(f"the column {name!r} is {there}; the file has {names}")
    return [name for name in schema.names if columns is None or name in columns]


def _written_out(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries at the top: their values become Python objects one by one, three times as slowly."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


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
