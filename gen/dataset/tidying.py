"""Removes leftovers of crashes at a run's end, if their chunks are sealed: journals, and side files of seals that lost.

It removes only what a shard proves to be left over, so it may run at any time, and be interrupted.
"""

import re

from stillhouse.gen.dataset.layout import JOURNAL_PREFIX, ChunkId, sealed_chunks
from stillhouse.gen.dataset.shard_meta import SIDES, read_meta
from stillhouse.gen.store.base import Store

_JOURNAL = re.compile(JOURNAL_PREFIX + r"(\d{3,})-(\d{6,})/.+")
_SIDE = re.compile(r".+/part-(\d{3,})-(\d{6,})-([0-9a-f]+)\.parquet")


def tidy(store: Store) -> None:
    """Remove the journals of sealed chunks, and side files that belong to another seal than the chunk's shard.

    Raises:
        DatasetError: a shard is damaged.
    """
    journals = [stat.key for stat in store.list(JOURNAL_PREFIX)]
    several = _of_several_seals(store)
    sealed = set(sealed_chunks(store)) if journals or several else set()
    for key in journals:
        if (match := _JOURNAL.fullmatch(key)) and ChunkId(int(match[1]), int(match[2])) in sealed:
            store.delete(key)
    for chunk in sorted(several & sealed):
        remove_orphans(store, chunk, seal=read_meta(store, chunk).seal)


def _of_several_seals(store: Store) -> set[ChunkId]:
    """The chunks that have side files of more than one seal."""
    seals: dict[ChunkId, str] = {}
    several = set()
    for kind in SIDES:
        for stat in store.list(ChunkId(0, 0).side_key(kind, "").rpartition("/")[0] + "/"):
            if match := _SIDE.fullmatch(stat.key):
                chunk = ChunkId(int(match[1]), int(match[2]))
                if seals.setdefault(chunk, match[3]) != match[3]:
                    several.add(chunk)
    return several


def remove_orphans(store: Store, chunk: ChunkId, *, seal: str) -> None:
    """Remove the chunk's side files, except those of its shard's seal, which nobody could write again."""
    for kind in SIDES:
        ours = chunk.side_key(kind, seal)
        for stat in list(store.list(chunk.side_key(kind, "").removesuffix(".parquet"))):
            if stat.key != ours:
                store.delete(stat.key)
