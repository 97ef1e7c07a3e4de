"""The index: what each chunk consists of, frozen before it is leased.

The sources are read once, in order, by one reader, so the result of exact dedup is the same for any number of workers.
For each source row, a row of the index says which chunk it belongs to and what its fate is. Once its part of the index
exists, a chunk never changes its meaning, whatever happens to the source, the settings or the software.
"""

import io
from typing import TypeAlias

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from stillhouse.gen.dataset.layout import ChunkId, index_key
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import INDEX

End: TypeAlias = tuple[int, int, int] | None
"""How far a file was read: (row, offset, line) of its next row, or None if it was read to its end."""

META = b"stillhouse"

ROW_GROUP_ROWS = 5_000
"""A worker reads only the row groups of its chunk, which by default has as many prompts. A part written by an earlier
version is a single group."""


class PartInfo(BaseModel):
    """The counts of one part of the index, kept in its metadata."""

    model_config = ConfigDict(frozen=True)

    first_chunk: int
    asks: tuple[int, ...]
    """Samples to ask, by chunk; empty in parts of schema version 1."""
    samples: tuple[int, ...] = ()
    """Samples to ask, by chunk; empty in parts of schema version 1."""
    rows: int
    """Source rows. Like `duplicates` and `bad`, it is 0 in generations that don't come from source rows."""
    duplicates: int
    bad: int
    passed_over: int = 0
    """In a generation `more`: samples that it would add to prompts that already have enough accepted answers."""
    last: bool
    """True if the generation ends here."""
    ends: tuple[End, ...]
    """How far each of the plan's files was read."""

    def samples_in(self, chunk: int, *, each: int) -> int:
        """Samples that a chunk asks; `each`: samples of every prompt, if the part does not say."""
        place = chunk - self.first_chunk
        return self.samples[place] if self.samples else self.asks[place] * each


def read_part_info(store: ReadableStore, generation: int, number: int) -> PartInfo | None:
    """One part's counts, or None if it is not written yet."""
    try:
        with store.open(index_key(generation, number)) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return PartInfo.model_validate(orjson.loads(metadata[META]))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise _damaged(store, generation, number) from None


def read_part(store: ReadableStore, generation: int, number: int) -> pa.Table:
    """One part's rows."""
    data = store.get(index_key(generation, number))
    try:
        return _complete(pq.ParquetFile(io.BytesIO(data or b""), page_checksum_verification=True).read())
    except (pa.ArrowException, OSError):
        raise _damaged(store, generation, number) from None


def read_chunk_rows(store: ReadableStore, chunk: ChunkId, *, part: int) -> pa.Table:
    """The rows of one chunk, which are in this part; only the row groups that may hold them are read.

    Raises:
        DatasetError: the part is missing or damaged.
    """
    try:
        with store.open(index_key(chunk.generation, part)) as data:
            file = pq.ParquetFile(data, page_checksum_verification=True)
            groups = [group for group in range(file.num_row_groups) if _may_hold(file.metadata.row_group(group), chunk)]
            table = _complete(file.read_row_groups(groups))
        return table.filter(pc.equal(table["chunk"], chunk.number))
    except (pa.ArrowException, OSError):
        raise _damaged(store, chunk.generation, part) from None


def _may_hold(group: pq.RowGroupMetaData, chunk: ChunkId) -> bool:
    # pyarrow can filter row groups itself, but loads its dataset module for that: 52 MB and a quarter of a second.
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema == "chunk" and (numbers := column.statistics) is not None and numbers.has_min_max:
            return bool(numbers.min <= chunk.number <= numbers.max)
    return True


def _complete(table: pa.Table) -> pa.Table:
    """Parts written before retry generations existed lack their columns."""
    return pa.concat_tables([INDEX.empty_table(), table], promote_options="default")


def read_asked(store: ReadableStore, generation: int, number: int) -> pa.Table:
    """One part's columns `fate`, `key` and `prompt_id`, which are enough to find duplicates."""
    data = store.get(index_key(generation, number))
    try:
        file = pq.ParquetFile(io.BytesIO(data or b""), page_checksum_verification=True)
        return file.read(columns=["fate", "key", "prompt_id"], use_threads=False)
    except (pa.ArrowException, OSError):
        raise _damaged(store, generation, number) from None


def _damaged(store: ReadableStore, generation: int, number: int) -> DatasetError:
    key = index_key(generation, number)
    return DatasetError(f"{store.url}/{key}: is missing or damaged; restore it, or use another dataset.path")
