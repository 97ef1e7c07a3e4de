"""The online lane: one request per sample, as many at a time as the account's lease allows.

A sample that has to wait holds no slot, and a teacher that is down blocks no other lane.
"""

import asyncio
import functools
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeAlias, assert_never

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import StillhouseError, TeacherPaused
from stillhouse.gen.limits.shares import Cost
from stillhouse.gen.limits.stated_wait import Asked, Grant
from stillhouse.gen.teachers.account import UNUSED
from stillhouse.gen.teachers.billing import bill
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.expense import NOTHING
from stillhouse.gen.teachers.outcome import Outcome, Ramp, Rate
from stillhouse.gen.teachers.retry import Again, Decision, GiveUp, MoveOn, Pause, Settled
from stillhouse.gen.worker.lanes.base import DocketT, Gate, Listener, Router, prepared
from stillhouse.gen.worker.lanes.exchange import Exchange, Sample
from stillhouse.gen.worker.lanes.outcomes import Outcomes, cut_on_the_way, served_by
from stillhouse.gen.worker.tasks import Tasks

_Work: TypeAlias = tuple[DocketT, int, bool, bool]
"""(chunk, ordinal, whether it was asked before, whether it goes before all others)."""


class _Share(NamedTuple):
    """A request's share of the limits."""

    cost: Cost
    grant: Grant


class _Sent(NamedTuple):
    """An attempt that has ended."""

    outcome: Outcome
    decision: Decision
    endpoint: Endpoint
    at: float
    """Monotonic."""


class _WorkQueue(asyncio.Queue[_Work[DocketT]]):
    """First in, first out, except that most retries jump the queue, because their chunks wait for them."""

    def _put(self, item: _Work[DocketT]) -> None:
        queue: Any = self._queue  # type: ignore[attr-defined]
        queue.appendleft(item) if item[3] else queue.append(item)


class OnlineLane(Generic[DocketT]):
    """Asks one teacher's samples over its endpoints."""

    def __init__(
        self,
        client: TeacherClient,
        *,
        tasks: Tasks,
        listener: Listener[DocketT],
        gate: Gate,
        counters: Counters,
        clock: Clock,
        router: Router[DocketT] | None = None,
        goes_first: bool = False,
    ) -> None:
        """Args:
        client: the teacher's.
        tasks: the worker's.
        listener: notified when an attempt ends.
        gate: shared by all lanes of the worker.
        counters: the worker's.
        clock: the worker's.
        router: decides which teacher asks a sample, where that may be another than the one it is assigned to.
        goes_first: requests of this lane overtake those of the account's other lanes.
        """
        self.account = client.account
        self._client = client
        self._tasks = tasks
        self._listener = listener
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._router = router
        self._goes_first = goes_first
        self._place = client.interpreter.place or 0
        self._queue: _WorkQueue[DocketT] = _WorkQueue()
        self._slots: list[asyncio.Task[None]] = []
        self._exchange: Exchange[DocketT] = Exchange(client, tasks=tasks, clock=clock)
        self._outcomes = Outcomes(client, counters=counters)

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        return self._exchange.largest_reply_bytes

    @property
    def waiting(self) -> int:
        """Samples waiting for a slot."""
        return self._queue.qsize()

    @property
    def runs_dry(self) -> bool:
        """True if fewer samples are waiting than there are slots."""
        return self._queue.qsize() < max(1, self.account.slots)

    @property
    def slots(self) -> int:
        """Most samples it asks at a time; the limits may allow fewer."""
        return len(self._slots)

    @property
    def wanted(self) -> int:
        """How many more slots the lease allows; a slot too many just waits."""
        return self.account.slots - len(self._slots)

    def take(self, held: DocketT, ordinals: Iterable[int]) -> None:
        """Queue these samples of the chunk."""
        for ordinal in ordinals:
            self._put(held, ordinal, again=False)
        self.account.want_share()

    def widen(self, slots: int) -> None:
        """Open this many more slots."""
        self._slots += [self._tasks.spawn(self._slot) for _ in range(slots)]

    def cancel(self) -> None:
        """End the slots."""
        for slot in self._slots:
            slot.cancel()

    async def _slot(self) -> None:
        while True:
            held, ordinal, again, _ = await self._queue.get()
            if self._gate.is_on_hold:
                await self._gate.passed()
            if self.runs_dry or self._gate.purse.empty.is_set():
                self._listener.wants_more()
            if self._gate.stopping or held.abandoned:
                continue
            try:
                await self._ask(held, ordinal, again=again)
            except StillhouseError as error:
                self._tasks.fail(error)

    def _leaves(self, held: DocketT, ordinal: int) -> bool:
        if not held.attempts.is_wanted(ordinal):
            return True
        return self._router is not None and self._router.leaves(held, ordinal, place=self._place)

    async def _ask(self, held: DocketT, ordinal: int, *, again: bool) -> None:
        """Ask the sample once, as soon as the budget and the limits allow it."""
        if self._leaves(held, ordinal):
            return
        if held.attempts.is_slow(ordinal):
            await prepared(held, ordinal)
            if held.abandoned or self._leaves(held, ordinal):
                return
        client, purse = self._client, self._gate.purse
        prompt, key = held.attempts.prompt(ordinal), held.prompt_key(ordinal)
        if (wait_s := client.wait_s(key)) > 0.0:  # another sample of the prompt was told to wait
            self._ask_again(held, ordinal, wait_s, again=again, first=False)
            return
        chars = client.interpreter.chars_of(prompt)
        worst = client.interpreter.worst_case(prompt) if purse.is_limited else NOTHING
        if purse.is_limited and not await purse.reserve(worst):
            return
        cost = client.estimator.estimate(chars, beside=client.account.in_flight)
        if (grant := self._reserved_at_once(cost)) is None:
            waits_from = self._clock.monotonic()
            try:
                grant = await self._reserved(cost)
            except BaseException:
                purse.give_back(worst)
                raise
            self._counters.of(client.teacher.name).lease_wait_s += self._clock.monotonic() - waits_from
        sample = Sample(ordinal, again, prompt, key, chars)
        sent = await self._send(held, sample, _Share(cost, grant))  # on an error the money stays in flight
        if sent is None:
            purse.give_back(worst)
            return
        if purse.is_limited:
            purse.settle(worst, bill(client.interpreter, lambda: prompt, sent.outcome).expense)
        if not held.abandoned:
            self._follow(held, ordinal, sent.endpoint, sent.decision, sent_at=sent.at)

    async def _send(self, held: DocketT, sample: Sample, share: _Share) -> _Sent | None:
        """Send it and count the outcome; None if it was not sent and is back in the queue."""
        ordinal, again, prompt, key, chars = sample
        client = self._client
        tally = self._counters.of(client.teacher.name)
        used: Cost | None = UNUSED
        refused = False
        tally.in_flight += 1
        held.began()
        try:
            if self._leaves(held, ordinal):  # while it waited
                return None
            images = await held.images(prompt) if prompt.images else ()
            if (endpoint := self._picked(held, ordinal, again=again)) is None:
                return None
            tally.requests += 1
            tally.retries += again
            if self._router is not None:
                self._router.asked(self._place)
            sent_at = self._clock.monotonic()
            served: bool | None = False
            try:
                outcome, decision, blame = await self._exchange.attempt(held, sample, endpoint, images)
                served = served_by(outcome, endpoint)
                self._listener.heard(held, ordinal)
            finally:
                client.done(endpoint, served=served)
                if served is None and endpoint.is_open and not endpoint.answered:
                    self._counters.note(
                        f"teacher {client.teacher.name}: endpoint {endpoint.host} has not answered yet, while "
                        f"others have; its samples go to them. It said: {getattr(outcome, 'message', '')}"
                    )
            if self._router is not None:
                self._router.ended(held, ordinal, outcome, place=self._place, sent_at=sent_at)
            latency_s = self._clock.monotonic() - sent_at
            spared = blame is not None and (blame.on == "request" or blame.spares_account)
            refused = isinstance(outcome, (Rate, Ramp)) and not spared
            if cut_on_the_way(outcome) and client.timed_out(endpoint):
                self._counters.streamed.append((client.teacher.name, endpoint.host))
                self._counters.note(
                    f"teacher {client.teacher.name}: an answer timed out at {endpoint.host}; its answers are streamed "
                    "from now on, because a silent connection may be cut (`stream: false` turns that off)"
                )
            asked = Asked(key, (client.teacher.name, endpoint.host), sent_at)
            used = self._outcomes.count(endpoint, outcome, chars, asked, latency_s=latency_s, spared=spared)
        finally:
            tally.in_flight -= 1
            if refused:
                client.account.settle_refused(share.cost, share.grant)
            else:
                client.account.settle(share.cost, used, share.grant)
            held.ended()
        return _Sent(outcome, decision, endpoint, sent_at)

    def _picked(self, held: DocketT, ordinal: int, *, again: bool) -> Endpoint | None:
        """The endpoint to ask now; None if there is none, and then the sample is back in the queue."""
        client = self._client
        if not (self._gate.stopping or held.abandoned or client.account.is_paused):
            avoid = held.attempts.refused_by(ordinal)
            if (endpoint := client.endpoint(again=again, avoid=avoid)) is not None:
                return endpoint
            if self._router is not None:
                self._router.not_sent(held, ordinal)
        self._put(held, ordinal, again=again)
        return None

    def _reserved_at_once(self, cost: Cost) -> Grant | None:
        """A share of the limits; None if something has to be waited for."""
        if not (self._gate.fence.is_open and self._client.is_usable):
            return None
        return self._client.account.reserve_at_once(cost, first=self._goes_first)

    async def _reserved(self, cost: Cost) -> Grant:
        """Wait for the fence, then for a share of the limits.

        If the fence has closed meanwhile, the share is given back: or all slots would send at once when it opens.
        """
        client, fence = self._client, self._gate.fence
        while True:
            if not fence.is_open:
                await fence.open()
            await client.usable()
            grant = await client.account.reserve(cost, first=self._goes_first)
            if fence.is_open:
                return grant
            client.account.settle(cost, UNUSED, grant)

    def _follow(self, held: DocketT, ordinal: int, endpoint: Endpoint, decision: Decision, *, sent_at: float) -> None:
        client = self._client
        match decision:
            case Settled() | GiveUp():
                held.advance()
            case Again(after_s, last):
                self._ask_again(held, ordinal, after_s, first=not last)
            case MoveOn():
                self._put(held, ordinal, again=True)
            case Pause(reason, auth=False) if self._router is not None:
                self._router.out_of_money(self._place, reason)
                self._ask_again(held, ordinal, 0.0, first=True)
            case Pause(reason, auth):
                if not (auth and client.reload_key(sent_at=sent_at)):
                    where = f" at {endpoint.host}" if len(client.teacher.urls) > 1 else ""
                    raise TeacherPaused(
                        f"teacher {client.teacher.name}{where} {reason}; then run the same command again"
                    )
                self._ask_again(held, ordinal, 0.0, first=True)
            case _:
                assert_never(decision)

    def _ask_again(self, held: DocketT, ordinal: int, after_s: float, *, first: bool, again: bool = True) -> None:
        if after_s <= 0:
            self._put(held, ordinal, again=again, first=first)
            return
        put = functools.partial(self._put, held, ordinal, again=again, first=first)
        asyncio.get_running_loop().call_later(after_s, put)

    def _put(self, held: DocketT, ordinal: int, *, again: bool, first: bool | None = None) -> None:
        self._queue.put_nowait((held, ordinal, again, again if first is None else first))
