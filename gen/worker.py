"""The worker: leases chunks, asks their samples, seals them. A leased chunk ends sealed, or goes back.

Slots (as many as the accounts' leases allow) take samples from one queue; the feeder keeps it filled by opening
chunks; a sample that has to wait is out of the queue and holds no slot. A chunk whose last sample is settled is
sealed in a thread.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any, Literal, TypeAlias

from gen.clock import Clock
from gen.control import Counters, End, LimitLedger, NoMore, Queue, Unreachable, Wait
from gen.dataset import ChunkId, Plan
from gen.endpoints import Endpoint
from gen.errors import StillhouseError, StoreAway, TeacherPaused, UsageError
from gen.held import Hands, Held
from gen.http import Lost, NotSent, Transport
from gen.journal import Kind
from gen.leases import FENCE_S, RENEW_S, TERM_S, Grant
from gen.limits import LEASE_S, Cost
from gen.outcome import Ambiguous, Outcome, Overload, Ramp, Rate, ServerError
from gen.retry import Again, Decision, Pause
from gen.shards import ShardCounts
from gen.shipping import SHIP_BYTES
from gen.store import Store
from gen.teacher_client import Account, Assigner, TeacherClient
from schemas.completion import Completion
from schemas.recipe import Recipe

DRAIN_S = 20.0
"""How long a stopping worker waits for what is under way."""
STARTING_PAUSE_S = 1.0
"""A 429 that says no time pauses the account for so long."""


_Work: TypeAlias = tuple[Held, int, bool]
"""(chunk, ordinal, whether it was asked before)."""


class _WorkQueue(asyncio.Queue[_Work]):
    """First in, first out, but a sample asked before comes first: its chunk waits for it."""

    def _put(self, item: _Work) -> None:
        queue: Any = self._queue  # type: ignore[attr-defined]
        queue.appendleft(item) if item[2] else queue.append(item)


class Worker:
    """One process's share of a run."""

    def __init__(
        self,
        name: str,
        *,
        recipe: Recipe,
        store: Store,
        plans: list[Plan],
        queue: Queue,
        ledgers: Mapping[str, LimitLedger],
        transport: Transport,
        clock: Clock,
    ) -> None:
        self.name = name
        self.counters = Counters()
        self._recipe = recipe
        self._queue = queue
        self._ledgers = ledgers
        self._clock = clock
        self._accounts = {key: Account(clock) for key in ledgers}
        self._clients = [
            TeacherClient(t, recipe.ask, transport=transport, account=self._accounts[t.limits_key], clock=clock)
            for t in recipe.teachers
        ]
        self._hands = Hands(
            name, recipe=recipe, store=store, plans=plans, client_of=Assigner(self._clients), clock=clock
        )
        self._work = _WorkQueue()
        self._held: dict[ChunkId, Held] = {}
        self._opening: ChunkId | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._renewed_at = clock.monotonic()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._slots: set[asyncio.Task[None]] = set()
        self._any_answer = False
        self._error: StillhouseError | None = None

    async def run(self) -> End:
        """Work until there is no more, until told to stop, or until something makes going on pointless."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                background = [self._spawn(self._renew_leases()), self._spawn(self._ship())]
                background += [self._spawn(self._renew_share(key)) for key in self._accounts]
                await self._guarded(self._feed())
                if self._stopping:
                    await self._drain()
                for task in [*background, *self._slots]:
                    task.cancel()
            return await self._end()
        finally:
            for held in self._held.values():
                held.open.journal.close()  # whoever goes on must not take it for a live writer's

    def stop(self) -> None:
        """Send nothing new, finish what is under way, give the rest back."""
        self._stopping = True
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._group.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it; an error of ours stops the worker in good order, for what is under way is paid."""
        try:
            await work
        except StillhouseError as error:
            self._fail(error)

    def _fail(self, error: StillhouseError) -> None:
        self._error = self._error or error
        self.stop()

    # --- chunks

    async def _feed(self) -> None:
        """Keep the queue filled until there is no more to do; then everything is sealed or given back."""
        await self._sweep()
        no_more = False
        while not self._stopping and not (no_more and not self._held):
            self._changed.clear()
            pause_s = RENEW_S
            if not no_more and self._hungry():
                match await self._asked_for_chunk():
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
                    await self._changed.wait()

    async def _asked_for_chunk(self) -> Grant | Wait | NoMore:
        try:
            return await self._queue.lease(self.name)
        except Unreachable:
            return Wait(1.0)

    def _hungry(self) -> bool:
        slots = max(1, sum(account.slots for account in self._accounts.values()))
        chunk_size = max(1, self._recipe.dataset.prompts_per_shard * self._recipe.ask.samples)
        return self._work.qsize() < slots and len(self._held) < 8 + 4 * slots // chunk_size

    async def _open(self, grant: Grant) -> None:
        """Take a chunk in hand; its lease is renewed meanwhile, and may be lost."""
        self._opening = grant.chunk
        await self._journals_free(grant.chunk)
        opening = asyncio.create_task(asyncio.to_thread(self._hands.open, grant))
        try:
            held = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(StillhouseError):
                if (late := await opening) is not None:
                    late.open.journal.close()
            raise
        is_mine, self._opening = self._opening is not None, None
        if held is None:
            await self._tell_sealed(grant.chunk, None)
        elif is_mine:
            self._take(held)
        else:
            held.abandon()

    def _take(self, held: Held) -> None:
        self._held[held.open.chunk.id] = held
        for ordinal in held.open.todo():
            self._work.put_nowait((held, ordinal, False))
        if held.open.left == 0:
            self._spawn(self._seal(held))

    async def _journals_free(self, chunk: ChunkId) -> None:
        """Wait until the writers of the chunk's journals on this node are gone, or had a lease's time to see it."""
        until = self._clock.monotonic() + TERM_S
        while self._clock.monotonic() < until and not self._stopping:
            if self._hands.is_free(chunk):
                return
            await asyncio.sleep(0.25)

    # --- asking

    def _fill_slots(self) -> None:
        """Have as many slots as the leases allow; too many only wait."""
        wanted = sum(account.slots for account in self._accounts.values())
        while len(self._slots) < wanted:
            self._slots.add(self._spawn(self._slot()))

    async def _slot(self) -> None:
        while True:
            held, ordinal, again = await self._work.get()
            if self._hungry():
                self._changed.set()
            if not self._stopping and not held.abandoned:
                await self._guarded(self._ask(held, ordinal, again=again))

    async def _ask(self, held: Held, ordinal: int, *, again: bool) -> None:
        prompt, client = held.open.prompt(ordinal), held.open.client(ordinal)
        cost = client.estimate(prompt.messages)
        await client.account.reserve(cost)
        used: Cost | None = Cost(0, 0)
        self.counters.in_flight += 1
        held.under_way += 1
        try:
            if self._clock.monotonic() - self._renewed_at > FENCE_S:
                self._may_send.clear()
                await self._may_send.wait()
            endpoint = await client.endpoint()
            if self._stopping or held.abandoned or client.account.is_paused:
                client.release(endpoint)
                if not held.abandoned:
                    self._work.put_nowait((held, ordinal, again))
                return
            self.counters.requests += 1
            self.counters.retries += again
            sent_at, served = self._clock.monotonic(), False
            try:
                outcome, decision = await self._attempt(held, ordinal, client, endpoint)
                served = not isinstance(outcome, (Overload, Ambiguous, ServerError))
            finally:
                client.done(endpoint, served=served)
            used = self._heard(client, outcome, prompt.messages)
        finally:
            self.counters.in_flight -= 1
            client.account.settle(cost, used)
            held.ended()
        if not held.abandoned:
            self._follow(held, ordinal, client, decision, sent_at=sent_at)

    async def _attempt(
        self, held: Held, ordinal: int, client: TeacherClient, endpoint: Endpoint
    ) -> tuple[Outcome, Decision]:
        body = client.api.body(held.open.prompt(ordinal).messages, ordinal % held.open.samples)
        at, start = self._clock.time(), self._clock.monotonic()
        held.open.sent(ordinal, at=at)
        outcome: Overload | Ambiguous
        try:
            reply = await client.post(endpoint, body)
        except NotSent as error:
            if error.certificate:
                raise UsageError(f"teachers.{client.teacher.name}: TLS to {endpoint.host} failed: {error}") from None
            outcome = Overload(str(error))
            return outcome, held.open.unanswered(ordinal, Kind.NOT_SENT, outcome, at=at)
        except Lost as error:
            outcome = Ambiguous(str(error))
            return outcome, held.open.unanswered(ordinal, Kind.LOST, outcome, at=at)
        latency_s = self._clock.monotonic() - start
        while True:
            try:
                return held.open.answered(
                    ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint.host, read=client.read
                )
            except StoreAway as error:  # a full disk may have room again before a stopping worker ends
                self._fail(error)
                await asyncio.sleep(1.0)

    def _heard(self, client: TeacherClient, outcome: Outcome, messages: Any) -> Cost | None:
        """Count an outcome and tell the account of it; what the request used, None where that is not known."""
        counters, account = self.counters, client.account
        if isinstance(outcome, Completion):
            self._any_answer = True
            counters.answers += 1
            counters.input_tokens += outcome.usage.input_tokens or 0
            counters.output_tokens += outcome.usage.output_tokens or 0
            counters.usd += client.cost_usd(outcome) or 0.0
            account.heard(refused=False)
            return client.learn(messages, outcome)
        name = type(outcome).__name__.lower()
        counters.troubles[name] = counters.troubles.get(name, 0) + 1
        counters.last_trouble = f"{client.teacher.name}: {outcome.message}"
        if isinstance(outcome, (Rate, Ramp)):
            wait_s = STARTING_PAUSE_S if outcome.retry_after_s is None else outcome.retry_after_s
            account.heard(refused=True, pause_s=wait_s, ramped=isinstance(outcome, Ramp))
            return Cost(0, 0)
        account.heard(refused=isinstance(outcome, Overload))
        return Cost(0, 0) if isinstance(outcome, Overload) else None

    def _follow(self, held: Held, ordinal: int, client: TeacherClient, decision: Decision, *, sent_at: float) -> None:
        match decision:
            case Again(after_s):
                self._ask_again(held, ordinal, after_s)
            case Pause(reason, auth):
                if not (auth and client.reload_key(sent_at=sent_at)):
                    raise TeacherPaused(f"teacher {client.teacher.name} {reason}; then run the same command again")
                self._ask_again(held, ordinal, 0.0)
            case _:
                if held.open.left == 0:
                    self._spawn(self._seal(held))

    def _ask_again(self, held: Held, ordinal: int, after_s: float) -> None:
        if after_s <= 0:
            self._work.put_nowait((held, ordinal, True))
            return
        asyncio.get_running_loop().call_later(after_s, self._work.put_nowait, (held, ordinal, True))

    # --- sealing

    async def _seal(self, held: Held) -> None:
        chunk = held.open.chunk.id
        reason = None if self._any_answer else held.open.alike_failure()
        if reason is not None and not await asyncio.to_thread(self._hands.any_sealed):
            held.open.journal.remove()
            del self._held[chunk]
            raise StillhouseError(
                f"all samples of the first chunk failed alike ({reason.kind}, HTTP {reason.status}: {reason.message}): "
                "that is the recipe or the teacher, not the data. Nothing was sealed; mend it and run again"
            )
        counts = await asyncio.to_thread(self._hands.seal, held)
        self._held.pop(chunk, None)
        self._changed.set()
        await self._tell_sealed(chunk, counts)

    async def _tell_sealed(self, chunk: ChunkId, counts: ShardCounts | None) -> None:
        while True:
            try:
                return await self._queue.sealed(self.name, chunk, counts)
            except Unreachable:
                await asyncio.sleep(1.0)

    # --- what goes on beside

    async def _renew_leases(self) -> None:
        while True:
            asked_at = self._clock.monotonic()
            try:
                chunks = [*self._held, *filter(None, [self._opening])]
                renewal = await self._queue.renew(self.name, chunks, self.counters)
            except Unreachable:
                await asyncio.sleep(0.5)
                continue
            self._renewed_at = asked_at
            self._may_send.set()
            for chunk in renewal.lost:
                if (held := self._held.pop(chunk, None)) is not None:
                    held.abandon()
                elif chunk == self._opening:
                    self._opening = None
            if renewal.stop:
                self.stop()
            if renewal.sweep:
                await self._sweep()
            await asyncio.sleep(RENEW_S)

    async def _renew_share(self, key: str) -> None:
        account, ledger = self._accounts[key], self._ledgers[key]
        while True:
            try:
                lease = await ledger.renew(self.name, account.report(backlog=min(self._work.qsize(), 4096)))
                account.accept(lease)
                self._fill_slots()
            except Unreachable:
                await asyncio.sleep(0.25)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE_S / 2):
                    await account.urgent.wait()

    async def _ship(self) -> None:
        last = self._clock.monotonic()
        while True:
            await asyncio.sleep(min(0.25, self._recipe.run.ship_every_s))
            now = self._clock.monotonic()
            due = now - last >= self._recipe.run.ship_every_s
            last = now if due else last
            for held in list(self._held.values()):
                if due or held.shipper.behind_bytes >= SHIP_BYTES:
                    await asyncio.to_thread(held.shipper.ship)

    async def _sweep(self) -> None:
        chunks = await asyncio.to_thread(self._hands.sweep)
        with contextlib.suppress(Unreachable):
            await self._queue.shipped(self.name, chunks)

    # --- the end

    async def _drain(self) -> None:
        """Ship what there is, for the grace may be short; then let what is under way come home, at most `DRAIN_S`."""
        for held in list(self._held.values()):
            with contextlib.suppress(StillhouseError):
                await asyncio.to_thread(held.shipper.ship)
        until = self._clock.monotonic() + DRAIN_S
        while self.counters.in_flight and self._clock.monotonic() < until:  # noqa: ASYNC110 - twenty seconds at most
            await asyncio.sleep(0.05)

    async def _end(self) -> End:
        """Ship and give back what is held."""
        for chunk, held in list(self._held.items()):
            with contextlib.suppress(StillhouseError, Unreachable, OSError):
                await asyncio.to_thread(held.shipper.ship)
                held.open.journal.close()
                await self._queue.give_back(self.name, chunk)
        with contextlib.suppress(Unreachable):
            await self._queue.renew(self.name, [], self.counters)  # the last counts
        if self._error is None:
            return End("stopped" if self._stopping else "done")
        return End(_ENDS[self._error.exit_code], str(self._error))


_ENDS: dict[int, Literal["failed", "unusable", "paused"]] = {1: "failed", 2: "unusable", 3: "paused"}
