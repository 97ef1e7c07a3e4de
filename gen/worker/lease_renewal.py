"""Renews a worker's leases about every three seconds, and acts on the queue's answer.

The answer says which leases are lost, how much money is granted, and whether to stop.
"""

import asyncio
import contextlib

from stillhouse.gen.coordination.leases import RENEW_S
from stillhouse.gen.coordination.messages import Renewal, Unreachable
from stillhouse.gen.worker.chunk_runner import ChunkRunner
from stillhouse.gen.worker.gauges import Gauges
from stillhouse.gen.worker.parking import Parking
from stillhouse.gen.worker.parts import Parts
from stillhouse.gen.worker.sweeping import Sweeping

MONEY_S = 0.1
"""How soon a renewal may follow another because a request waits for money."""


class LeaseRenewal:
    """Renews the leases of one worker."""

    def __init__(
        self,
        parts: Parts,
        *,
        gauges: Gauges,
        runner: ChunkRunner,
        parking: Parking,
        sweeping: Sweeping,
    ) -> None:
        """All arguments are the worker's."""
        self._worker, self._queue, self._chunks, self._clock = parts.name, parts.queue, parts.chunks, parts.clock
        self._tasks, self._fence, self._purse, self._asker = parts.tasks, parts.fence, parts.purse, parts.asker
        self._clients = parts.all_clients
        self._gauges = gauges
        self._runner = runner
        self._parking = parking
        self._sweeping = sweeping

    async def run(self) -> None:
        """Renew over and over."""
        while True:
            asked_at = self._clock.monotonic()
            try:
                renewal = await self._queue.renew(self._worker, self._chunks.all_leased, self._gauges.read())
            except Unreachable:
                await asyncio.sleep(0.5)
                continue
            self._fence.renewed(asked_at=asked_at, good_for_s=renewal.good_for_s)
            self._accept(renewal)
            await self._until_next(RENEW_S if renewal.good_for_s > RENEW_S else 1.0)

    def _accept(self, renewal: Renewal) -> None:
        for chunk in renewal.lost:
            if not self._runner.lose(chunk) and chunk == self._chunks.opening:
                self._chunks.opening = None
        if (allowance := renewal.allowance) is not None:
            self._purse.accept(allowance.granted)
            if allowance.is_over:
                self._runner.close("budget")
        for teacher, host in renewal.streamed:
            for client in self._clients:
                if client.teacher.name == teacher:
                    client.stream_from(host)
        if renewal.stop:
            self._tasks.stop()
        for look in renewal.looks:
            self._parking.look(look)
        if renewal.sweep:
            self._sweeping.begin(renewal.sweep)

    async def _until_next(self, seconds: float) -> None:
        """Wait this long; less while a request waits for money."""
        if self._purse.is_limited and not self._tasks.stopping and not self._runner.is_closing:
            await asyncio.sleep(seconds if self._asker.is_full else MONEY_S)  # it may wait for hours
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds - MONEY_S):
                    await self._purse.empty.wait()
        else:
            await asyncio.sleep(seconds)
