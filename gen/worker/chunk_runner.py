"""Takes each open chunk to its seal: has its samples asked and its answers judged, then seals it in a thread."""

import asyncio
from collections.abc import Mapping
from typing import Literal

from stillhouse.gen.coordination.messages import Unreachable
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.gen.worker.gauges import Gauges
from stillhouse.gen.worker.lease_requests import LeaseRequests
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parking import Parking
from stillhouse.gen.worker.parts import Parts

SEALS_AT_ONCE = 4
"""Chunks sealed at a time: fewer than there are threads, because large replies are also read in threads."""
SEALED_SAMPLES = 10_000
"""Samples of the chunks that are sealed at a time, if they are large: a row group is in memory until it is written."""


class ChunkRunner:
    """Runs the chunks that one worker holds."""

    def __init__(
        self,
        parts: Parts,
        *,
        chunk_samples: int,
        leases: LeaseRequests,
        gauges: Gauges,
        parking: Parking,
    ) -> None:
        """`chunk_samples`: number of samples in a full chunk; all other arguments are the worker's."""
        self._worker, self._queue, self._chunks = parts.name, parts.queue, parts.chunks
        self._tasks, self._hands, self._asker, self._checker = parts.tasks, parts.hands, parts.asker, parts.checker
        self._purse, self._gate, self._judges = parts.purse, parts.gate, parts.judges
        self._settlements, self._suspicion, self._voting = parts.settlements, parts.suspicion, parts.voting
        self._counters = parts.counters
        self._leases = leases
        self._gauges = gauges
        self._parking = parking
        self._seals = asyncio.Semaphore(max(1, min(SEALS_AT_ONCE, SEALED_SAMPLES // chunk_samples)))
        self._closing: GiveUp | None = None
        """Why nothing more is asked, and the open chunks are sealed as they are."""
        self._running: dict[asyncio.Task[None], LeasedChunk] = {}
        """One task for each held chunk that is not being sealed yet."""

    @property
    def is_closing(self) -> bool:
        """True if nothing more is asked."""
        return self._closing is not None

    def take(self, held: LeasedChunk) -> None:
        """Run a chunk that was just opened."""
        self._chunks.held[held.open.chunk.id] = held
        self._settlements.count(held, found=True)
        self._running[task := self._tasks.spawn(self._run, held)] = held
        task.add_done_callback(self._running.pop)

    def lose(self, chunk: ChunkId) -> bool:
        """Drop a held chunk that another worker may have now; False if it is not held."""
        if (held := self._chunks.held.pop(chunk, None)) is None:
            return False
        self._purse.lost(chunk)
        held.abandon()
        self._asker.drop(held)
        return True

    def close(self, kind: Literal["budget", "stopped"]) -> None:
        """Ask nothing more; seal every held chunk as it is."""
        if self._closing is not None:
            return
        self._closing = _CLOSED[kind]
        self._purse.close()
        self._gate.close()
        for held in list(self._chunks.held.values()):
            if held.open.left:  # otherwise it is being sealed
                held.open.close(self._closing)
                if self._judges is not None:
                    self._judges.look(held)
                held.due.set()

    def cancel(self) -> None:
        """Leave the chunks as they are, except those that are being sealed or can be."""
        for task, held in self._running.items():
            if held.open.left or held.abandoned:
                task.cancel()
            else:  # its last answer came just now
                held.due.set()

    async def report_sealed(self, chunk: ChunkId, counts: ShardCounts | None) -> None:
        """Tell the queue until it knows; see `Queue.sealed`."""
        counters = self._gauges.read()
        while True:
            try:
                return await self._queue.sealed(self._worker, chunk, counts, counters)
            except Unreachable:
                await asyncio.sleep(1.0)

    async def _run(self, held: LeasedChunk) -> None:
        """Have the chunk's samples asked, and its answers judged, until it can be sealed."""
        if not await self._suspicion.is_cleared():
            return
        if self._closing is not None and held.open.left:
            held.open.close(self._closing)
        while not held.abandoned:
            held.due.clear()
            if held.open.left == 0:
                self._tasks.spawn(self._seal, held)
                return
            self._asker.take(held)
            if self._checker is not None:
                self._checker.take(held)
            if (batches := self._asker.at_provider(held)) is not None and not held.due.is_set():
                await self._parking.park(held, batches)
            else:
                await held.due.wait()

    async def _seal(self, held: LeasedChunk) -> None:
        chunk = held.open.chunk.id
        if not held.open.chunk.retried and self._closing is None:
            await self._suspicion.at_chunk_end(prompts=len(held.open.chunk.prompts))
        if not await self._suspicion.is_cleared():  # it stays in its journal, for the next run to read again
            return
        votes = await self._voting.hold(held) if self._voting is not None else {}
        if votes is None:  # it stays in its journal: the next owner holds the same votes
            return
        async with self._seals:
            counts = await asyncio.to_thread(self._hands.seal, held, votes)
        if counts is not None:
            self._counters.sealed += counts
            self._counters.shards += 1
        self._chunks.held.pop(chunk, None)
        self._asker.drop(held)  # a lane would keep it in memory
        self._chunks.sealed[chunk] = held
        self._leases.skip_wait()
        await self.report_sealed(chunk, counts)
        self._chunks.sealed.pop(chunk, None)
        self._purse.let_go(chunk)


_CLOSED: Mapping[Literal["budget", "stopped"], GiveUp] = {
    "budget": GiveUp("budget", "the budget was used up before it was answered", None),
    "stopped": GiveUp("stopped", "the dataset was finished before it was answered", None),
}
