"""Stored Parquet files, opened so that damage is said in the user's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from stillhouse.gen.dataset.damage import damage_said
from stillhouse.gen.store.readable import ReadableStore


@contextmanager
def open_parquet(store: ReadableStore, key: str) -> Iterator[pq.ParquetFile]:
    """The file, until the block ends. Raises DatasetError as `damage_said`, also where that shows only in the block."""
    with damage_said(store, key), store.open(key) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)
