"""Stored Parquet files, opened so that damage is reported in the user's terms."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from stillhouse.gen.dataset.damage import damage_said
from stillhouse.gen.store.readable import ReadableStore


@contextmanager
def open_parquet(store: ReadableStore, key: str) -> Iterator[pq.ParquetFile]:
    """The file, for the length of the block. Raises DatasetError like `damage_said`, also if damage shows only in the
    block.
    """
    with damage_said(store, key), store.open(key) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)
