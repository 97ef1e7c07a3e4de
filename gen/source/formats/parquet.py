"""Parquet, read page by page: what is held grows neither with the file nor with its row groups.

A page is the unit of decompression and may say that it holds up to 2 GiB; nothing smaller can be had from the format.
"""

from collections.abc import Collection, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.source.formats.columnar import batch_rows, check_columns
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, FormatError, Position, Row

MAX_COLUMNS = 10_000

_MAX_LIST = 50_000
"""Entries of a list in the footer: columns of the schema or row groups. Refused while the footer is parsed."""
_MAX_STRING_BYTES = 64 * 2**20
_READ_AHEAD_BYTES = 2**20
_BATCH_ROWS = 1024


def parquet_schema(file: BinaryIO) -> pa.Schema:
    """The columns' types.

    Raises:
        FormatError: too many columns or row groups.
        pyarrow.ArrowException, OSError: no Parquet file, cut off, or encrypted.
    """
    return _open(file).schema_arrow


def read_parquet(
    file: BinaryIO, *, columns: Collection[str] | None, elsewhere: Collection[str], start: Position
) -> Iterator[Row]:
    """The rows from `start` on, with the wanted columns that the file has; those `elsewhere` may be missing.

    Raises:
        FormatError: too many columns or row groups, or a wanted column is missing or there twice.
        pyarrow.ArrowException, OSError: no Parquet file, cut off, corrupt or encrypted.
    """
    footer = _open(file)
    wanted = check_columns(footer.schema_arrow, columns, elsewhere=elsewhere)
    metadata = footer.metadata
    reader = _open(file, metadata=metadata, as_dictionary=_texts(metadata, wanted.paths))
    row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if row + group.num_rows <= start.row:
            row += group.num_rows
            continue
        for batch in reader.iter_batches(
            _batch_rows(group), row_groups=[index], columns=wanted.paths, use_threads=False, use_pandas_metadata=False
        ):
            skipped = min(max(start.row - row, 0), batch.num_rows)
            if skipped < batch.num_rows:
                # `a.b` may be a column's own name and the path of a field in another: then both came.
                yield from batch_rows(batch.select(wanted.names).slice(skipped), first=row + skipped)
            row += batch.num_rows


def _open(
    file: BinaryIO, *, metadata: pq.FileMetaData | None = None, as_dictionary: list[str] | None = None
) -> pq.ParquetFile:
    try:
        found = pq.ParquetFile(
            pa.PythonFile(file, mode="r"),
            metadata=metadata,
            read_dictionary=as_dictionary,
            buffer_size=_READ_AHEAD_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=_MAX_STRING_BYTES,
            thrift_container_size_limit=_MAX_LIST,
            page_checksum_verification=True,
        )
    except OSError as error:
        if "Exceeded size limit" in str(error):
            raise FormatError(
                f"its footer has more than {_MAX_LIST:,} columns or row groups: write it with fewer"
            ) from error
        raise
    if found.metadata.num_columns > MAX_COLUMNS:
        raise FormatError(
            f"it has {found.metadata.num_columns:,} columns, expected at most {MAX_COLUMNS:,}: "
            "write a file with the wanted ones only"
        )
    return found


def _texts(metadata: pq.FileMetaData, names: list[str]) -> list[str]:
    """The leaves to read as dictionaries, which hold a repeated text once. Not in maps, which Arrow can't flatten."""
    leaves = (metadata.schema.column(index) for index in range(metadata.num_columns))
    prefixes = tuple(f"{name}." for name in names)
    return [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY"
        and leaf.logical_type.type in ("STRING", "NONE")
        and f"{leaf.path}.".startswith(prefixes)
        and ".key_value." not in leaf.path
    ]


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """Rows a batch, so that a batch of average rows stays below the limit of one."""
    average = max(1, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(_BATCH_ROWS, MAX_ROW_BYTES // int(average)))
