"""The purse: a worker's part of the budget. Each request takes out its worst case before it is sent.

Only totals are exchanged with the queue, so a lost message changes nothing. Money that was returned is never used
again, even if the message was lost.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.budget import Opened, SpendReport
from stillhouse.gen.teachers.expense import NOTHING, Expense

AHEAD_S = 10.0
"""A worker asks for what it will spend in about this time: three renewals, so that one may be lost."""

MEASURE_S = 1.0


class Purse:
    """A worker's part of the budget."""

    def __init__(self, limits: Expense | None, *, clock: Clock) -> None:
        """`limits`: those of the whole budget; None: there is no budget, and nothing ever waits."""
        self.is_limited = limits is not None
        self._limits = limits or NOTHING
        self._clock = clock
        self._granted = self._returned = self._spent = self._in_flight = NOTHING
        self._counted = NOTHING
        """The part of `_spent` in limited measures."""
        self._waiting: deque[tuple[Expense, asyncio.Future[bool]]] = deque()
        self._is_closed = False
        self._per_s = NOTHING
        """Recent spending per second."""
        self._measured = NOTHING
        self._measured_at = clock.monotonic()
        self.empty = asyncio.Event()
        """Set while a request waits for money."""

    @property
    def _left(self) -> Expense:
        return self._granted - self._returned - self._counted - self._in_flight

    async def reserve(self, worst: Expense) -> bool:
        """Wait for the money that a request may cost; False: there is no more, and nothing may be sent.

        The caller then calls `settle` or `give_back`, or leaves it in flight if it is unknown what was sent.
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
        """The request ended, and cost this much."""
        if self.is_limited:
            self._in_flight -= worst.within(self._limits)
            self._spent += spent
            self._counted += spent.within(self._limits)
            self._pay()

    def give_back(self, worst: Expense) -> None:
        """The request was not sent."""
        self.settle(worst, NOTHING)

    def accept(self, granted: Expense) -> None:
        """The queue has granted this much in total."""
        self._granted = self._granted.at_least(granted)
        self._pay()

    def close(self) -> None:
        """There is no more money: nothing more is sent."""
        self._is_closed = True
        self._pay()

    def _pay(self) -> None:
        """Release the waiting requests that can be paid for, in order."""
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
        # Request the money in flight once more, so that a worker without a known pace finds it by doubling.
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
        """Measure the pace, over at least a second."""
        now = self._clock.monotonic()
        if (seconds := now - self._measured_at) >= MEASURE_S:
            self._per_s = (self._counted - self._measured).times(1.0 / seconds)
            self._measured, self._measured_at = self._counted, now
