"""The worker: leases chunks, has their samples asked, seals them. A leased chunk is sealed in the end, or given back.

`Feeder` opens chunks, `ChunkRunner` takes each to its seal, and `LeaseRenewal` keeps their leases meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.messages import End, LimitLedger, Queue, Unreachable
from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.check_guard import ChecksFail
from stillhouse.gen.worker.checking import Judging
from stillhouse.gen.worker.chunk_runner import ChunkRunner
from stillhouse.gen.worker.feeder import Feeder
from stillhouse.gen.worker.gauges import Gauges
from stillhouse.gen.worker.lease_renewal import LeaseRenewal
from stillhouse.gen.worker.lease_requests import LeaseRequests
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parking import Parking
from stillhouse.gen.worker.parts import Parts
from stillhouse.gen.worker.shares import Shares
from stillhouse.gen.worker.shipments import Shipments, ship_last
from stillhouse.gen.worker.sweeping import Sweeping
from stillhouse.schemas.recipe import Recipe

DRAIN_S = 20.0
"""How long a stopping worker waits for its requests in flight."""
DRAIN_POLL_S = 0.05
"""How often it checks whether they have ended."""


class Worker:
    """One process's share of a run."""

    def __init__(
        self,
        name: str,
        *,
        recipe: Recipe,
        store: Store,
        queue: Queue,
        ledgers: Mapping[str, LimitLedger],
        transport: Transport,
        clock: Clock,
        judging: Judging | None = None,
    ) -> None:
        """`judging`: judges answers by the recipe's checks; by default in separate processes."""
        self.name = name
        parts = Parts.of(
            name, recipe, store=store, queue=queue, ledgers=ledgers, transport=transport, judging=judging, clock=clock
        )
        self._queue, self._clock, self._chunks = queue, clock, parts.chunks
        self._tasks, self._hands, self._purse, self._asker = parts.tasks, parts.hands, parts.purse, parts.asker
        self._accounts, self._suspicion, self._chain = parts.accounts, parts.suspicion, parts.chain
        self._judging, self._checker = parts.judging, parts.checker
        self.counters = parts.counters
        """Totals so far."""
        self._shares = Shares(parts)
        self._shipments = Shipments(parts, every_s=recipe.run.ship_every_s)
        self._sweeping = Sweeping(parts)
        leases = LeaseRequests(parts, shares=self._shares)
        self._gauges = gauges = Gauges(parts, shares=self._shares)
        self._parking = parking = Parking(parts, gauges=gauges, leases=leases)
        samples = max(1, recipe.prompts_per_shard * recipe.samples_per_prompt)
        self._runner = runner = ChunkRunner(parts, chunk_samples=samples, leases=leases, gauges=gauges, parking=parking)
        in_rounds = recipe.ask.accept is not None
        self._feeder = Feeder(parts, chunk_samples=samples, in_rounds=in_rounds, leases=leases, runner=runner)
        self._renewal = LeaseRenewal(parts, gauges=gauges, runner=runner, parking=parking, sweeping=self._sweeping)

    async def run(self) -> End:
        """Work until nothing is left, until it is stopped, or until there is no point in continuing."""
        try:
            async with self._judging or contextlib.nullcontext(), self._tasks:
                background = [self._tasks.spawn(self._renewal.run), self._tasks.spawn(self._shipments.run)]
                background += [self._tasks.spawn(self._shares.renew, key) for key in self._accounts]
                if self._chain is not None:
                    background.append(self._tasks.spawn(self._chain.watch))
                await self._tasks.guarded(self._work)
                if self._tasks.stopping:
                    await self._drain()
                for task in background:
                    task.cancel()
                self._runner.cancel()
                self._parking.cancel()
                self._asker.cancel()
            if self._checker is not None:
                self._checker.close()
            return await self._end()
        except UsageError as error:  # the checks can't run here
            return End.because(error)
        finally:
            for held in self._chunks.held.values():
                held.open.journal.close()  # the next owner must not take it for a live writer's

    def stop(self) -> None:
        """Send nothing new, finish what is in flight, give the rest back."""
        self._tasks.stop()

    async def _work(self) -> None:
        await asyncio.to_thread(self._hands.check_room, under_way_bytes=0)
        await self._sweeping.sweep()
        await self._feeder.run()

    async def _drain(self) -> None:
        """Ship at once, because the grace period may be short; then wait for requests in flight, at most `DRAIN_S`."""
        await asyncio.gather(*map(ship_last, self._chunks.held.values()))
        until = self._clock.monotonic() + DRAIN_S
        while self.counters.in_flight and self._clock.monotonic() < until:  # noqa: ASYNC110 - twenty seconds at most
            await asyncio.sleep(DRAIN_POLL_S)

    async def _give_back(self, held: LeasedChunk) -> bool:
        """True if its journal is shipped."""
        if not await ship_last(held):
            return False
        held.open.journal.close()
        with contextlib.suppress(Unreachable):
            await self._queue.give_back(self.name, held.open.chunk.id)
        return True

    async def _end(self) -> End:
        """Ship and give back all held chunks."""
        if (useless := self._suspicion.useless) is not None:  # once nothing is in flight any more
            for held in self._chunks.held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.reopen_unpaid(teacher=useless.key[0], at=self._clock.time())
        if isinstance(self._tasks.error, ChecksFail):  # the check may be fixed by then
            for held in self._chunks.held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.judge_again(at=self._clock.time())
        if self._purse.is_limited:  # before others have the chunks, the queue has to know what they cost
            with contextlib.suppress(Unreachable):
                await self._queue.renew(self.name, [*self._chunks.held], self._gauges.read())
        shipped = all(await asyncio.gather(*map(self._give_back, self._chunks.held.values())))
        if self.counters.in_flight == 0:
            await self._shares.leave()
        counters = self._gauges.read(ended=True, shipped=shipped)
        counters.ended()
        with contextlib.suppress(Unreachable):
            await self._queue.renew(self.name, [], counters)  # the last one counts
        if self._tasks.error is None:
            return End("stopped" if self._tasks.stopping else "done")
        return End.because(self._tasks.error)
