"""Stored Parquet files, opened so that damage is reported in the user's terms."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.store.readable import ReadableStore


@contextmanager
def open_parquet(store: ReadableStore, key: str) -> Iterator[pq.ParquetFile]:
    """The file, for the length of the block. Raises DatasetError like `reporting_damage`, also if damage shows only in
    the block.
    """
    with reporting_damage(store, key), store.open(key) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)
