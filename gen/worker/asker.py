"""The asker: takes samples from a queue a teacher, asks them, and does with each outcome what the retry policy says.

It has as many slots for each teacher as its account's lease allows; a teacher that serves nothing holds up no other. A
sample that has to wait is out of the queue and holds no slot. Nothing is sent while the worker's fence is closed.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import StillhouseError, StoreAway, TeacherPaused, UsageError
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.limits.shares import Cost
from stillhouse.gen.teachers.account import UNUSED, Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome, Overload, Ramp, Rate, ServerError, kind_of
from stillhouse.gen.teachers.retry import Again, Decision, Pause
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.leased_chunk import Held
from stillhouse.schemas.completion import Completion

STARTING_PAUSE_S = 1.0
"""A 429 that says no time pauses the account for so long."""

_Work: TypeAlias = tuple[Held, int, bool]
"""(chunk, ordinal, whether it was asked before)."""


class _WorkQueue(asyncio.Queue[_Work]):
    """First in, first out, but a sample asked before comes first: its chunk waits for it."""

    def _put(self, item: _Work) -> None:
        queue: Any = self._queue  # type: ignore[attr-defined]
        queue.appendleft(item) if item[2] else queue.append(item)


class Host(Protocol):
    """The worker as its asker sees it."""

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> asyncio.Task[None]:
        """Run a task that ends with the worker."""
        ...

    def fail(self, error: StillhouseError) -> None:
        """Stop in good order because of this error."""
        ...

    def taken(self) -> None:
        """A sample left the queue: more may be wanted."""
        ...

    def settled(self, held: Held) -> None:
        """The chunk's last sample is settled."""
        ...


class Asker:
    """See the module."""

    def __init__(self, host: Host, *, clients: Sequence[TeacherClient], fence: Fence, clock: Clock) -> None:
        self.counters = Counters()
        self.any_answer = False
        self.largest_reply_bytes = 0
        self._host = host
        self._clients = {client.teacher.name: client for client in clients}
        self._accounts = {client.account for client in clients}
        self._fence = fence
        self._clock = clock
        self._work = {client: _WorkQueue() for client in clients}
        self._slots: dict[TeacherClient, list[asyncio.Task[None]]] = {client: [] for client in clients}
        self._stopping = False

    def stop(self) -> None:
        """Send nothing new; what is under way goes on."""
        self._stopping = True

    def cancel(self) -> None:
        """End the slots."""
        for slot in itertools.chain.from_iterable(self._slots.values()):
            slot.cancel()

    def waiting(self, account: Account) -> int:
        """Samples of an account's teachers that could be asked now, were there slots."""
        return sum(queue.qsize() for client, queue in self._work.items() if client.account is account)

    @property
    def runs_dry(self) -> bool:
        """Whether a teacher has fewer samples waiting than slots."""
        return any(queue.qsize() < max(1, client.account.slots) for client, queue in self._work.items())

    @property
    def slots(self) -> int:
        """Requests that may be under way at once."""
        return sum(account.slots for account in self._accounts)

    def take(self, held: Held) -> None:
        """Ask what is to be asked of a chunk."""
        for ordinal in held.open.todo():
            self._put(held, ordinal, again=False)

    def fill_slots(self) -> None:
        """Have as many slots as the leases allow; too many only wait."""
        for client, slots in self._slots.items():
            slots += [self._host.spawn(self._slot, client) for _ in range(client.account.slots - len(slots))]

    async def _slot(self, client: TeacherClient) -> None:
        while True:
            held, ordinal, again = await self._work[client].get()
            self._host.taken()
            if self._stopping or held.abandoned:
                continue
            try:
                await self._ask(held, ordinal, again=again)
            except StillhouseError as error:
                self._host.fail(error)

    async def _ask(self, held: Held, ordinal: int, *, again: bool) -> None:
        prompt, client = held.open.prompt(ordinal), self._client(held, ordinal)
        cost = client.estimate(prompt.messages)
        tally, waits_from = self.counters.of(client.teacher.name), self._clock.monotonic()
        await self._reserved(client, cost)
        tally.lease_wait_s += self._clock.monotonic() - waits_from
        used: Cost | None = Cost(0, 0)
        refused = False
        tally.in_flight += 1
        held.under_way += 1
        try:
            holds_back = self._stopping or held.abandoned or client.account.is_paused
            if holds_back or (endpoint := client.endpoint(again=again)) is None:
                self._put(held, ordinal, again=again)
                return
            tally.requests += 1
            tally.retries += again
            sent_at = self._clock.monotonic()
            served: bool | None = False
            try:
                outcome, decision = await self._attempt(held, ordinal, client, endpoint)
                served = _served(outcome)
            finally:
                client.done(endpoint, served=served)
            latency_s = self._clock.monotonic() - sent_at
            refused = isinstance(outcome, (Rate, Ramp))
            used = self._heard(client, endpoint, outcome, prompt.messages, latency_s=latency_s)
        finally:
            tally.in_flight -= 1
            if refused:
                client.account.settle_refused(cost)
            else:
                client.account.settle(cost, used)
            held.ended()
        if not held.abandoned:
            self._follow(held, ordinal, client, decision, sent_at=sent_at)

    async def _reserved(self, client: TeacherClient, cost: Cost) -> None:
        """Wait for the fence and then for a share of the limits.

        A reservation that outlives the fence is given up: kept, all slots' would be spent together when it opens.
        """
        while True:
            await self._fence.open()
            await client.usable()
            await client.account.reserve(cost)
            if self._fence.is_open:
                return
            client.account.settle(cost, UNUSED)

    async def _attempt(
        self, held: Held, ordinal: int, client: TeacherClient, endpoint: Endpoint
    ) -> tuple[Outcome, Decision]:
        body = client.interpreter.api.body(held.open.prompt(ordinal).messages, ordinal % held.open.samples)
        at, start = self._clock.time(), self._clock.monotonic()
        place = client.interpreter.place
        held.open.sent(ordinal, at=at, endpoint=endpoint.host, place=place)
        outcome: Overload | Ambiguous
        try:
            reply = await client.post(endpoint, body)
        except NotSent as error:
            if error.certificate:
                raise UsageError(f"teachers.{client.teacher.name}: TLS to {endpoint.host} failed: {error}") from None
            outcome = Overload(str(error))
            return outcome, held.open.unanswered(ordinal, Kind.NOT_SENT, outcome, at=at, place=place)
        except Lost as error:
            outcome = Ambiguous(str(error))
            return outcome, held.open.unanswered(ordinal, Kind.LOST, outcome, at=at, place=place)
        latency_s = self._clock.monotonic() - start
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(reply.body))
        while True:
            try:
                return held.open.answered(
                    ordinal,
                    reply,
                    at=at,
                    latency_s=latency_s,
                    endpoint=endpoint.host,
                    read=client.interpreter.read,
                    place=place,
                )
            except StoreAway as error:  # a full disk may have room again before a stopping worker ends
                self._host.fail(error)
                await asyncio.sleep(1.0)

    def _heard(
        self, client: TeacherClient, endpoint: Endpoint, outcome: Outcome, messages: Any, *, latency_s: float
    ) -> Cost | None:
        """Count an outcome and tell the account of it; what the request used, None where that is not known."""
        counters, account = self.counters, client.account
        if isinstance(outcome, Completion):
            self.any_answer = True
            tally = counters.of(client.teacher.name)
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
            account.served(latency_s=latency_s, tokens=outcome.usage.output_tokens or 0)
            return client.learn(messages, outcome)
        counters.troubled(client.teacher.name, kind_of(outcome), outcome.message)
        if isinstance(outcome, (Rate, Ramp)):
            wait_s = STARTING_PAUSE_S if outcome.retry_after_s is None else outcome.retry_after_s
            account.refused(pause_s=wait_s, ramped=isinstance(outcome, Ramp))
            return Cost(0, 0)
        if not isinstance(outcome, (Overload, Ambiguous)):
            account.served(latency_s=latency_s, tokens=0)
        elif not endpoint.is_open:  # probes of one that is down say nothing of how much the account bears
            account.refused()
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
                    self._host.settled(held)

    def _ask_again(self, held: Held, ordinal: int, after_s: float) -> None:
        if after_s <= 0:
            self._put(held, ordinal, again=True)
            return
        asyncio.get_running_loop().call_later(after_s, functools.partial(self._put, held, ordinal, again=True))

    def _client(self, held: Held, ordinal: int) -> TeacherClient:
        return self._clients[held.open.teacher(ordinal).teacher.name]

    def _put(self, held: Held, ordinal: int, *, again: bool) -> None:
        self._work[self._client(held, ordinal)].put_nowait((held, ordinal, again))


def _served(outcome: Outcome) -> bool | None:
    """What an outcome says of its endpoint; see `Endpoints.done`."""
    return None if isinstance(outcome, Malformed) else not isinstance(outcome, (Overload, Ambiguous, ServerError))
