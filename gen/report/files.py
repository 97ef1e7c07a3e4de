"""Stored Parquet files, opened so that damage is said in the user's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from gen.errors import DatasetError
from gen.store import Store


@contextmanager
def damage_said(store: Store, key: str) -> Iterator[None]:
    """Have what goes wrong with a stored file's content said.

    Raises:
        DatasetError: it is missing, damaged, or holds what no run writes.
    """
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged ({type(error).__name__}); "
            "`stillhouse verify` says what can be done"
        ) from None


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """The file, until the block ends. Raises DatasetError as `damage_said`, also where that shows only in the block."""
    with damage_said(store, key), store.open(key) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)
