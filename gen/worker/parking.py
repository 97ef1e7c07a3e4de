"""Parking: a chunk whose open samples are all in batches goes back to the queue, so no worker holds it meanwhile.

The queue decides which of the parked chunks a worker looks at, and when.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from stillhouse.gen.coordination.messages import Unreachable
from stillhouse.gen.coordination.parking import Look
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch, Parked
from stillhouse.gen.worker.gauges import Gauges
from stillhouse.gen.worker.lease_requests import LeaseRequests
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parts import Parts


class Parking:
    """Parks one worker's chunks, and looks at parked chunks of any worker."""

    def __init__(self, parts: Parts, *, gauges: Gauges, leases: LeaseRequests) -> None:
        """`leases`: asked again when there may be a chunk to lease; all arguments are the worker's."""
        self._name, self._queue, self._chunks = parts.name, parts.queue, parts.chunks
        self._tasks, self._hands, self._asker, self._purse = parts.tasks, parts.hands, parts.asker, parts.purse
        self._gauges = gauges
        self._leases = leases
        self._looks: set[asyncio.Task[None]] = set()

    async def park(self, held: LeasedChunk, batches: Sequence[OpenBatch]) -> None:
        """Give the chunk back, because everything open in it is in batches."""
        chunk, opened = held.open.chunk.id, self._gauges.opened(held)
        held.abandoned = True  # nothing is done for it from here on
        parked = await asyncio.to_thread(self._hands.park, held, batches)
        if self._chunks.held.get(chunk) is held:  # otherwise the lease was lost meanwhile
            del self._chunks.held[chunk]
            if opened is not None:
                self._chunks.parked[chunk] = opened
            await self._report(chunk, parked)
            self._chunks.parked.pop(chunk, None)
            self._purse.let_go(chunk)
        self._asker.drop(held)
        self._leases.skip_wait()

    async def _report(self, chunk: ChunkId, parked: Parked) -> None:
        while True:
            counters = self._gauges.read()
            try:
                return await self._queue.park(self._name, chunk, parked, counters)
            except Unreachable:
                if not self._purse.is_limited:  # its lease expires, and its next owner parks it again
                    return None
                await asyncio.sleep(1.0)

    def look(self, look: Look) -> None:
        """Look at the batches of a parked chunk, in the background."""
        task = self._tasks.spawn(self._look, look)
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, look: Look) -> None:
        """Look at its batches in turn, until one has ended."""
        running, ended = [look.chunk], list[ChunkId]()
        for batch in look.batches:
            if not await self._asker.is_running(batch):
                running, ended = [], [look.chunk]
                break
        with contextlib.suppress(Unreachable):  # then it is looked at again
            await self._queue.looked(self._name, running=running, ended=ended)
        if ended:
            self._leases.skip_wait()

    def cancel(self) -> None:
        """Look no further."""
        for task in self._looks:
            task.cancel()
