"""Counts answers that are in journals and not in shards yet: paid for, kept, and used by the next run."""

import io
from collections.abc import Collection, Iterator

from stillhouse.gen.dataset.layout import JOURNAL_PREFIX
from stillhouse.gen.journal.frames import Frame, Kind, frames
from stillhouse.gen.journal.shipping import Unpacked
from stillhouse.gen.store.readable import ReadableStore

MOST_BYTES = 64 * 2**20
"""Journals larger than this in all are not read: a running cluster's open chunks may be gigabytes."""


def unsealed_answers(store: ReadableStore, *, sealed: Collection[str]) -> int | None:
    """Samples with an answer in a journal in the store, whose chunk is not among those `sealed` (as text).

    A dataset on S3 has there what its workers shipped; what only their disks hold is not seen. None if there is too
    much to read.

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
    data = store.get(key) or b""  # a worker may just have sealed its chunk
    return frames(io.BytesIO(data) if store.is_local else Unpacked(data), origin=f"{store.url}/{key}")
