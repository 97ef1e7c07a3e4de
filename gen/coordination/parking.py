"""When to look at the batches of parked chunks. Pure. A look that was handed out but never reported is due again."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch, Parked

LOOK_S = (30.0, 300.0)
"""Time between two looks at a parked chunk: half its batches' age, within these bounds."""
LOOK_TERM_S = 60.0
"""A look that is not reported for this long is handed out again."""
MAX_LOOKS = 30
"""Looks handed out with one renewal: a worker renews every three seconds, and each look is a request."""


@dataclass(frozen=True, slots=True)
class Look:
    """A parked chunk whose batches are to be looked at."""

    chunk: ChunkId
    batches: tuple[OpenBatch, ...]


@dataclass(slots=True)
class _Parked:
    batches: tuple[OpenBatch, ...]
    due: float
    is_known: bool
    """True if its batches were at the provider when this queue's workers last saw them."""


class ParkedChunks:
    """The parked chunks, with the time of their next look."""

    def __init__(self) -> None:
        self._parked: dict[ChunkId, _Parked] = {}
        self._order: list[tuple[float, ChunkId]] = []
        """A heap of looks, some of them outdated."""
        self._unknown = 0

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._parked

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def unknown(self) -> int:
        """Number of chunks that have not been looked at since they were found in the store."""
        return self._unknown

    def is_known(self, chunk: ChunkId) -> bool:
        """True if it is parked, and was parked or looked at in this run."""
        return chunk in self._parked and self._parked[chunk].is_known

    def add(self, chunk: ChunkId, parked: Parked, *, due: float, is_known: bool) -> None:
        """Park it until its batches are looked at."""
        self.remove(chunk)
        self._parked[chunk] = _Parked(parked.batches, due, is_known)
        self._unknown += not is_known
        heapq.heappush(self._order, (due, chunk))

    def remove(self, chunk: ChunkId) -> bool:
        """Remove it; True if it was parked."""
        found = self._parked.pop(chunk, None)
        self._unknown -= found is not None and not found.is_known
        return found is not None

    def batches(self) -> Counter[str]:
        """Number of batches of the parked chunks, by who is asked in them."""
        return Counter(each.who for parked in self._parked.values() for each in parked.batches if each.ids)

    def take(self, *, now: float, most: int = MAX_LOOKS) -> list[Look]:
        """The looks that are due."""
        looks: list[Look] = []
        while len(looks) < most and self._order and self._order[0][0] <= now:
            due, chunk = heapq.heappop(self._order)
            parked = self._parked.get(chunk)
            if parked is not None and parked.due == due:
                looks.append(Look(chunk, parked.batches))
                self._set_due(chunk, parked, now + LOOK_TERM_S)
        return looks

    def running(self, chunk: ChunkId, *, now: float, utc: float) -> None:
        """All its batches are still in progress; `utc`: `now` in seconds since 1970."""
        parked = self._parked.get(chunk)
        if parked is not None:
            self._unknown -= not parked.is_known
            parked.is_known = True
            self._set_due(chunk, parked, now + pause_s(parked.batches, utc=utc))

    def _set_due(self, chunk: ChunkId, parked: _Parked, due: float) -> None:
        parked.due = due
        heapq.heappush(self._order, (due, chunk))


def pause_s(batches: Sequence[OpenBatch], *, utc: float) -> float:
    """How long to wait before the next look."""
    age_s = utc - max((each.at for each in batches), default=utc)
    return min(LOOK_S[1], max(LOOK_S[0], age_s / 2))
