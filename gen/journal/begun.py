"""Decides whether a dataset has begun: until something was paid for, or may have been, its recipe can change.

It has begun if there is a shard, a journal with more than refusals and failed connections in it, or a run on another
host, whose disk may hold such a journal.
"""

import socket
from collections.abc import Iterable, Iterator

from stillhouse.gen.dataset.batch_intents import count_batches
from stillhouse.gen.dataset.layout import JOURNAL_PREFIX, sealed_chunks
from stillhouse.gen.journal.file import is_dead, leftovers
from stillhouse.gen.journal.frames import NOTES, Frame, Kind, frames
from stillhouse.gen.journal.journals import journal_root
from stillhouse.gen.journal.shipping import is_segment, read_segment
from stillhouse.gen.store.lock import Holder
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.run_settings import RunSettings

_MAYBE_SERVED = {408, 499, 504, 524, 598, 599}
"""Statuses with which a gateway ends its wait for an answer that may be billed."""


def why_begun(store: ReadableStore, settings: RunSettings, *, last: Holder | None) -> str | None:
    """Why the dataset's recipe can't change any more; None if it can. `last`: the run that worked on it last.

    Raises:
        DatasetError: a newer version wrote a journal.
        StoreAway: the store or the disk fails.
    """
    if next(iter(sealed_chunks(store)), None) is not None:
        return "it holds shards"
    if last is not None and last.run and last.host != socket.gethostname():
        return f"it was last run on the host {last.host}, whose disk may hold answers"
    if any(count_batches(store)):
        return "batches were created for it"
    if any(map(_holds_paid, _journals(store, settings))):
        return "its journal holds answers, or requests that may be billed"
    return None


def _journals(store: ReadableStore, settings: RunSettings) -> Iterator[Iterable[Frame] | None]:
    """Each journal's frames; None if its writer is alive."""
    root = journal_root(store, settings)
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        for path in leftovers(folder) if folder.is_dir() else []:
            if not is_dead(path):
                yield None
                continue
            with path.open("rb") as file:
                yield frames(file, origin=str(path))
    for stat in store.list(JOURNAL_PREFIX):
        if is_segment(stat.key):
            yield read_segment(store, stat.key)


def _holds_paid(found: Iterable[Frame] | None) -> bool:
    if found is None:
        return True
    sent: set[tuple[int, float]] = set()
    for frame in found:
        attempt = (frame.ordinal, frame.at)
        if frame.kind is Kind.SENT:
            sent.add(attempt)
        elif frame.kind is Kind.NOT_SENT or _is_refusal(frame):
            sent.discard(attempt)
        elif frame.kind not in NOTES:
            return True
    return bool(sent)


def _is_refusal(frame: Frame) -> bool:
    return frame.kind is Kind.ANSWERED and 400 <= frame.status < 600 and frame.status not in _MAYBE_SERVED
