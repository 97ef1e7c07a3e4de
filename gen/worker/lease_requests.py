"""Requests for chunks: a worker asks the queue no more often than the queue says."""

import math

from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.messages import NoMore, Unreachable, Wait
from stillhouse.gen.worker.parts import Parts
from stillhouse.gen.worker.shares import Shares


class LeaseRequests:
    """Asks for one worker's chunks."""

    def __init__(self, parts: Parts, *, shares: Shares) -> None:
        """`shares`: of a worker that gets no chunk, they pass on sooner."""
        self._worker, self._tasks, self._queue, self._clock = parts.name, parts.tasks, parts.queue, parts.clock
        self._shares = shares
        self._next_at = -math.inf
        """When the queue may be asked again; a lane that runs dry may call for a chunk with each sample."""

    async def request(self, *, begun: bool) -> Grant | Wait | NoMore:
        """Ask for a chunk if the queue may be asked now; `begun`: see `Queue.lease`."""
        if (left_s := self._next_at - self._clock.monotonic()) > 0:
            return Wait(left_s)
        try:
            answer = await self._queue.lease(self._worker, begun=begun)
            self._shares.is_last = not isinstance(answer, Grant)
        except Unreachable:
            answer = Wait(1.0)
        if isinstance(answer, Wait):
            self._next_at = self._clock.monotonic() + answer.seconds
        return answer

    def skip_wait(self) -> None:
        """A chunk is done, or may be leased now: ask without waiting any longer."""
        self._next_at = -math.inf
        self._tasks.changed.set()
