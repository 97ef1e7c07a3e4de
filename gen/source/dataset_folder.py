"""A Stillhouse dataset as a source: its records are rows, and so are the answers that it rejected, if requested.

Shards are recognised by their names alone. A file of rejected answers counts only if a shard names it, because a crash
may have left others.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.errors import NoFiles, SourceError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import Stat
from stillhouse.schemas.version import META_KEY

OURS = "_stillhouse"
"""The folder that every Stillhouse dataset has."""

ONLY_REJECTED = ("reject_reason", "duplicate_of")
"""Columns of rejected/ that data/ lacks; read as null there."""

_READERS = 16
_SHARD = re.compile(r"(.*)/(?:data|rejected|failed)/part-(\d{3,}-\d{6,})(?:-[0-9a-f]+)?\.parquet")


def dataset_of(url: str) -> str | None:
    """The URL of the dataset that a file belongs to, judged by the file's location; None if it is not in a dataset."""
    found = _SHARD.fullmatch(url)
    return found[1] if found else None


def shard_beside(url: str) -> str | None:
    """The URL of the shard that a file of rejected answers or Failures belongs to, judged by the file's location."""
    found = _SHARD.fullmatch(url)
    return f"{found[1]}/data/part-{found[2]}.parquet" if found else None


def is_dataset(store: Store, prefix: str) -> bool:
    """True if a Stillhouse dataset is at the prefix, which is empty or ends with a slash."""
    return store.stat(f"{prefix}{OURS}/recipe.yaml") is not None


def shards_of(store: Store, prefix: str, *, rejected: bool) -> Iterator[Stat]:
    """The dataset's shards, and the files of rejected answers that they name.

    Raises:
        NoFiles: there is no shard.
        SourceError: one is damaged.
    """
    shards = [stat for stat in store.list(f"{prefix}data/") if dataset_of(f"/{stat.key}") is not None]
    if not shards:
        place = f"{store.url.rstrip('/')}/{prefix}"
        raise NoFiles(
            f"source.path: the dataset at {place} has no shard yet: run its recipe first, or give another path",
            field="source.path",
        )
    yield from shards
    if rejected:
        with ThreadPoolExecutor(_READERS) as pool:
            named = set(pool.map(lambda shard: _rejected_beside(store, prefix, shard), shards))
        yield from (stat for stat in store.list(f"{prefix}rejected/") if stat.key in named)


def _rejected_beside(store: Store, prefix: str, shard: Stat) -> str | None:
    """The key of the rejected answers that the shard's footer names."""
    try:
        with store.open(shard.key) as file:
            metadata = pq.read_metadata(file).metadata or {}
        side = orjson.loads(metadata[META_KEY.encode()])["side"].get("rejected")
        return None if side is None else f"{prefix}{side['key']}"
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(
            f"source.path: {store.url.rstrip('/')}/{shard.key} is damaged: restore it (`stillhouse verify` finds what "
            "else is)",
            field="source.path",
        ) from None
