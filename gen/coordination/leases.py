"""Who may work on which chunk: a chunk is pending, leased to one worker, parked, or sealed.

A lease that is not renewed for `TERM_S` goes to another worker. A worker stops sending after a third of that, so two
workers never ask the same. Correctness does not depend on this (it rests on the conditional write of the shard); leases
keep anything from being asked twice.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.gen.coordination.parking import Look, ParkedChunks, pause_s
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked

RENEW_S = 3.0
"""How often a worker renews."""
FENCE_S = 10.0
"""A worker that has not renewed for this long stops sending."""
TERM_S = 30.0
"""A lease not renewed for this long goes to another worker."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A chunk leased to the worker that asked."""

    chunk: ChunkId
    died: bool = False
    """The last owner's process died while it held the chunk, and no other process did."""
    had_owners: bool = field(default=False, compare=False)
    """Somebody may have held it before, and left side files of an unfinished seal."""
    close: Literal["budget", "stopped"] | None = None
    """Ask nothing more of the chunk: its unanswered samples become Failures of this kind."""


@dataclass(slots=True)
class _Lease:
    worker: str
    until: float


class Leases:
    """The chunks of one generation that are not sealed."""

    def __init__(self) -> None:
        self._pending: set[ChunkId] = set()
        self._order: list[tuple[bool, ChunkId]] = []
        """A heap of pending chunks, and of some that no longer are; chunks that were begun come first."""
        self._not_before: dict[ChunkId, float] = {}
        self._leases: dict[ChunkId, _Lease] = {}
        self._died: set[ChunkId] = set()
        self._granted: set[ChunkId] = set()
        """Chunks that were begun."""
        self._settled: dict[ChunkId, int] = {}
        """Settled samples of chunks that were parked, and were not leased since."""
        self.parked = ParkedChunks()

    def add(self, chunk: ChunkId) -> None:
        """Add a chunk that needs work."""
        self._pending.add(chunk)
        heapq.heappush(self._order, (chunk not in self._granted, chunk))

    def begun(self, chunks: Iterable[ChunkId]) -> None:
        """Others worked on these chunks before, in earlier runs."""
        self._granted.update(chunks)

    def adopt(self, worker: str, chunk: ChunkId, *, now: float) -> None:
        """Restore a lease that an earlier queue granted, as its holder reports it."""
        if chunk in self.parked and not self.parked.is_known(chunk):  # it was leased again after it was parked
            self.parked.remove(chunk)
            self._pending.add(chunk)
        if chunk in self._pending:
            self._pending.remove(chunk)
            self._settled.pop(chunk, None)
            self._granted.add(chunk)
            self._leases[chunk] = _Lease(worker, now + TERM_S)

    def grant(
        self,
        worker: str,
        *,
        now: float,
        begun: bool = False,
        may_lease: Callable[[ChunkId], bool] = lambda chunk: True,
    ) -> Grant | None:
        """Lease the first pending chunk that may be worked on now, of those that `may_lease` allows.

        `begun`: only a chunk that somebody worked on before; such chunks come first anyway.
        """
        self._expire(now)
        held_back = []
        grant = None
        while self._order and grant is None:
            entry = heapq.heappop(self._order)
            chunk = entry[1]
            if chunk not in self._pending:
                continue
            if begun and chunk not in self._granted:
                held_back.append(entry)
                break
            if self._not_before.get(chunk, now) > now or not may_lease(chunk):
                held_back.append(entry)
                continue
            self._pending.remove(chunk)
            self._leases[chunk] = _Lease(worker, now + TERM_S)
            self._not_before.pop(chunk, None)
            self._settled.pop(chunk, None)  # its owner counts them from here on
            grant = Grant(chunk, died=chunk in self._died, had_owners=chunk in self._granted)
            self._granted.add(chunk)
            self._died.discard(chunk)
        for entry in held_back:
            heapq.heappush(self._order, entry)
        return grant

    def renew(self, worker: str, held: list[ChunkId], *, now: float) -> list[ChunkId]:
        """Renew the worker's leases; returns the chunks in `held` that it no longer has a lease on."""
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

    def park(self, worker: str, chunk: ChunkId, parked: Parked, *, now: float, utc: float) -> None:
        """The worker gives the chunk back: everything open in it is in these batches."""
        self._expire(now)
        lease = self._leases.get(chunk)
        if lease is not None and lease.worker == worker:
            del self._leases[chunk]
            self._settled[chunk] = parked.settled
            self.parked.add(chunk, parked, due=now + pause_s(parked.batches, utc=utc), is_known=True)

    def found_parked(self, chunk: ChunkId, parked: Parked, *, due: float) -> None:
        """The store shows that a chunk is parked."""
        self._granted.add(chunk)
        self._settled[chunk] = parked.settled
        self.parked.add(chunk, parked, due=due, is_known=False)

    def looks(self, *, now: float) -> list[Look]:
        """The parked chunks whose batches are due for a look."""
        return self.parked.take(now=now)

    def batch_ended(self, chunk: ChunkId) -> None:
        """One of a parked chunk's batches has ended: somebody must work on it."""
        if self.parked.remove(chunk):
            self.add(chunk)

    def died(self, worker: str, *, not_before: float) -> list[ChunkId]:
        """The worker's process is gone: its chunks wait until `not_before`, because its journals may have to be
        shipped.
        """
        chunks = [chunk for chunk, lease in self._leases.items() if lease.worker == worker]
        for chunk in chunks:
            del self._leases[chunk]
            self._not_before[chunk] = not_before
            self._died.add(chunk)
            self.add(chunk)
        return chunks

    def shipped(self, chunks: list[ChunkId]) -> None:
        """A dead worker's journals of these chunks are in the store, so the chunks need not wait."""
        for chunk in chunks:
            self._not_before.pop(chunk, None)

    def sealed(self, chunk: ChunkId) -> None:
        """The chunk's shard exists."""
        self._granted.discard(chunk)
        self._leases.pop(chunk, None)
        self._pending.discard(chunk)
        self._settled.pop(chunk, None)
        self.parked.remove(chunk)

    @property
    def settled(self) -> int:
        """Settled samples of parked chunks that no worker holds."""
        return sum(self._settled.values())

    @property
    def pending(self) -> int:
        """Chunks that may be leased."""
        return len(self._pending)

    @property
    def leased(self) -> int:
        """Chunks held by workers."""
        return len(self._leases)

    @property
    def all_parked(self) -> bool:
        """True if there is nothing to lease before a batch ends."""
        return not self._pending and not self._leases and len(self.parked) > 0

    @property
    def open(self) -> int:
        """Chunks not sealed."""
        return len(self._pending) + len(self._leases) + len(self.parked)

    def _expire(self, now: float) -> None:
        for chunk, lease in list(self._leases.items()):
            if lease.until <= now:
                del self._leases[chunk]
                self.add(chunk)
