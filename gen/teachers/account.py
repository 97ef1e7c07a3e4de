"""A worker's side of an account: requests wait here, in order, for their share of the limits."""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from stillhouse.gen.clock import Clock
from stillhouse.gen.limits.allowance import Allowance
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import BURST_S, Ceiling, Ceilings, Cost, Lease, Report, Resource
from stillhouse.gen.limits.stated_wait import MIN_OWN_S, SERVED_LATELY_S, Asked, Grant, StatedWait, Trial, Whose

LEAST_PAUSE_S = 0.05
MOST_LEAST_PAUSE_S = 1.0
"""A 429 causes a pause even if it asks for almost no wait; another one with no answer in between causes a longer
pause."""
SHRUNK = 0.9
"""A share that became smaller than this part is reported at once, and so are requests in flight where no others may
follow: until then nobody else gets what was lost."""
MOST_HELD_S = 2.0
"""A refused request keeps its slot as long as an answer would take, up to this limit."""
UNUSED = Cost(0, 0)
"""Usage of a request that was never sent, or was refused."""


_Turn: TypeAlias = tuple[Cost, "asyncio.Future[Grant]"]


class Account:
    """A worker's side of an account: requests wait here, in order, for their share of the limits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowance = Allowance()
        self._first: deque[_Turn] = deque()
        """Requests that go before `_waiting`."""
        self._waiting: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._reported_at = clock.monotonic()
        self._served = 0
        self._served_at = -math.inf
        self._refused = 0
        self._busy_s = 0.0
        self._tokens = 0
        self._answer_s = 0.0
        """Recent average latency of answers."""
        self._ramped = False
        self._least_pause_s = LEAST_PAUSE_S
        self._wait = StatedWait()
        self._reported = self._wait
        self._refused_last: Asked | None = None
        """The request whose refusal was the last to state this wait."""
        self._ceilings = Ceilings()
        self._wants_share = False
        """True if the last report said that there is something to send."""
        self._falling: int | None = None
        """Requests in flight at the last report, if no others may follow them."""
        self.urgent = asyncio.Event()
        """Set when a report to the ledger is urgent."""

    async def reserve(self, cost: Cost, *, first: bool = False) -> Grant:
        """Wait for the right to send a request of this cost; `settle` ends it.

        `first`: it goes before requests that wait without it.

        A grant applies immediately: if the process stalls before the request is sent, the rate it was granted from has
        filled up again, and both together would exceed the limit. Such a grant expires.
        """
        if (at_once := self.reserve_at_once(cost, first=first)) is not None:
            return at_once
        while True:
            grant = await self._granted(cost, first=first)
            if self._clock.monotonic() <= grant.at + BURST_S:
                return grant
            self.settle(cost, UNUSED, grant)

    def reserve_at_once(self, cost: Cost, *, first: bool = False) -> Grant | None:
        """The same without waiting; None if it would have to wait."""
        now = self._clock.monotonic()
        if not self._first and (first or not self._waiting) and self._allowance.reserve(cost, now=now) == 0.0:
            return Grant(now)
        return None

    async def _granted(self, cost: Cost, *, first: bool) -> Grant:
        """Wait in order for a grant."""
        turn: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        (self._first if first else self._waiting).append((cost, turn))
        self._pump()
        self.want_share()
        try:
            grant = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._pump()  # requests behind it may be granted now
            else:
                self._allowance.take(now=self._clock.monotonic())
                self.settle(cost, UNUSED, turn.result())
            raise
        self._allowance.take(now=self._clock.monotonic())
        return grant

    def want_share(self) -> None:
        """There is something to send: report that at once if the last report said otherwise."""
        if not self._wants_share:
            self._wants_share = True
            self.urgent.set()

    @property
    def is_paused(self) -> bool:
        """True if the teacher made the account wait, which also applies to reserved requests except a trial."""
        return self._allowance.is_paused(now=self._clock.monotonic()) and not self._wait.is_tried

    @property
    def in_flight(self) -> int:
        """Requests reserved and not settled."""
        return self._allowance.in_flight

    def settle(self, reserved: Cost, used: Cost | None, grant: Grant | None = None) -> None:
        """The request of this grant (by default one made now) has ended; see `Allowance.settle`."""
        now = self._clock.monotonic()
        self._allowance.settle(reserved, used, now=now, at=None if grant is None else grant.at)
        self._wait = self._wait.trial_ended(grant, now)
        if self._falling is not None and self.in_flight < SHRUNK * self._falling:
            self.urgent.set()
        self._pump()

    def settle_refused(self, reserved: Cost, grant: Grant | None = None) -> None:
        """The request was refused for a limit: its slot is freed when an answer would have come.

        If freed at once, the few requests above the limit would be sent and refused every few milliseconds.
        """
        hold_s = min(self._answer_s, MOST_HELD_S)
        asyncio.get_running_loop().call_later(hold_s, self.settle, reserved, UNUSED, grant)

    def served(self, *, latency_s: float, tokens: int, asked: Asked | None = None) -> None:
        """Record an answer, with its latency and output tokens, to this request."""
        self._served += 1
        self._served_at = self._clock.monotonic()
        self._busy_s += latency_s
        self._answer_s += 0.1 * (latency_s - self._answer_s)
        self._tokens += tokens
        self._least_pause_s = LEAST_PAUSE_S
        if self._wait.whose == "unclear" and asked and self._refused_last and asked.shows_own(self._refused_last):
            self._wait = self._wait.is_own()
            self.urgent.set()

    def refused(self, *, pause_s: float | None = None, ramped: bool = False, asked: Asked | None = None) -> None:
        """This request was refused for a limit, or got no complete answer; it may make the whole account wait.

        `ramped`: refused for growing too fast.
        """
        self._refused += 1
        self._ramped = self._ramped or ramped
        if pause_s is not None:
            now = self._clock.monotonic()
            if not self.is_paused:
                pause_s = max(pause_s, self._least_pause_s)
                self._least_pause_s = min(2 * self._least_pause_s, MOST_LEAST_PAUSE_S)
            self._allowance.pause(pause_s, now=now)
            self._refused_last = asked
            whose: Whose = "account" if asked is None or pause_s < MIN_OWN_S else "unclear"
            trial = None
            if asked and now < self._served_at + SERVED_LATELY_S:
                trial = Trial.after(now, refusal_s=now - asked.at)
            self._wait = self._wait.told(asked and asked.prompt, pause_s, whose=whose, now=now, trial=trial)
            self.urgent.set()

    def told(self, ceilings: Mapping[Resource, Ceiling]) -> None:
        """Apply what a reply says is left of the account's limits."""
        self._ceilings.take(ceilings, now=self._clock.monotonic())
        # Below half our share is too large a drop to wait for the next renewal; less is not worth one per reply.
        if any(ceiling.rate < self._allowance.rate(name) / 2 for name, ceiling in ceilings.items()):
            self.urgent.set()

    def report(self, *, backlog: int | None, is_last: bool = False) -> Report:
        """Activity since the last report; `backlog`: requests besides those waiting here, None if none may be sent now.

        `is_last`: there are no more for now. Once none waits, the lease is given up with the report, because what
        is left of it is of use only to others.
        A wait ordered by the teacher is repeated until it ends, because a report may get lost.
        """
        now = self._reported_at = self._clock.monotonic()
        self._wait = self._wait.weighed(now)
        waiting = 0 if backlog is None else backlog + len(self._first) + len(self._waiting)
        if gives_up := is_last and backlog == waiting == 0:
            self._allowance.give_up(now=now)
        held = self._allowance.most_in_flight(now=now)
        self._falling = self.in_flight if gives_up or self.in_flight > self.slots else None
        report = Report(
            in_flight=self._allowance.peak,
            waiting=waiting,
            replies=Replies(self._served, self._refused, self._busy_s, self._tokens),
            pause_s=self._wait.left_s(now),
            whose=self._wait.whose,
            ramped=self._ramped,
            ceilings=self._ceilings.standing(now=now),
            held=held,
            gave_up=gives_up,
        )
        self._reported = self._wait
        self._allowance.peak = self._allowance.in_flight
        self._served = self._refused = self._tokens = 0
        self._busy_s = 0.0
        self._ramped = False
        self._wants_share = waiting > 0 or (not gives_up and report.in_flight > 0)
        self.urgent.clear()
        return report

    def accept(self, lease: Lease) -> None:
        """Apply the lease granted for the last report.

        It lifts a pause only if that report said that the wait is one prompt's own.
        """
        now = self._clock.monotonic()
        here = self._wait.silent_s(now) if self._reported == self._wait else self._wait.left_s(now)
        lease = replace(lease, pause_s=max(lease.pause_s, here))
        if self._allowance.shrinks(lease, below=SHRUNK):
            self.urgent.set()
        self._allowance.accept(lease, asked_at=self._reported_at, now=now)
        self._pump()

    @property
    def slots(self) -> int:
        """Maximum number of requests in flight here."""
        return self._allowance.slots

    def _pump(self) -> None:
        """Release waiters in order as far as the share allows, and schedule the next round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while queue := self._first or self._waiting:
            cost, turn = queue[0]
            now = self._clock.monotonic()
            grant = Grant(now)
            wait = 0.0 if turn.done() else self._allowance.reserve(cost, now=now, taken=False)
            if wait > 0.0 and (trial_s := self._wait.trial_in_s(now)) < wait:
                wait = trial_s or self._allowance.reserve(cost, now=now, taken=False, in_pause=True)
                if wait == 0.0:
                    self._wait = self._wait.trial_sent(grant)
            if wait > 0.0:
                if wait < 3600.0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                return
            queue.popleft()
            if not turn.done():
                turn.set_result(grant)
