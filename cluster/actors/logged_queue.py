"""Logs a worker's events between the worker and the queue: a few lines per chunk, none per prompt."""

import time
from dataclasses import dataclass

from stillhouse.cluster.actors.events import event, trouble
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.messages import NoMore, Queue, Renewal, Unreachable, Wait
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked
from stillhouse.gen.dataset.shard_meta import ShardCounts

PROGRESS_EVERY_S = 10.0
"""How often a worker logs its figures."""


@dataclass(slots=True)
class _Seen:
    """A renewal: its time, and the number of requests until then."""

    at: float
    requests: int


class LoggedQueue:
    """A `gen.coordination.messages.Queue` that passes calls on to another and logs what a person may want to look
    up."""

    def __init__(self, queue: Queue, *, teachers: list[str]) -> None:
        self._queue = queue
        self._teacher = ", ".join(teachers)
        self._before = _Seen(time.monotonic(), 0)
        self._troubles: dict[tuple[str, str], int] = {}
        self._reached = True
        self._progress_at = time.monotonic() + PROGRESS_EVERY_S
        self.requests_per_s = 0.0
        """Request rate between the last two renewals."""

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        answer = await self._queue.lease(worker, begun=begun)
        if isinstance(answer, Grant):
            name = "chunk taken over from a dead worker" if answer.died else "chunk leased"
            event(name, worker=worker, chunk=str(answer.chunk), teacher=self._teacher)
        return answer

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        self._note_counters(worker, counters)
        try:
            renewal = await self._queue.renew(worker, held, counters)
        except Unreachable as error:
            if self._reached:
                trouble("queue can't be reached", worker=worker, message=str(error))
            self._reached = False
            raise
        if not self._reached:
            event("queue is reached again", worker=worker)
        self._reached = True
        for chunk in renewal.lost:
            trouble("lease lost", worker=worker, chunk=str(chunk), teacher=self._teacher)
        return renewal

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._queue.sealed(worker, chunk, counts, counters)
        if counts is None:
            event("chunk was sealed by another", worker=worker, chunk=str(chunk), teacher=self._teacher)
            return
        event(
            "chunk sealed",
            worker=worker,
            chunk=str(chunk),
            teacher=self._teacher,
            records=counts.records,
            rejected=sum(counts.rejected.values()),
            failed=sum(counts.failed.values()),
        )

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._queue.give_back(worker, chunk)
        event("chunk given back", worker=worker, chunk=str(chunk), teacher=self._teacher)

    async def park(self, worker: str, chunk: ChunkId, parked: Parked, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._queue.park(worker, chunk, parked, counters)
        event(
            "chunk parked",
            worker=worker,
            chunk=str(chunk),
            batches=[one for each in parked.batches for one in each.ids],
        )

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._queue.looked(worker, running=running, ended=ended)
        for chunk in ended:
            event("batch of a parked chunk ended", worker=worker, chunk=str(chunk))

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._queue.shipped(worker, left_by)
        if left_by:
            event("journals of dead workers shipped", worker=worker, left_by=left_by)

    def _note_counters(self, worker: str, counters: Counters) -> None:
        """Log one line for each kind of trouble that has increased, and the worker's figures from time to time."""
        now = time.monotonic()
        span = max(1.0, now - self._before.at)
        self.requests_per_s = (counters.requests - self._before.requests) / span
        self._before = _Seen(now, counters.requests)
        for teacher, tally in counters.teachers.items():
            for kind, count in tally.troubles.items():
                if more := count - self._troubles.get((teacher, kind), 0):
                    self._troubles[teacher, kind] = count
                    last = counters.last_trouble
                    trouble("teacher trouble", worker=worker, teacher=teacher, kind=kind, count=more, last=last)
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_EVERY_S
            event(
                "progress",
                worker=worker,
                teacher=self._teacher,
                requests_per_s=round(self.requests_per_s, 1),
                in_flight=counters.in_flight,
                open_chunks=counters.open_chunks,
            )
