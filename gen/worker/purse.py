"""The purse: a worker's part of the budget. Each request takes its worst case out before it is sent.

Totals alone are exchanged with the queue, so that a lost message changes nothing. What was returned is never used
again, even if nobody heard of it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.budget import Opened, SpendReport
from stillhouse.gen.teachers.expense import NOTHING, Expense

AHEAD_S = 10.0
"""A worker asks for what it will spend in about this time: three renewals, so that one may get lost."""

MEASURE_S = 1.0


class Purse:
    """See the module."""

    def __init__(self, limits: Expense | None, *, clock: Clock) -> None:
        """`limits`: those of the whole budget; None: there is none, and nothing is ever waited for."""
        self.is_limited = limits is not None
        self._limits = limits or NOTHING
        self._clock = clock
        self._granted = self._returned = self._spent = self._in_flight = NOTHING
        self._counted = NOTHING
        """What of `_spent` is in limited measures."""
        self._waiting: deque[tuple[Expense, asyncio.Future[bool]]] = deque()
        self._is_closed = False
        self._per_s = NOTHING
        """What was spent per second of late."""
        self._measured = NOTHING
        self._measured_at = clock.monotonic()
        self.empty = asyncio.Event()
        """Set while a request waits for money."""

    @property
    def _left(self) -> Expense:
        return self._granted - self._returned - self._counted - self._in_flight

    async def reserve(self, worst: Expense) -> bool:
        """Wait for the money that a request may cost; False: there is no more, and nothing is to be sent.

        Whoever gets it calls `settle` or `give_back`, or leaves it in flight if it can't be known what was sent.
        """
        if not self.is_limited:
            return True
        if self._is_closed:
            return False
        worst = worst.within(self._limits)
        if not self._waiting and self._left.covers(worst):
            self._in_flight += worst
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((worst, turn))
        self.empty.set()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._in_flight -= worst
            raise

    def settle(self, worst: Expense, spent: Expense) -> None:
        """The request ended, and cost so much."""
        if self.is_limited:
            self._in_flight -= worst.within(self._limits)
            self._spent += spent
            self._counted += spent.within(self._limits)
            self._pay()

    def give_back(self, worst: Expense) -> None:
        """The request was not sent."""
        self.settle(worst, NOTHING)

    def accept(self, granted: Expense) -> None:
        """The queue has granted so much in all."""
        self._granted = self._granted.at_least(granted)
        self._pay()

    def close(self) -> None:
        """There is no more money: nothing is sent any more."""
        self._is_closed = True
        self._pay()

    def _pay(self) -> None:
        """Let those go on that wait and can be paid, in order."""
        while self._waiting:
            worst, turn = self._waiting[0]
            if not turn.done():
                if not self._is_closed and not self._left.covers(worst):
                    return
                if not self._is_closed:
                    self._in_flight += worst
                turn.set_result(not self._is_closed)
            self._waiting.popleft()
        self.empty.clear()

    def report(self, opened: Sequence[Opened] = (), *, ended: bool = False, shipped: bool = False) -> SpendReport:
        """Totals, and what is wanted; what can't be used is returned."""
        self._measure()
        waiting = [worst for worst, turn in self._waiting if not turn.done()]
        # What is in flight is asked for once more: so a worker that has no pace yet finds it, doubling step by step.
        wanted = self._per_s.times(AHEAD_S) + self._in_flight + sum(waiting, NOTHING)
        if self._is_closed or ended:
            wanted, waiting = NOTHING, []
        if waiting or wanted == NOTHING:
            self._returned += self._left
        else:
            self._returned += (self._left - wanted).at_least(NOTHING)
        return SpendReport(
            granted=self._granted,
            returned=self._returned,
            spent=self._spent,
            wants=(wanted - self._left).at_least(NOTHING),
            next=waiting[0] if waiting else None,
            opened=tuple(opened),
            ended=ended,
            shipped=shipped,
        )

    def _measure(self) -> None:
        """Take the pace, over a second at least."""
        now = self._clock.monotonic()
        if (seconds := now - self._measured_at) >= MEASURE_S:
            self._per_s = (self._counted - self._measured).times(1.0 / seconds)
            self._measured, self._measured_at = self._counted, now
