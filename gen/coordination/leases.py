"""Who may work on which chunk: a chunk is pending, leased to one worker, or sealed.

A lease not renewed for `TERM_S` is given on; a worker stops sending after a third of that, so that two never ask the
same. None of this carries correctness (the conditional write of the shard does): it keeps anything from being asked
twice.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.gen.dataset.layout import ChunkId

RENEW_S = 3.0
"""How often a worker renews."""
FENCE_S = 10.0
"""A worker that has not renewed for so long stops sending."""
TERM_S = 30.0
"""A lease not renewed for so long is given on."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A chunk leased to the worker that asked."""

    chunk: ChunkId
    died: bool = False
    """The last owner's process died alone while it held the chunk."""
    had_owners: bool = field(default=False, compare=False)
    """Somebody may have held it before, and left side files of a seal that did not come to its end."""
    close: Literal["budget", "stopped"] | None = None
    """Ask nothing more of the chunk: what it lacks becomes Failures of this kind."""


@dataclass(slots=True)
class _Lease:
    worker: str
    until: float


class Leases:
    """The chunks of one generation that are not sealed."""

    def __init__(self) -> None:
        self._pending: set[ChunkId] = set()
        self._order: list[ChunkId] = []
        """A heap of what is pending, and perhaps of what no longer is."""
        self._not_before: dict[ChunkId, float] = {}
        self._leases: dict[ChunkId, _Lease] = {}
        self._died: set[ChunkId] = set()
        self._granted: set[ChunkId] = set()

    def add(self, chunk: ChunkId) -> None:
        """A chunk to be worked on."""
        self._pending.add(chunk)
        heapq.heappush(self._order, chunk)

    def adopt(self, worker: str, chunk: ChunkId, *, now: float) -> None:
        """Keep a lease that a queue before us granted, as its holder says."""
        if chunk in self._pending:
            self._pending.remove(chunk)
            self._leases[chunk] = _Lease(worker, now + TERM_S)

    def grant(
        self, worker: str, *, now: float, may_lease: Callable[[ChunkId], bool] = lambda chunk: True
    ) -> Grant | None:
        """Lease the first pending chunk that may be worked on now, of those that `may_lease` allows."""
        self._expire(now)
        held_back = []
        grant = None
        while self._order and grant is None:
            chunk = heapq.heappop(self._order)
            if chunk not in self._pending:
                continue
            if self._not_before.get(chunk, now) > now or not may_lease(chunk):
                held_back.append(chunk)
                continue
            self._pending.remove(chunk)
            self._leases[chunk] = _Lease(worker, now + TERM_S)
            self._not_before.pop(chunk, None)
            grant = Grant(chunk, died=chunk in self._died, had_owners=chunk in self._granted)
            self._granted.add(chunk)
            self._died.discard(chunk)
        for chunk in held_back:
            heapq.heappush(self._order, chunk)
        return grant

    def renew(self, worker: str, held: list[ChunkId], *, now: float) -> list[ChunkId]:
        """Renew the worker's leases; returns those of `held` that are no longer its own."""
        lost = []
        for chunk in held:
            lease = self._leases.get(chunk)
            if lease is None or lease.worker != worker:
                lost.append(chunk)
            else:
                lease.until = now + TERM_S
        return lost

    def give_back(self, worker: str, chunk: ChunkId) -> None:
        """The worker will not finish the chunk."""
        lease = self._leases.get(chunk)
        if lease is not None and lease.worker == worker:
            del self._leases[chunk]
            self.add(chunk)

    def died(self, worker: str, *, not_before: float) -> list[ChunkId]:
        """The worker's process is gone: its chunks wait until `not_before` (its journals may have to be shipped)."""
        chunks = [chunk for chunk, lease in self._leases.items() if lease.worker == worker]
        for chunk in chunks:
            del self._leases[chunk]
            self._not_before[chunk] = not_before
            self._died.add(chunk)
            self.add(chunk)
        return chunks

    def shipped(self, chunks: list[ChunkId]) -> None:
        """What a dead worker left of these chunks is in the store: they need not wait."""
        for chunk in chunks:
            self._not_before.pop(chunk, None)

    def sealed(self, chunk: ChunkId) -> None:
        """The chunk's shard exists."""
        self._granted.discard(chunk)
        self._leases.pop(chunk, None)
        self._pending.discard(chunk)

    @property
    def open(self) -> int:
        """Chunks not sealed."""
        return len(self._pending) + len(self._leases)

    def _expire(self, now: float) -> None:
        for chunk, lease in list(self._leases.items()):
            if lease.until <= now:
                del self._leases[chunk]
                self.add(chunk)
