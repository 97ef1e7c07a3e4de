"""Stored Parquet files, opened so that damage is said in the user's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from gen.errors import DatasetError
from gen.store import Store


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """The file, until the block ends.

    Raises:
        DatasetError: it is missing or damaged; also where that shows only while the block reads it.
    """
    try:
        with store.open(key) as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged ({type(error).__name__}); "
            "`stillhouse verify` says what can be done"
        ) from None
