"""The worker: leases chunks, has their samples asked, seals them. A leased chunk ends sealed, or goes back.

The feeder keeps the asker's queue filled by opening chunks. A chunk whose last sample is settled is sealed in a thread.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from stillhouse.gen.checks.chunk_function import ChunkFunction
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.slots import Slots
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import RENEW_S, TERM_S, Grant
from stillhouse.gen.coordination.messages import End, LimitLedger, NoMore, Queue, Unreachable, Wait
from stillhouse.gen.coordination.parking import Look
from stillhouse.gen.dataset.budget import Opened
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.journal.shipping import SHIP_BYTES
from stillhouse.gen.limits.shares import SHARE_RENEW_S
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.assigner import Assigner
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import limits_of
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.asker import Asker
from stillhouse.gen.worker.chain import Chain
from stillhouse.gen.worker.check_guard import ChecksFail
from stillhouse.gen.worker.checking import Checker, Intake, Judging
from stillhouse.gen.worker.chunk_checking import ChunkChecker
from stillhouse.gen.worker.descriptors import free_for_connections
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.hearing import judges_of
from stillhouse.gen.worker.judges import Judges, LetPass
from stillhouse.gen.worker.lanes.base import Gate
from stillhouse.gen.worker.leased_chunk import Hands, LeasedChunk
from stillhouse.gen.worker.purse import Purse
from stillhouse.gen.worker.settlement_counter import SettlementCounter
from stillhouse.gen.worker.suspicion import Suspicion
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.gen.worker.voting import Voting
from stillhouse.schemas.checks import Check, whole_chunks
from stillhouse.schemas.recipe import Recipe

_log = logging.getLogger("stillhouse")

MONEY_S = 0.1
"""How soon a renewal may follow another because a request waits for money."""
LOOK_S = 0.25
"""How often it looks whether a journal is far behind."""
TELL_AFTER_S = 10.0
"""A shared actor not reached for this long is reported."""
HELD_BYTES = 256 * 2**20
"""Under `ask.accept`: no chunk is leased beside chunks that take so much memory."""
SEALS_AT_ONCE = 4
"""Chunks sealed at a time: fewer than there are threads, for large replies are read in these too."""
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
        """`judging`: what judges answers by the recipe's checks; by default processes of its own."""
        self.name = name
        self.counters = Counters()
        """Totals so far."""
        self._recipe = recipe
        self._queue = queue
        self._ledgers = ledgers
        self._clock = clock
        self._tasks = Tasks(name)
        self._fence = Fence(clock, ship_every_s=recipe.run.ship_every_s)
        self._purse = Purse(None if recipe.budget is None else limits_of(recipe.budget), clock=clock)
        self._gate = Gate(self._tasks, self._fence, self._purse)
        self._accounts = {key: Account(clock) for key in ledgers}
        self._clients = _clients(recipe, self._accounts, transport=transport, clock=clock)
        judges = judges_of(recipe)
        self._judges = (
            Judges(self._tasks, judges, accounts=self._accounts, transport=transport, clock=clock) if judges else None
        )
        self._hands = Hands(
            name,
            recipe=recipe,
            store=store,
            teacher_of=Assigner([client.interpreter for client in self._clients], is_chain=recipe.route == "fallback"),
            clock=clock,
            judges=judges,
        )
        self._suspicion = Suspicion(
            self._tasks,
            self._gate,
            places={(client.teacher.name, host) for client in self._clients for host in client.hosts},
            has_records=lambda key: self._hands.has_records(teacher=key[0], endpoint=key[1]),
        )
        self._chain = self._new_chain() if recipe.route == "fallback" else None
        self._settlements = SettlementCounter(self._tasks, self._suspicion, chain=self._chain, judges=self._judges)
        self._asker = Asker(
            self._tasks,
            clients=self._clients,
            gate=self._gate,
            listener=self._settlements,
            counters=self.counters,
            clock=clock,
            store=store,
            keep_going=recipe.run.keep_going,
            connections=free_for_connections(),
            chain=self._chain,
            judges=self._judges,
        )
        self._judging = judging = _judging_of(recipe) if judging is None else judging
        self._checker = self._new_checker(judging) if judging is not None and recipe.all_checks else None
        self._voting = (
            Voting(self._tasks, self._hands, judging, recipe.equality)
            if judging is not None and recipe.equality
            else None
        )
        self._chunk_samples = max(1, recipe.prompts_per_shard * recipe.samples_per_prompt)
        self._held: dict[ChunkId, LeasedChunk] = {}
        self._opening: ChunkId | None = None
        self._has_last = False
        """True if there was no chunk to lease when it last asked for one."""
        self._sealing: dict[ChunkId, LeasedChunk] = {}
        """Sealed chunks that the queue does not know of yet."""
        self._seals = asyncio.Semaphore(SEALS_AT_ONCE)
        self._closing: GiveUp | None = None
        """Why nothing more is asked, and the chunks in hand are sealed as they are."""
        self._share_at = dict.fromkeys(ledgers, clock.monotonic())
        """When each account's ledger last answered."""
        self._shipping_s = 0.0
        """Duration of the last shipment."""
        self._sweeping = False
        self._looking: set[asyncio.Task[None]] = set()
        """Looks at batches of parked chunks."""
        self._keepers: set[asyncio.Task[None]] = set()
        """One for each chunk in hand that is not sealed yet."""

    def _new_checker(self, judging: Judging) -> Checker | ChunkChecker:
        intake = Intake(
            self._tasks,
            checks := self._recipe.all_checks,
            counters=self.counters,
            clock=self._clock,
            keep_going=self._recipe.run.keep_going,
        )
        if (settings := whole_chunks(checks)) is None:
            return Checker(self._tasks, judging, intake, judges=self._judges)
        return ChunkChecker(self._tasks, judging, intake, function=ChunkFunction(settings))

    def _new_chain(self) -> Chain:
        return Chain(
            self._tasks,
            self._clients,
            given_up_on=self._suspicion.given_up_on,
            give_up_after_s=self._recipe.run.give_up_after_s,
            answered_before=lambda teacher: self._hands.has_records(teacher=teacher),
            clock=self._clock,
        )

    async def run(self) -> End:
        """Work until nothing is left, until it is stopped, or until there is no point in continuing."""
        try:
            async with self._judging or contextlib.nullcontext(), self._tasks:
                background = [self._tasks.spawn(self._renew_leases), self._tasks.spawn(self._ship)]
                background += [self._tasks.spawn(self._renew_share, key) for key in self._accounts]
                if self._chain is not None:
                    background.append(self._tasks.spawn(self._chain.watch))
                await self._tasks.guarded(self._feed)
                if self._tasks.stopping:
                    await self._drain()
                for task in (*background, *self._keepers, *self._looking):
                    task.cancel()
                self._asker.cancel()
            if self._checker is not None:
                self._checker.close()
            return await self._end()
        except UsageError as error:  # the checks can't run here
            return End.because(error)
        finally:
            for held in self._held.values():
                held.open.journal.close()  # whoever goes on must not take it for a live writer's

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
            if not no_more and (hungry or self._asker.is_full):
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
        try:
            answer = await self._queue.lease(self.name, begun=begun)
        except Unreachable:
            return Wait(1.0)
        self._has_last = not isinstance(answer, Grant)
        return answer

    def _hungry(self) -> bool:
        return (self._asker.runs_dry or self._purse.empty.is_set()) and self._has_room()

    def _has_room(self) -> bool:
        """True if it may hold another chunk.

        Under `ask.accept` a chunk keeps fewer slots busy with every round, so that it takes many chunks to keep all of
        them busy; memory alone bounds their number. So it does while there is no money: what dead workers held comes
        free only once all of their chunks are recovered.
        """
        if self._recipe.ask.accept is not None or self._purse.empty.is_set():
            return sum(held.memory_bytes for held in self._held.values()) < HELD_BYTES
        return len(self._held) < 8 + 4 * self._asker.slots // self._chunk_samples

    async def _open(self, grant: Grant) -> None:
        """Take a chunk in hand; its lease is renewed meanwhile, and may be lost."""
        self._opening = grant.chunk
        if (lapsed := self._held.pop(grant.chunk, None)) is not None:  # it lost the lease, and got it again unawares
            lapsed.abandon()
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
        self._settlements.count(held)
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
                await self._park(held, batches)
            else:
                await held.due.wait()

    async def _park(self, held: LeasedChunk, batches: Sequence[OpenBatch]) -> None:
        """Let the chunk go, as all that is open of it is with batches."""
        chunk = held.open.chunk.id
        held.abandoned = True  # nothing is done for it from here on
        await asyncio.to_thread(self._hands.park, held, batches)
        if self._held.get(chunk) is held:  # else the lease was lost meanwhile
            del self._held[chunk]
            with contextlib.suppress(Unreachable):  # then its lease lapses, and whoever has it next parks it again
                await self._queue.park(self.name, chunk, batches)
        self._asker.drop(held)
        self._tasks.changed.set()

    async def _look(self, look: Look) -> None:
        """Look at the batches of a parked chunk, until one has ended."""
        running, ended = [look.chunk], list[ChunkId]()
        for batch in look.batches:
            if not await self._asker.is_running(batch):
                running, ended = [], [look.chunk]
                break
        with contextlib.suppress(Unreachable):  # then it is looked at again
            await self._queue.looked(self.name, running=running, ended=ended)
        if ended:
            self._tasks.changed.set()

    def _close(self, kind: Literal["budget", "stopped"]) -> None:
        """Ask nothing more; seal every chunk in hand as it is."""
        if self._closing is not None:
            return
        self._closing = _CLOSED[kind]
        self._purse.close()
        self._gate.close()
        for held in list(self._held.values()):
            if held.open.left:  # else it is being sealed
                held.open.close(self._closing)
                if self._judges is not None:
                    self._judges.look(held)
                held.due.set()

    async def _journals_free(self, chunk: ChunkId) -> None:
        """Wait until the writers of the chunk's journals on this node are gone, or had a lease's time to see it."""
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
        self._sealing[chunk] = held
        self._tasks.changed.set()
        await self._tell_sealed(chunk, counts)
        self._sealing.pop(chunk, None)

    async def _tell_sealed(self, chunk: ChunkId, counts: ShardCounts | None) -> None:
        self._count_open()
        while True:
            try:
                return await self._queue.sealed(self.name, chunk, counts, self.counters)
            except Unreachable:
                await asyncio.sleep(1.0)

    # --- what goes on beside

    def _count_open(self, *, ended: bool = False, shipped: bool = False) -> None:
        if self._purse.is_limited:
            opened = [
                Opened(chunk, held.open.state.spending.recovered, held.open.state.spending.total)
                for chunk, held in (*self._held.items(), *self._sealing.items())
            ]
            self.counters.spending = self._purse.report(opened, ended=ended, shipped=shipped)
        self.counters.open_chunks = len(self._held) + (self._opening is not None)
        self.counters.waiting_chunks = sum(map(self._asker.waits_for_room, self._held.values()))
        self.counters.open_settled = sum(held.open.state.asked - held.open.left for held in self._held.values())
        for name, tally in self.counters.teachers.items():
            tally.awaited = sum(client.awaited for client in self._asked_clients if client.teacher.name == name)
        self.counters.held_up = self._held_up()
        self.counters.journal_lag_bytes = sum(held.shipper.behind_bytes for held in self._held.values())

    @property
    def _asked_clients(self) -> list[TeacherClient]:
        """Those of judges too."""
        return [*self._clients, *(self._judges.clients if self._judges is not None else ())]

    def _held_up(self) -> str:
        """What has kept it from sending for long enough to report."""
        now = self._clock.monotonic()
        if self._tasks.stopping:
            return ""
        if self._fence.store_is_late:
            return "the store accepts no journals from them"
        late = [key for key, at in self._share_at.items() if now - at > TELL_AFTER_S]
        return f"no answer from the RateLimiter of account {late[0]}" if late else ""

    async def _renew_leases(self) -> None:
        while True:
            asked_at = self._clock.monotonic()
            try:
                chunks = [*self._held, *filter(None, [self._opening])]
                self._count_open()
                renewal = await self._queue.renew(self.name, chunks, self.counters)
            except Unreachable:
                await asyncio.sleep(0.5)
                continue
            self._fence.renewed(asked_at=asked_at, good_for_s=renewal.good_for_s)
            for chunk in renewal.lost:
                if (held := self._held.pop(chunk, None)) is not None:
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
                task = self._tasks.spawn(self._look, look)
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)
            if renewal.sweep and not self._sweeping:
                self._sweeping = True
                self._tasks.spawn(self._sweep)  # in the background: renewals do not wait for the store
            await self._until_renewal(RENEW_S if renewal.good_for_s > RENEW_S else 1.0)

    async def _until_renewal(self, seconds: float) -> None:
        """Wait so long; less while a request waits for money."""
        if self._purse.is_limited and not self._tasks.stopping and self._closing is None:
            await asyncio.sleep(MONEY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds - MONEY_S):
                    await self._purse.empty.wait()
        else:
            await asyncio.sleep(seconds)

    async def _renew_share(self, key: str) -> None:
        account, ledger = self._accounts[key], self._ledgers[key]
        while True:
            asked_at = self._clock.monotonic()
            try:
                report = account.report(backlog=self._asker.backlog(account), is_last=self._has_last)
                lease = await ledger.renew(self.name, report)
                account.accept(lease)
                self._share_at[key] = self._clock.monotonic()
                self._asker.fill_slots()
            except Unreachable:
                await asyncio.sleep(0.25)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, asked_at + SHARE_RENEW_S - self._clock.monotonic())):
                    await account.urgent.wait()

    async def _ship(self) -> None:
        """Ship every journal in time, each on its own: one hanging call to the store does not delay the others.

        A shipment's duration counts towards `ship_every_s`, because what arrives meanwhile waits for the next one.
        """
        every_s = self._recipe.run.ship_every_s
        due_at = self._clock.monotonic() + every_s
        while True:
            await asyncio.sleep(max(0.0, min(LOOK_S, due_at - self._clock.monotonic())))
            is_due = self._clock.monotonic() >= due_at
            if is_due:
                due_at = self._clock.monotonic() + max(every_s / 2, every_s - self._shipping_s)
            self._hands.check_room(under_way_bytes=self.counters.in_flight * self._asker.largest_reply_bytes)
            for held in self._held.values():
                if not held.is_shipping and (is_due or held.shipper.behind_bytes >= SHIP_BYTES):
                    held.is_shipping = True
                    self._tasks.spawn(self._ship_one, held)
            self._fence.unshipped_since(
                min((held.shipped_at for held in self._held.values() if held.shipper.behind_bytes), default=None)
            )

    async def _ship_one(self, held: LeasedChunk) -> None:
        started = self._clock.monotonic()
        try:
            await asyncio.to_thread(held.shipper.ship)
        finally:
            held.is_shipping = False
        held.shipped_at = started
        self._shipping_s = self._clock.monotonic() - started

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
        await asyncio.gather(*map(self._ship_last, self._held.values()))
        until = self._clock.monotonic() + DRAIN_S
        while self.counters.in_flight and self._clock.monotonic() < until:  # noqa: ASYNC110 - twenty seconds at most
            await asyncio.sleep(0.05)

    async def _ship_last(self, held: LeasedChunk) -> bool:
        """True if it is shipped: at the end one more call is tried, and what fails then lies on the node's disk."""
        try:
            await asyncio.to_thread(held.shipper.ship)
        except (StillhouseError, OSError):
            return False
        return True

    async def _give_back(self, held: LeasedChunk) -> bool:
        """True if its journal is shipped."""
        if not await self._ship_last(held):
            return False
        held.open.journal.close()
        with contextlib.suppress(Unreachable):
            await self._queue.give_back(self.name, held.open.chunk.id)
        return True

    async def _leave(self, ledger: LimitLedger) -> None:
        """Give the share of an account back, unless requests are in flight still."""
        if self.counters.in_flight == 0:
            with contextlib.suppress(Unreachable):
                await ledger.leave(self.name)

    async def _end(self) -> End:
        """Ship and give back what is held."""
        if (useless := self._suspicion.useless) is not None:  # once nothing is in flight any more
            for held in self._held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.reopen_unpaid(teacher=useless.key[0], at=self._clock.time())
        if isinstance(self._tasks.error, ChecksFail):  # the check may be repaired by then
            for held in self._held.values():
                with contextlib.suppress(StillhouseError):
                    held.open.judge_again(at=self._clock.time())
        if self._purse.is_limited:  # before others have the chunks, the queue has to know what they cost
            self._count_open()
            with contextlib.suppress(Unreachable):
                await self._queue.renew(self.name, [*self._held], self.counters)
        shipped = all(await asyncio.gather(*map(self._give_back, self._held.values())))
        await asyncio.gather(*map(self._leave, self._ledgers.values()))
        self._count_open(ended=True, shipped=shipped)
        self.counters.ended()
        with contextlib.suppress(Unreachable):
            await self._queue.renew(self.name, [], self.counters)  # the last counts
        if self._tasks.error is None:
            return End("stopped" if self._tasks.stopping else "done")
        return End.because(self._tasks.error)


_CLOSED: Mapping[Literal["budget", "stopped"], GiveUp] = {
    "budget": GiveUp("budget", "the budget was used up before it was answered", None),
    "stopped": GiveUp("stopped", "the dataset was finished before it was answered", None),
}


def _judging_of(recipe: Recipe) -> Judging | None:
    """What judges answers by the recipe's checks, judges excepted; None if there is nothing to judge."""
    checks, equality = recipe.all_checks, recipe.equality
    if not checks and equality is None:
        return None
    if equality is None and all(isinstance(check, Check) and check.judge is not None for check in checks):
        return LetPass(len(checks))
    return CheckPool(checks, equality=equality, slots=Slots.of_node())


def _clients(
    recipe: Recipe, accounts: Mapping[str, Account], *, transport: Transport, clock: Clock
) -> list[TeacherClient]:
    """A client for each teacher that answers, in the recipe's order."""
    return [
        TeacherClient(
            Interpreter(teacher, recipe.ask, place=place),
            transport=transport,
            account=accounts[teacher.limits_key],
            clock=clock,
        )
        for place, teacher in enumerate(recipe.answering)
    ]
