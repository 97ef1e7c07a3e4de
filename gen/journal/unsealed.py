"""Counts answers that are in journals but not in shards yet: paid for, kept, and used by the next run."""

import io
from collections.abc import Collection, Iterator

from stillhouse.gen.dataset.layout import JOURNAL_PREFIX
from stillhouse.gen.journal.frames import Frame, Kind, frames
from stillhouse.gen.journal.shipping import is_segment, read_segment
from stillhouse.gen.store.readable import ReadableStore

MOST_BYTES = 64 * 2**20
"""Journals larger than this in total are not read: a running cluster may have gigabytes of them."""


def unsealed_answers(store: ReadableStore, *, sealed: Collection[str]) -> int | None:
    """The number of samples with an answer in a journal; None if the journals are too large to read.

    `sealed`: names of chunks to leave out. On S3 this only sees what workers shipped, not what is only on their disks.

    Raises:
        DatasetError: a newer version wrote a journal.
        StoreAway, StoreRefused: as the store does.
    """
    found = [stat for stat in store.list(JOURNAL_PREFIX) if _chunk(stat.key) not in sealed]
    if sum(stat.size for stat in found) > MOST_BYTES:
        return None
    answered = {
        (_chunk(stat.key), frame.ordinal)
        for stat in found
        for frame in _frames(store, stat.key)
        if frame.kind is Kind.ANSWERED and 200 <= frame.status < 300
    }
    return len(answered)


def _chunk(key: str) -> str:
    return key.removeprefix(JOURNAL_PREFIX).partition("/")[0]


def _frames(store: ReadableStore, key: str) -> Iterator[Frame]:
    if is_segment(key):
        return read_segment(store, key)
    data = store.get(key) or b""  # a worker may just have sealed its chunk
    return frames(io.BytesIO(data), origin=f"{store.url}/{key}")
