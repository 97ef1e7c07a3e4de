"""The dataset's records as one Arrow table, read through its store, with the store's path, credentials and bucket."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import UsageError
from stillhouse.gen.source.columns import instead
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.version import SCHEMA_VERSION

_READERS = 8


def read_records(dataset: DatasetReader, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All records in data/, shard by shard, in memory; `columns`: read only these, which in Parquet is much less.

    Raises:
        UsageError: there is no such column.
        DatasetError: a shard is missing or damaged.
    """
    schema = _schema(dataset)
    for name in columns or ():
        if name not in schema.names:
            raise UsageError(f"there is no column {name!r} in the records{instead(name, schema.names)}")
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    keys = [chunk.data_key for chunk in dataset.shards]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda key: _shard(dataset.store, key, wanted.names), keys))
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def _shard(store: ReadableStore, key: str, columns: Sequence[str]) -> pa.Table:
    with open_parquet(store, key) as file:
        return file.read(columns=list(columns)).select(list(columns)).replace_schema_metadata(None)


def _schema(dataset: DatasetReader) -> pa.Schema:
    """The columns of data/, which every shard has; before the first shard, those that it would have."""
    for chunk in dataset.shards[:1]:
        with open_parquet(dataset.store, chunk.data_key) as file:
            return file.schema_arrow
    bound = read_binding(dataset.store)
    columns = columns_of(SCHEMA_VERSION, {}) if bound is None else bound.columns
    return columns.with_kept(dataset.kept).data
