"""The asker: takes samples from one queue per teacher, asks them, and applies the retry policy to each outcome.

It has as many slots for each teacher as its account's lease allows; a teacher that serves nothing blocks no other. A
sample that has to wait leaves the queue and holds no slot. Nothing is sent while the worker's fence is closed.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import StillhouseError, StoreAway, TeacherPaused, UsageError
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.limits.shares import Cost
from stillhouse.gen.teachers.account import UNUSED, Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    BadRequest,
    Malformed,
    Outcome,
    Overload,
    Ramp,
    Rate,
    ServerError,
    kind_of,
)
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.retry import Again, Blame, Decision, Pause
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.leased_chunk import Held
from stillhouse.schemas.completion import Completion

LACKING = 3
"""Answers without requested log probabilities before this is reported."""

STARTING_PAUSE_S = 1.0
"""Pause of the account after a 429 that does not say how long."""

_T = TypeVar("_T")
_Work: TypeAlias = tuple[Held, int, bool, bool]
"""(chunk, ordinal, whether it was asked before, whether it goes before all others)."""


class _WorkQueue(asyncio.Queue[_Work]):
    """First in, first out, but most samples asked before come first: their chunks wait for them."""

    def _put(self, item: _Work) -> None:
        queue: Any = self._queue  # type: ignore[attr-defined]
        queue.appendleft(item) if item[3] else queue.append(item)


class Host(Protocol):
    """The worker as its asker sees it."""

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> asyncio.Task[None]:
        """Run a task that ends with the worker."""
        ...

    def fail(self, error: StillhouseError) -> None:
        """Stop in good order because of this error."""
        ...

    def heard(self, held: Held) -> None:
        """A reply came for the chunk."""
        ...

    def taken(self) -> None:
        """A sample left the queue: more may be wanted."""
        ...

    def settled(self, held: Held) -> None:
        """The chunk's last sample is settled."""
        ...


class Asker:
    """See the module."""

    def __init__(
        self,
        host: Host,
        *,
        clients: Sequence[TeacherClient],
        fence: Fence,
        clock: Clock,
        connections: int = 2**20,
    ) -> None:
        """`connections`: how many the process can have at once."""
        self.counters = Counters()
        self.largest_reply_bytes = 0
        self._host = host
        self._clients = {client.teacher.name: client for client in clients}
        self._accounts = {client.account for client in clients}
        self._fence = fence
        self._clock = clock
        self._work = {client: _WorkQueue() for client in clients}
        self._slots: dict[TeacherClient, list[asyncio.Task[None]]] = {client: [] for client in clients}
        self._connections = connections
        self._lacking: dict[str, int] = {}
        """Per teacher: answers without the requested log probabilities."""
        self._stopping = False
        self._asking = asyncio.Event()
        self._asking.set()

    def stop(self) -> None:
        """Send nothing new; requests in flight continue."""
        self._stopping = True

    def hold(self) -> None:
        """Send nothing new until `go_on`."""
        self._asking.clear()

    def go_on(self) -> None:
        """Send again."""
        self._asking.set()

    def cancel(self) -> None:
        """End the slots."""
        for slot in itertools.chain.from_iterable(self._slots.values()):
            slot.cancel()

    def waiting(self, account: Account) -> int:
        """Samples of an account's teachers that only wait for slots."""
        return sum(queue.qsize() for client, queue in self._work.items() if client.account is account)

    @property
    def runs_dry(self) -> bool:
        """True if a teacher has fewer samples waiting than slots."""
        return any(queue.qsize() < max(1, client.account.slots) for client, queue in self._work.items())

    @property
    def slots(self) -> int:
        """Maximum number of requests in flight."""
        return sum(account.slots for account in self._accounts)

    def take(self, held: Held) -> None:
        """Queue the chunk's unsettled samples."""
        for ordinal in held.open.todo():
            self._put(held, ordinal, again=False)

    def fill_slots(self) -> None:
        """Have as many slots as the leases and the process's file descriptors allow; too many only wait."""
        room = self._connections - sum(map(len, self._slots.values()))
        for client, slots in self._slots.items():
            wanted = client.account.slots - len(slots)
            if wanted > room:
                self.counters.note(
                    f"a worker is limited to {self._connections} requests in flight: its process can't open more files "
                    "(`ulimit -Hn`); raise that, or use more workers (`run.workers`)"
                )
            slots += [self._host.spawn(self._slot, client) for _ in range(min(wanted, room))]
            room -= max(0, min(wanted, room))

    async def _slot(self, client: TeacherClient) -> None:
        while True:
            held, ordinal, again, _ = await self._work[client].get()
            await self._asking.wait()
            self._host.taken()
            if self._stopping or held.abandoned:
                continue
            try:
                await self._ask(held, ordinal, again=again)
            except StillhouseError as error:
                self._host.fail(error)

    async def _ask(self, held: Held, ordinal: int, *, again: bool) -> None:
        prompt, client = held.open.prompt(ordinal), self._client(held, ordinal)
        chars = sum([len(content) for _, content in prompt.messages])
        cost = client.estimator.estimate(chars)
        tally, waits_from = self.counters.of(client.teacher.name), self._clock.monotonic()
        await self._reserved(client, cost)
        tally.lease_wait_s += self._clock.monotonic() - waits_from
        used: Cost | None = Cost(0, 0)
        refused = False
        tally.in_flight += 1
        held.under_way += 1
        try:
            holds_back = self._stopping or held.abandoned or client.account.is_paused
            avoid = held.open.tries(ordinal).refused_by
            if holds_back or (endpoint := client.endpoint(again=again, avoid=avoid)) is None:
                self._put(held, ordinal, again=again)
                return
            tally.requests += 1
            tally.retries += again
            sent_at = self._clock.monotonic()
            served: bool | None = False
            try:
                outcome, decision, blame = await self._attempt(held, ordinal, client, endpoint)
                served = _served(outcome, endpoint)
                self._host.heard(held)
            finally:
                client.done(endpoint, served=served)
                if served is None and endpoint.is_open and not endpoint.answered:
                    self.counters.note(
                        f"teacher {client.teacher.name}: endpoint {endpoint.host} has answered nothing yet, while "
                        f"others do; its samples go to them. It said: {getattr(outcome, 'message', '')}"
                    )
            latency_s = self._clock.monotonic() - sent_at
            spared = blame is not None and (blame.on == "request" or blame.spares_account)
            refused = isinstance(outcome, (Rate, Ramp)) and not spared
            used = self._heard(client, endpoint, outcome, chars, latency_s=latency_s, spared=spared)
        finally:
            tally.in_flight -= 1
            if refused:
                client.account.settle_refused(cost)
            else:
                client.account.settle(cost, used)
            held.ended()
        if not held.abandoned:
            self._follow(held, ordinal, client, endpoint, decision, sent_at=sent_at)

    async def _reserved(self, client: TeacherClient, cost: Cost) -> None:
        """Wait for the fence and then for a share of the limits.

        A reservation that outlives the fence is given up; otherwise all slots would send at once when it opens.
        """
        while True:
            if not self._fence.is_open:
                await self._fence.open()
            await client.usable()
            await client.account.reserve(cost)
            if self._fence.is_open:
                return
            client.account.settle(cost, UNUSED)

    async def _attempt(
        self, held: Held, ordinal: int, client: TeacherClient, endpoint: Endpoint
    ) -> tuple[Outcome, Decision, Blame | None]:
        ask = Request(held.open.prompt(ordinal).messages, ordinal % held.open.samples)
        at, start = self._clock.time(), self._clock.monotonic()
        request = client.request(ask, endpoint, now=at)
        place = client.interpreter.place
        held.open.sent(ordinal, at=at, endpoint=endpoint.host, place=place)
        outcome: Overload | Ambiguous
        try:
            reply = await client.send(request)
        except NotSent as error:
            if error.certificate:
                raise UsageError(f"teachers.{client.teacher.name}: TLS to {endpoint.host} failed: {error}") from None
            outcome = Overload(str(error))
            return (
                outcome,
                held.open.unanswered(ordinal, Kind.NOT_SENT, outcome, at=at, place=place, endpoint=endpoint.host),
                None,
            )
        except Lost as error:
            outcome = Ambiguous(str(error), deadline=error.deadline)
            return (
                outcome,
                held.open.unanswered(ordinal, Kind.LOST, outcome, at=at, place=place, endpoint=endpoint.host),
                None,
            )
        latency_s = self._clock.monotonic() - start
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(reply.body))
        received = await self._kept(
            functools.partial(
                held.open.received,
                ordinal,
                reply,
                at=at,
                latency_s=latency_s,
                endpoint=endpoint.host,
                place=place,
            )
        )
        prompt = (held.open.chunk.id, ordinal // held.open.samples)
        blame = client.weigh(prompt, received.outcome, endpoint=endpoint, sent_at=start)
        decision = await self._kept(functools.partial(held.open.answered, received, blame=blame))
        if reply.ceilings and not (blame is not None and (blame.on == "request" or blame.spares_account)):
            client.account.told(reply.ceilings)
        return received.outcome, decision, blame

    async def _kept(self, keep: Callable[[], _T]) -> _T:
        """Keep what was paid for; on a full disk, try again while the worker stops: there may be room by then."""
        while True:
            try:
                return keep()
            except StoreAway as error:
                self._host.fail(error)
                await asyncio.sleep(1.0)

    def _heard(
        self,
        client: TeacherClient,
        endpoint: Endpoint,
        outcome: Outcome,
        chars: int,
        *,
        latency_s: float,
        spared: bool,
    ) -> Cost | None:
        """Count an outcome and report it to the account; returns what the request used, None if unknown.

        `spared`: the request alone is to blame, and slows nobody else.
        """
        counters, account = self.counters, client.account
        if isinstance(outcome, Completion):
            tally = counters.of(client.teacher.name)
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
            if client.interpreter.wants_logprobs and outcome.logprobs is None:
                self._lacks_logprobs(client)
            account.served(latency_s=latency_s, tokens=outcome.usage.output_tokens or 0)
            return client.learn(chars, outcome)
        counters.troubled(client.teacher.name, kind_of(outcome), outcome.message)
        if spared:
            return Cost(0, 0)
        if isinstance(outcome, (Rate, Ramp)):
            wait_s = STARTING_PAUSE_S if outcome.retry_after_s is None else outcome.retry_after_s
            account.refused(pause_s=wait_s, ramped=isinstance(outcome, Ramp))
            return Cost(0, 0)
        if not isinstance(outcome, (Overload, Ambiguous)):
            account.served(latency_s=latency_s, tokens=0)
        elif not endpoint.is_open and not _cut_on_the_way(
            outcome
        ):  # probes of a dead endpoint say nothing about the account's capacity
            account.refused()
        return Cost(0, 0) if isinstance(outcome, Overload) else None

    def _lacks_logprobs(self, client: TeacherClient) -> None:
        """Report once that requested log probabilities are missing."""
        name = client.teacher.name
        self._lacking[name] = self._lacking.get(name, 0) + 1
        if self._lacking[name] == LACKING:
            self.counters.note(
                f"teacher {name}: log probabilities were requested (ask.top_logprobs), but {LACKING} answers came "
                "without any: their column is null. Does this server support them for this model?"
            )

    def _follow(
        self, held: Held, ordinal: int, client: TeacherClient, endpoint: Endpoint, decision: Decision, *, sent_at: float
    ) -> None:
        match decision:
            case Again(after_s, last):
                self._ask_again(held, ordinal, after_s, first=not last)
            case Pause(reason, auth):
                if not (auth and client.reload_key(sent_at=sent_at)):
                    where = f" at {endpoint.host}" if len(client.teacher.urls) > 1 else ""
                    raise TeacherPaused(
                        f"teacher {client.teacher.name}{where} {reason}; then run the same command again"
                    )
                self._ask_again(held, ordinal, 0.0, first=True)
            case _:
                if held.open.left == 0:
                    self._host.settled(held)

    def _ask_again(self, held: Held, ordinal: int, after_s: float, *, first: bool) -> None:
        if after_s <= 0:
            self._put(held, ordinal, again=True, first=first)
            return
        put = functools.partial(self._put, held, ordinal, again=True, first=first)
        asyncio.get_running_loop().call_later(after_s, put)

    def _client(self, held: Held, ordinal: int) -> TeacherClient:
        return self._clients[held.open.teacher(ordinal).teacher.name]

    def _put(self, held: Held, ordinal: int, *, again: bool, first: bool | None = None) -> None:
        self._work[self._client(held, ordinal)].put_nowait((held, ordinal, again, again if first is None else first))


def _served(outcome: Outcome, endpoint: Endpoint) -> bool | None:
    """What an outcome says about its endpoint; see `Endpoints.done`."""
    if isinstance(outcome, Malformed) or (isinstance(outcome, BadRequest) and not endpoint.answered):
        return None  # another model, or no API at all, may be there
    return not isinstance(outcome, (Overload, Ambiguous, ServerError)) or _cut_on_the_way(outcome)


def _cut_on_the_way(outcome: Outcome) -> bool:
    """True if a gateway or the recipe's `timeout_s` ended the wait, which only reflects this answer's length."""
    return isinstance(outcome, Ambiguous) and (outcome.deadline or (outcome.status or 0) >= 400)
