"""The feeder: leases and opens chunks while there is room for them, so that the teachers never run out of samples."""

import asyncio
import contextlib

from stillhouse.gen.coordination.leases import RENEW_S, TERM_S, Grant
from stillhouse.gen.coordination.messages import NoMore, Unreachable, Wait
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.worker.chunk_runner import ChunkRunner
from stillhouse.gen.worker.lease_requests import LeaseRequests
from stillhouse.gen.worker.parts import Parts

HELD_BYTES = 256 * 2**20
"""Under `ask.accept`: no further chunk is leased while the held chunks take this much memory."""
BATCHED_BYTES = 16 * 2**20
"""The limit if all teachers are asked in batches: a chunk is held only while its batch is created or collected, so
two large ones are enough."""


class Feeder:
    """Opens one worker's chunks."""

    def __init__(
        self,
        parts: Parts,
        *,
        chunk_samples: int,
        in_rounds: bool,
        leases: LeaseRequests,
        runner: ChunkRunner,
    ) -> None:
        """Args:
        parts: the worker's.
        chunk_samples: number of samples in a full chunk.
        in_rounds: True under `ask.accept`.
        leases: asks the queue for chunks.
        runner: runs the opened chunks.
        """
        self._worker, self._queue, self._chunks, self._clock = parts.name, parts.queue, parts.chunks, parts.clock
        self._tasks, self._hands, self._asker, self._purse = parts.tasks, parts.hands, parts.asker, parts.purse
        self._chunk_samples = chunk_samples
        self._in_rounds = in_rounds
        self._leases = leases
        self._runner = runner

    async def run(self) -> None:
        """Open chunks until there are no more, and all of them are sealed or given back; or until the worker stops."""
        no_more = False
        while not self._tasks.stopping and not (no_more and not self._chunks.held):
            self._tasks.changed.clear()
            pause_s = RENEW_S
            hungry = self._is_hungry()
            if not no_more and (hungry or self._may_collect()):
                match await self._leases.request(begun=not hungry):
                    case Grant() as grant:
                        await self._open(grant)
                        continue
                    case Wait(seconds):
                        pause_s = seconds
                    case NoMore():
                        no_more = True
                        continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # wait_for loses a cancellation that comes with the event
                    await self._tasks.changed.wait()

    def _is_hungry(self) -> bool:
        """True if more samples are needed, and there is room for them."""
        return (self._asker.runs_dry or self._purse.empty.is_set()) and self._has_room()

    def _may_collect(self) -> bool:
        """True if a chunk waits until a batch of another chunk is collected, and there is memory for that chunk."""
        if not self._asker.is_full:
            return False
        waits = self._asker.waits_for_room
        return sum(held.memory_bytes for held in self._chunks.held.values() if not waits(held)) < BATCHED_BYTES

    def _has_room(self) -> bool:
        """True if it may hold another chunk.

        Under `ask.accept`, a chunk keeps fewer slots busy with every round, so many chunks are needed to keep all of
        them busy; only memory bounds their number. The same applies while there is no money: what dead workers held is
        released only once all of their chunks are recovered.
        """
        held = self._chunks.held.values()
        if self._asker.is_batched and not self._purse.empty.is_set():
            return sum(each.memory_bytes for each in held) < BATCHED_BYTES
        if self._in_rounds or self._purse.empty.is_set():
            return sum(each.memory_bytes for each in held) < HELD_BYTES
        return len(held) < 8 + 4 * self._asker.slots // self._chunk_samples

    async def _open(self, grant: Grant) -> None:
        """Open a chunk; its lease is renewed meanwhile, and may be lost."""
        self._chunks.opening = grant.chunk
        self._runner.lose(grant.chunk)  # if its lease expired and was granted again, unnoticed here
        await self._journals_free(grant.chunk)
        opening = asyncio.create_task(asyncio.to_thread(self._hands.open, grant))
        try:
            held = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(StillhouseError):
                if (late := await opening) is not None:
                    late.open.journal.close()
            raise
        except StillhouseError:  # release it, so that others need not wait for its lease
            self._chunks.opening = None
            with contextlib.suppress(Unreachable):
                await self._queue.give_back(self._worker, grant.chunk)
            raise
        is_mine, self._chunks.opening = self._chunks.opening is not None, None
        if held is None:
            await self._runner.report_sealed(grant.chunk, None)
        elif is_mine:
            if grant.close is not None:
                self._runner.close(grant.close)
            self._runner.take(held)
        else:
            held.abandon()

    async def _journals_free(self, chunk: ChunkId) -> None:
        """Wait until the writers of the chunk's journals on this node are gone, or have had a lease's time to
        notice."""
        until = self._clock.monotonic() + TERM_S
        while self._clock.monotonic() < until and not self._tasks.stopping:
            if self._hands.is_free(chunk):
                return
            await asyncio.sleep(0.25)
