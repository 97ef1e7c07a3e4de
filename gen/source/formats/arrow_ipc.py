"""Arrow IPC, file and stream: memory holds the wanted columns of one record batch, however large it is."""

from collections.abc import Collection, Iterator
from typing import BinaryIO

import pyarrow as pa
from pyarrow import ipc

from stillhouse.gen.source.formats.columnar import batch_rows, check_columns
from stillhouse.gen.source.formats.row import Position, Row

_FILE_MAGIC = b"ARROW1"
_SLICE_ROWS = 1024


def arrow_schema(file: BinaryIO) -> pa.Schema:
    """The columns' types.

    Raises:
        pyarrow.ArrowException, OSError: not an Arrow file.
    """
    return _open(file).schema


def read_arrow(
    file: BinaryIO, *, columns: Collection[str] | None, elsewhere: Collection[str], start: Position
) -> Iterator[Row]:
    """The rows from `start` on, with the wanted columns that the file has; those `elsewhere` may be missing.

    Raises:
        FormatError: a wanted column is missing or duplicated.
        pyarrow.ArrowException, OSError: not an Arrow file, cut off or corrupt.
    """
    schema = arrow_schema(file)
    names = check_columns(schema, columns, elsewhere=elsewhere).names
    row = 0
    for batch in _batches(_open(file, fields=[schema.get_field_index(name) for name in names])):
        skipped = min(max(start.row - row, 0), batch.num_rows)
        if skipped < batch.num_rows:
            # Offsets that point outside a buffer would be followed there.
            batch.validate(full=True)
            for at in range(skipped, batch.num_rows, _SLICE_ROWS):
                yield from batch_rows(batch.slice(at, _SLICE_ROWS), first=row + at)
        row += batch.num_rows


def _open(
    file: BinaryIO, *, fields: list[int] | None = None
) -> ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader:
    file.seek(0)
    is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    file.seek(0)
    options = ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    opened = ipc.open_file if is_file else ipc.open_stream
    return opened(pa.PythonFile(file, mode="r"), options=options)


def _batches(reader: ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, ipc.RecordBatchFileReader):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)
