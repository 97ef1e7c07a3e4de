"""Parquet, read page by page: memory grows neither with the file nor with its row groups.

A page is the unit of decompression and may be up to 2 GiB large; the format allows nothing smaller to be read.
"""

from collections.abc import Collection, Iterator
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.source.formats.columnar import Wanted, batch_rows, check_columns
from stillhouse.gen.source.formats.row import FormatError, Position, Row

MAX_COLUMNS = 10_000

_MAX_LIST = 50_000
"""Entries of a list in the footer: columns of the schema, or row groups. Longer lists are refused while the footer is
parsed."""
_MAX_STRING_BYTES = 64 * 2**20
_READ_AHEAD_BYTES = 2**20
_BATCH_ROWS = 1024
_BATCH_BYTES = 4 * 2**20
"""Size of a batch of average rows. Several readers may be open at once; each holds a batch, as Arrow's and as
Python's."""
_DICTIONARY_BYTES = 16 * 2**20
"""Maximum size of a column in a row group that is read as a dictionary, because Arrow keeps all of its values to the
row group's end."""
_UNBOUND_ROWS = 64
"""Rows per batch if a larger column may repeat values from a dictionary: rows may be much larger than average."""


def parquet_schema(file: BinaryIO) -> pa.Schema:
    """The columns' types.

    Raises:
        FormatError: too many columns or row groups.
        pyarrow.ArrowException, OSError: not a Parquet file, cut off, or encrypted.
    """
    return _open(file).schema_arrow


def parquet_metadata(file: BinaryIO) -> dict[bytes, bytes]:
    """The metadata that the file's writer stored, by key.

    Raises:
        FormatError: too many columns or row groups.
        pyarrow.ArrowException, OSError: not a Parquet file, cut off, or encrypted.
    """
    return _open(file).metadata.metadata or {}


def read_parquet(
    file: BinaryIO, *, columns: Collection[str] | None, elsewhere: Collection[str], start: Position
) -> Iterator[Row]:
    """The rows from `start` on, with the wanted columns that the file has; those `elsewhere` may be missing.

    Raises:
        FormatError: too many columns or row groups, or a wanted column is missing or duplicated.
        pyarrow.ArrowException, OSError: not a Parquet file, cut off, corrupt or encrypted.
    """
    footer = _open(file)
    wanted = check_columns(footer.schema_arrow, columns, elsewhere=elsewhere)
    metadata = footer.metadata
    texts = _texts(metadata, wanted.paths)
    readers: dict[tuple[str, ...], pq.ParquetFile] = {}
    row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if row + group.num_rows <= start.row:
            row += group.num_rows
            continue
        wrapped = _WrappedTimes(file, metadata, wanted, group=index)
        small = tuple(path for leaf, path in texts.items() if _size(group, leaf) <= _DICTIONARY_BYTES)
        if (reader := readers.get(small)) is None:
            reader = readers[small] = _open(file, metadata=metadata, as_dictionary=list(small))
        for batch in reader.iter_batches(
            _batch_rows(group, [leaf for leaf, path in texts.items() if path not in small]),
            row_groups=[index],
            columns=wanted.paths,
            use_threads=False,
            use_pandas_metadata=False,
        ):
            bad = wrapped.rows_of(batch)
            skipped = min(max(start.row - row, 0), batch.num_rows)
            if skipped < batch.num_rows:
                # `a.b` may be a column's own name and the path of a field in another: then both were read.
                rows = batch_rows(batch.select(wanted.names).slice(skipped), first=row + skipped)
                yield from (Row(each.at, None, _BEYOND) if each.at.row - row in bad else each for each in rows)
            row += batch.num_rows


_BEYOND = (
    "a time before 1677 or after 2262, which its type (INT96, in nanoseconds) can't hold: write it in microseconds"
)


class _WrappedTimes:
    """The rows of a row group with a time that Arrow wraps around: 9999-12-31 in INT96, as Spark writes it, becomes
    1816.
    """

    def __init__(self, file: BinaryIO, metadata: pq.FileMetaData, wanted: Wanted, *, group: int) -> None:
        leaves = (metadata.schema.column(index) for index in range(metadata.num_columns))
        times = tuple(f"{leaf.path}." for leaf in leaves if leaf.physical_type == "INT96")
        self._names = [name for name in wanted.names if any(path.startswith(f"{name}.") for path in times)]
        self._left: pa.Table | None = None
        if self._names:
            micros = _open(file, metadata=metadata, int96_as="us")
            self._batches = micros.iter_batches(1024, row_groups=[group], columns=self._names, use_threads=False)

    def rows_of(self, batch: pa.RecordBatch) -> set[int]:
        """Their numbers in the group's next batch."""
        found: set[int] = set()
        if not self._names:
            return found
        micros = self._next(batch.num_rows)
        for name in self._names:
            found |= _differing(batch[name], micros[name].combine_chunks())
        return found

    def _next(self, count: int) -> pa.Table:
        while self._left is None or self._left.num_rows < count:
            more = pa.Table.from_batches([next(self._batches)])
            self._left = more if self._left is None else pa.concat_tables([self._left, more])
        taken, self._left = self._left.slice(0, count), self._left.slice(count)
        return taken


def _differing(nanos: pa.Array, micros: pa.Array) -> set[int]:
    """The rows with times, at any depth, that differ between the two units."""
    kind = nanos.type
    if pa.types.is_timestamp(kind):
        pairs = zip(*(pc.cast(each, pa.int64()).to_pylist() for each in (nanos, micros)), strict=True)
        return {row for row, (ns, us) in enumerate(pairs) if ns is not None and us is not None and ns // 1000 != us}
    if pa.types.is_struct(kind):
        fields = range(kind.num_fields)
        return set().union(*(_differing(*(pc.struct_field(each, [n]) for each in (nanos, micros))) for n in fields))
    if pa.types.is_map(kind):
        return _differing(_as_list(nanos), _as_list(micros))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parents = pc.list_parent_indices(nanos).to_pylist()
        return {parents[row] for row in _differing(nanos.flatten(), micros.flatten())}
    return set()


def _as_list(entries: pa.MapArray) -> pa.ListArray:
    pairs = pa.StructArray.from_arrays([entries.keys, entries.items], names=["key", "value"])
    return pa.ListArray.from_arrays(entries.offsets, pairs)


def _open(
    file: BinaryIO,
    *,
    metadata: pq.FileMetaData | None = None,
    as_dictionary: list[str] | None = None,
    int96_as: Literal["us"] | None = None,
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
            coerce_int96_timestamp_unit=int96_as,
        )
    except OSError as error:
        if "Exceeded size limit" in str(error):
            raise FormatError(
                f"its footer has more than {_MAX_LIST:,} columns or row groups: write it with fewer"
            ) from error
        raise
    if found.metadata.num_columns > MAX_COLUMNS:
        raise FormatError(
            f"it has {found.metadata.num_columns:,} columns, expected at most {MAX_COLUMNS:,}: write a file with "
            "only the wanted ones"
        )
    return found


def _texts(metadata: pq.FileMetaData, names: list[str]) -> dict[int, str]:
    """The leaves that may be read as dictionaries, which hold a repeated text once: their numbers and paths.

    Leaves in maps are left out, because Arrow can't flatten maps.
    """
    leaves = ((index, metadata.schema.column(index)) for index in range(metadata.num_columns))
    prefixes = tuple(f"{name}." for name in names)
    return {
        index: leaf.path
        for index, leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY"
        and leaf.logical_type.type in ("STRING", "NONE")
        and f"{leaf.path}.".startswith(prefixes)
        and ".key_value." not in leaf.path
    }


def _size(group: pq.RowGroupMetaData, leaf: int) -> int:
    return int(group.column(leaf).total_uncompressed_size)


def _batch_rows(group: pq.RowGroupMetaData, written_out: list[int]) -> int:
    """Rows per batch. `written_out`: leaves of texts that are not read as dictionaries."""
    average = max(1, group.total_byte_size // max(1, group.num_rows))
    repeats = any(group.column(leaf).has_dictionary_page for leaf in written_out)
    return max(1, min(_UNBOUND_ROWS if repeats else _BATCH_ROWS, _BATCH_BYTES // int(average)))
