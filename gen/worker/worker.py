"""The worker: leases chunks, has their samples asked, seals them. A leased chunk ends sealed, or goes back.

The feeder keeps the asker's queue filled by opening chunks. A chunk whose last sample is settled is sealed in a thread.
"""

import asyncio
import contextlib
import math
from collections.abc import Mapping
from typing import Literal

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import RENEW_S, TERM_S, Grant
from stillhouse.gen.coordination.messages import End, LimitLedger, NoMore, Queue, Unreachable, Wait
from stillhouse.gen.dataset.budget import Opened
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.check_guard import ChecksFail
from stillhouse.gen.worker.checking import Judging
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parking import Parking
from stillhouse.gen.worker.parts import Parts
from stillhouse.gen.worker.shares import Shares
from stillhouse.gen.worker.shipments import Shipments, ship_last
from stillhouse.schemas.recipe import Recipe

MONEY_S = 0.1
"""How soon a renewal may follow another because a request waits for money."""
HELD_BYTES = 256 * 2**20
"""Under `ask.accept`: no further chunk is leased while the held chunks take this much memory."""
BATCHED_BYTES = 16 * 2**20
"""The same where all teachers are asked in batches: a chunk is held only while its batch is created or collected, so
two large ones are enough."""
SEALS_AT_ONCE = 4
"""Chunks sealed at a time: fewer than there are threads, because large replies are also read in threads."""
SEALED_SAMPLES = 10_000
"""Samples of the chunks that are sealed at a time, if they are large: a row group is in memory until it is written."""
DRAIN_S = 20.0
"""How long a stopping worker waits for its requests in flight."""


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
        self._recipe = recipe
        self._queue = queue
        self._clock = clock
        parts = Parts.of(name, recipe, store=store, accounts=ledgers, transport=transport, judging=judging, clock=clock)
        self._tasks, self._fence, self._purse, self._gate = parts.tasks, parts.fence, parts.purse, parts.gate
        self._accounts, self._clients, self._judges = parts.accounts, parts.clients, parts.judges
        self._hands, self._suspicion, self._chain = parts.hands, parts.suspicion, parts.chain
        self._settlements, self._asker, self._voting = parts.settlements, parts.asker, parts.voting
        self._judging, self._checker = parts.judging, parts.checker
        self.counters = parts.counters
        """Totals so far."""
        self._held: dict[ChunkId, LeasedChunk] = {}
        self._shares = Shares(name, ledgers, self._accounts, asker=self._asker, clock=clock)
        self._shipments = Shipments(
            self._tasks,
            self._hands,
            self._fence,
            held=self._held,
            under_way_bytes=lambda: self.counters.in_flight * self._asker.largest_reply_bytes,
            every_s=recipe.run.ship_every_s,
            clock=clock,
        )
        self._chunk_samples = max(1, recipe.prompts_per_shard * recipe.samples_per_prompt)
        self._opening: ChunkId | None = None
        self._lease_at = -math.inf
        """When the queue may be asked for a chunk again; a lane that runs dry may call for one with each sample."""
        self._sealing: dict[ChunkId, LeasedChunk] = {}
        """Sealed chunks that the queue does not know of yet."""
        self._parking = Parking(
            name,
            self._tasks,
            queue=queue,
            hands=self._hands,
            asker=self._asker,
            purse=self._purse,
            held=self._held,
            opened=self._opened,
            counted=self._counted,
            lease_soon=self._lease_soon,
        )
        self._seals = asyncio.Semaphore(max(1, min(SEALS_AT_ONCE, SEALED_SAMPLES // self._chunk_samples)))
        self._closing: GiveUp | None = None
        """Why nothing more is asked, and the open chunks are sealed as they are."""
        self._sweeping = False
        self._keepers: set[asyncio.Task[None]] = set()
        """One for each held chunk that is not sealed yet."""

    async def run(self) -> End:
        """Work until nothing is left, until it is stopped, or until there is no point in continuing."""
        try:
            async with self._judging or contextlib.nullcontext(), self._tasks:
                background = [self._tasks.spawn(self._renew_leases), self._tasks.spawn(self._shipments.run)]
                background += [self._tasks.spawn(self._shares.renew, key) for key in self._accounts]
                if self._chain is not None:
                    background.append(self._tasks.spawn(self._chain.watch))
                await self._tasks.guarded(self._feed)
                if self._tasks.stopping:
                    await self._drain()
                for task in (*background, *self._keepers):
                    task.cancel()
                self._parking.cancel()
                self._asker.cancel()
            if self._checker is not None:
                self._checker.close()
            return await self._end()
        except UsageError as error:  # the checks can't run here
            return End.because(error)
        finally:
            for held in self._held.values():
                held.open.journal.close()  # the next owner must not take it for a live writer's

    def stop(self) -> None:
        """Send nothing new, finish what is in flight, give the rest back."""
        self._tasks.stop()

    # --- chunks

    async def _feed(self) -> None:
        """Keep the queue filled until there is no more to do; then everything is sealed or given back."""
        await asyncio.to_thread(self._hands.check_room, under_way_bytes=0)
        await self._sweep()
        no_more = False
        while not self._tasks.stopping and not (no_more and not self._held):
            self._tasks.changed.clear()
            pause_s = RENEW_S
            hungry = self._hungry()
            if not no_more and (hungry or self._may_collect()):
                match await self._asked_for_chunk(begun=not hungry):
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

    async def _asked_for_chunk(self, *, begun: bool) -> Grant | Wait | NoMore:
        if (left_s := self._lease_at - self._clock.monotonic()) > 0:
            return Wait(left_s)
        try:
            answer = await self._queue.lease(self.name, begun=begun)
            self._shares.is_last = not isinstance(answer, Grant)
        except Unreachable:
            answer = Wait(1.0)
        if isinstance(answer, Wait):
            self._lease_at = self._clock.monotonic() + answer.seconds
        return answer

    def _lease_soon(self) -> None:
        """A chunk is done, or may be leased now: ask without waiting any longer."""
        self._lease_at = -math.inf
        self._tasks.changed.set()

    def _hungry(self) -> bool:
        return (self._asker.runs_dry or self._purse.empty.is_set()) and self._has_room()

    def _may_collect(self) -> bool:
        """True if a chunk waits until a batch of another chunk is collected, and there is memory for that chunk."""
        if not self._asker.is_full:
            return False
        waits = self._asker.waits_for_room
        return sum(held.memory_bytes for held in self._held.values() if not waits(held)) < BATCHED_BYTES

    def _has_room(self) -> bool:
        """True if it may hold another chunk.

        Under `ask.accept`, a chunk keeps fewer slots busy with every round, so many chunks are needed to keep all of
        them busy; only memory bounds their number. The same applies while there is no money: what dead workers held is
        released only once all of their chunks are recovered.
        """
        if self._asker.is_batched and not self._purse.empty.is_set():
            return sum(held.memory_bytes for held in self._held.values()) < BATCHED_BYTES
        if self._recipe.ask.accept is not None or self._purse.empty.is_set():
            return sum(held.memory_bytes for held in self._held.values()) < HELD_BYTES
        return len(self._held) < 8 + 4 * self._asker.slots // self._chunk_samples

    async def _open(self, grant: Grant) -> None:
        """Open a chunk; its lease is renewed meanwhile, and may be lost."""
        self._opening = grant.chunk
        lapsed = self._held.pop(grant.chunk, None)
        if lapsed is not None:  # its lease expired and was granted again, unnoticed here
            self._purse.lost(grant.chunk)
            lapsed.abandon()
            self._asker.drop(lapsed)
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
            self._opening = None
            with contextlib.suppress(Unreachable):
                await self._queue.give_back(self.name, grant.chunk)
            raise
        is_mine, self._opening = self._opening is not None, None
        if held is None:
            await self._tell_sealed(grant.chunk, None)
        elif is_mine:
            if grant.close is not None:
                self._close(grant.close)
            self._take(held)
        else:
            held.abandon()

    def _take(self, held: LeasedChunk) -> None:
        self._held[held.open.chunk.id] = held
        self._settlements.count(held, found=True)
        self._keepers.add(keeper := self._tasks.spawn(self._keep, held))
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, held: LeasedChunk) -> None:
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

    def _close(self, kind: Literal["budget", "stopped"]) -> None:
        """Ask nothing more; seal every held chunk as it is."""
        if self._closing is not None:
            return
        self._closing = _CLOSED[kind]
        self._purse.close()
        self._gate.close()
        for held in list(self._held.values()):
            if held.open.left:  # otherwise it is being sealed
                held.open.close(self._closing)
                if self._judges is not None:
                    self._judges.look(held)
                held.due.set()

    async def _journals_free(self, chunk: ChunkId) -> None:
        """Wait until the writers of the chunk's journals on this node are gone, or have had a lease's time to
        notice."""
        until = self._clock.monotonic() + TERM_S
        while self._clock.monotonic() < until and not self._tasks.stopping:
            if self._hands.is_free(chunk):
                return
            await asyncio.sleep(0.25)

    # --- sealing

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
            self.counters.sealed += counts
            self.counters.shards += 1
        self._held.pop(chunk, None)
        self._asker.drop(held)  # a lane would keep it in memory
        self._sealing[chunk] = held
        self._lease_soon()
        await self._tell_sealed(chunk, counts)
        self._sealing.pop(chunk, None)
        self._purse.let_go(chunk)

    async def _tell_sealed(self, chunk: ChunkId, counts: ShardCounts | None) -> None:
        counters = self._counted()
        while True:
            try:
                return await self._queue.sealed(self.name, chunk, counts, counters)
            except Unreachable:
                await asyncio.sleep(1.0)

    # --- background tasks

    def _counted(self, *, ended: bool = False, shipped: bool = False) -> Counters:
        """The counters, with what is open now."""
        if self._purse.is_limited:
            held = (*self._held.values(), *self._sealing.values())
            opened = [*filter(None, map(self._opened, held)), *self._parking.unreported]
            self.counters.spending = self._purse.report(opened, ended=ended, shipped=shipped)
        self.counters.open_chunks = len(self._held) + (self._opening is not None)
        self.counters.waiting_chunks = sum(map(self._asker.waits_for_room, self._held.values()))
        self.counters.open_settled = sum(held.settled for held in self._held.values())
        self._asker.count_batches()
        for name, tally in self.counters.teachers.items():
            tally.awaited = sum(client.awaited for client in self._asked_clients if client.teacher.name == name)
        self.counters.held_up = self._held_up()
        self.counters.journal_lag_bytes = sum(held.shipper.behind_bytes for held in self._held.values())
        return self.counters

    @property
    def _asked_clients(self) -> list[TeacherClient]:
        """All clients, including those of judges and those that ask online what batches left."""
        online = [client.online for client in self._clients if client.online is not None]
        return [*self._clients, *online, *(self._judges.clients if self._judges is not None else ())]

    def _opened(self, held: LeasedChunk) -> Opened | None:
        """What the chunk costs; None if it is not known yet what its batches may cost."""
        spending, reserved = held.open.state.spending, self._asker.reserved(held)
        return None if reserved is None else Opened(held.open.chunk.id, spending.recovered, spending.total, reserved)

    def _held_up(self) -> str:
        """What has kept it from sending for long enough to report."""
        if self._tasks.stopping:
            return ""
        if self._fence.store_is_late:
            return "the store accepts no journals from them"
        late = self._shares.late
        return "" if late is None else f"no answer from the RateLimiter of account {late}"

    async def _renew_leases(self) -> None:
        while True:
            asked_at = self._clock.monotonic()
            try:
                chunks = [*self._held, *filter(None, [self._opening])]
                renewal = await self._queue.renew(self.name, chunks, self._counted())
            except Unreachable:
                await asyncio.sleep(0.5)
                continue
            self._fence.renewed(asked_at=asked_at, good_for_s=renewal.good_for_s)
            for chunk in renewal.lost:
                if (held := self._held.pop(chunk, None)) is not None:
                    self._purse.lost(chunk)
                    held.abandon()
                    self._asker.drop(held)
                elif chunk == self._opening:
                    self._opening = None
            if (allowance := renewal.allowance) is not None:
                self._purse.accept(allowance.granted)
                if allowance.is_over:
                    self._close("budget")
            for teacher, host in renewal.streamed:
                for client in self._asked_clients:
                    if client.teacher.name == teacher:
                        client.stream_from(host)
            if renewal.stop:
                self.stop()
            for look in renewal.looks:
                self._parking.look(look)
            if renewal.sweep and not self._sweeping:
                self._sweeping = True
                self._tasks.spawn(self._sweep)  # in the background: renewals do not wait for the store
            await self._until_renewal(RENEW_S if renewal.good_for_s > RENEW_S else 1.0)

    async def _until_renewal(self, seconds: float) -> None:
        """Wait this long; less while a request waits for money."""
        if self._purse.is_limited and not self._tasks.stopping and self._closing is None:
            await asyncio.sleep(seconds if self._asker.is_full else MONEY_S)  # it may wait for hours
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds - MONEY_S):
                    await self._purse.empty.wait()
        else:
            await asyncio.sleep(seconds)

    async def _sweep(self) -> None:
        try:
            chunks = await asyncio.to_thread(self._hands.sweep)
        finally:
            self._sweeping = False
        with contextlib.suppress(Unreachable):
            await self._queue.shipped(self.name, chunks)

    # --- the end

    async def _drain(self) -> None:
        """Ship at once, because the grace period may be short; then wait for requests in flight, at most `DRAIN_S`."""
        await asyncio.gather(*map(ship_last, self._held.values()))
        until = self._clock.monotonic() + DRAIN_S
        while self.counters.in_flight and self._clock.monotonic() < until:  # noqa: ASYNC110 - twenty seconds at most
            await asyncio.sleep(0.05)

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
            for held in self._held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.reopen_unpaid(teacher=useless.key[0], at=self._clock.time())
        if isinstance(self._tasks.error, ChecksFail):  # the check may be fixed by then
            for held in self._held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.judge_again(at=self._clock.time())
        if self._purse.is_limited:  # before others have the chunks, the queue has to know what they cost
            with contextlib.suppress(Unreachable):
                await self._queue.renew(self.name, [*self._held], self._counted())
        shipped = all(await asyncio.gather(*map(self._give_back, self._held.values())))
        if self.counters.in_flight == 0:
            await self._shares.leave()
        counters = self._counted(ended=True, shipped=shipped)
        counters.ended()
        with contextlib.suppress(Unreachable):
            await self._queue.renew(self.name, [], counters)  # the last one counts
        if self._tasks.error is None:
            return End("stopped" if self._tasks.stopping else "done")
        return End.because(self._tasks.error)


_CLOSED: Mapping[Literal["budget", "stopped"], GiveUp] = {
    "budget": GiveUp("budget", "the budget was used up before it was answered", None),
    "stopped": GiveUp("stopped", "the dataset was finished before it was answered", None),
}
