"""The dataset's records as one Arrow table, read through its store: no path, credentials or bucket to find again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.layout import sealed_chunks
from stillhouse.gen.dataset.plans import read_plans
from stillhouse.gen.errors import UsageError
from stillhouse.gen.source.columns import instead
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.report.files import open_parquet
from stillhouse.schemas.arrow import SCHEMA_VERSION, columns_of

_READERS = 8


def read_records(store: ReadableStore, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All records in data/, shard by shard, in memory; with `columns` only these, as in Parquet much less to read.

    Raises:
        UsageError: there is no such column.
        DatasetError: a shard is missing or damaged.
    """
    schema = _schema(store)
    for name in columns or ():
        if name not in schema.names:
            raise UsageError(f"there is no column {name!r} in the records{instead(name, schema.names)}")
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    keys = [chunk.data_key for chunk in sealed_chunks(store)]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda key: _shard(store, key, wanted.names), keys))
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def _shard(store: ReadableStore, key: str, columns: Sequence[str]) -> pa.Table:
    with open_parquet(store, key) as file:
        return file.read(columns=list(columns)).select(list(columns)).replace_schema_metadata(None)


def _schema(store: ReadableStore) -> pa.Schema:
    """The columns of data/, which every shard has."""
    bound = read_binding(store)
    first = next(iter(read_plans(store)), None)
    kept = [] if first is None else first.kept_fields
    return columns_of(SCHEMA_VERSION if bound is None else bound.version).with_kept(kept).data
