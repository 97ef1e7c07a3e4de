"""The purse: a worker's part of the budget. Each request takes out its worst case before it is sent.

Only totals are exchanged with the queue, so a lost message changes nothing. Money that was returned is never used
again, even if the message was lost.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.budget import Opened, SpendReport
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.expense import NOTHING, Expense

AHEAD_S = 10.0
"""A worker asks for what it will spend in about this time: three renewals, so that one may be lost."""

MEASURE_S = 1.0


@dataclass(slots=True, eq=False)
class _Turn:
    """Requests that wait for money."""

    worst: Sequence[Expense]
    taken: "asyncio.Future[int]"
    """Number of requests that there was money for."""


@dataclass(slots=True, eq=False)
class _Batches:
    """What is put aside for a chunk's batches, and what of it the queue does not know yet."""

    begun: Expense = NOTHING
    ended: Expense = NOTHING
    moved: Expense = NOTHING
    """The balance of what was reported."""

    def reported(self) -> Expense:
        """The balance that is reported now."""
        balance = self.begun - self.ended
        self.moved += balance
        self.begun = self.ended = NOTHING
        return balance


class Purse:
    """A worker's part of the budget."""

    def __init__(self, limits: Expense | None, *, clock: Clock) -> None:
        """`limits`: those of the whole budget; None: there is no budget, and nothing ever waits."""
        self.is_limited = limits is not None
        self._limits = limits or NOTHING
        self._clock = clock
        self._granted = self._returned = self._spent = self._in_flight = NOTHING
        self._stranded = NOTHING
        """The part of `_in_flight` that stays there; see `lost`."""
        self._moved = NOTHING
        """Money set aside for batches, less what came back, as reported."""
        self._batches: dict[ChunkId, _Batches] = {}
        """Money set aside for batches, by chunk in hand."""
        self._counted = NOTHING
        """The part of `_spent` in limited measures."""
        self._waiting: deque[_Turn] = deque()
        self._is_closed = False
        self._per_s = NOTHING
        """Recent spending per second."""
        self._measured = NOTHING
        self._measured_at = clock.monotonic()
        self.empty = asyncio.Event()
        """Set while a request waits for money."""

    @property
    def _left(self) -> Expense:
        unreported = sum((batches.begun for batches in self._batches.values()), NOTHING)
        return self._granted - self._returned - self._counted - self._in_flight - self._moved - unreported

    async def reserve(self, worst: Expense) -> bool:
        """Wait for the money that a request may cost; False: there is no more, and nothing may be sent.

        The caller then calls `settle` or `give_back`, or leaves it in flight if it is unknown what was sent.
        """
        return not self.is_limited or await self.reserve_some([worst]) == 1

    async def reserve_some(self, worst: Sequence[Expense]) -> int:
        """Wait for the money that the first of these requests may cost, and take it out for as many as there is money.

        Returns their number; 0 if there is no more money. Call it only if the budget is limited.
        """
        if self._is_closed:
            return 0
        turn = _Turn([each.within(self._limits) for each in worst], asyncio.get_running_loop().create_future())
        if not self._waiting and self._left.covers(turn.worst[0]):
            return self._taken(turn)
        self._waiting.append(turn)
        self.empty.set()
        try:
            return await turn.taken
        except asyncio.CancelledError:
            if turn.taken.done() and not turn.taken.cancelled():
                self._in_flight -= sum(turn.worst[: turn.taken.result()], NOTHING)
            raise

    def _taken(self, turn: "_Turn") -> int:
        """Take out what the first requests may cost, as many as there is money for."""
        left, count = self._left, 0
        while count < len(turn.worst) and left.covers(turn.worst[count]):
            left -= turn.worst[count]
            count += 1
        self._in_flight += sum(turn.worst[:count], NOTHING)
        return count

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

    def batch_begins(self, chunk: ChunkId, worst: Expense) -> None:
        """Set aside what was taken out for the batch, to be settled by whoever collects it."""
        if self.is_limited:
            worst = worst.within(self._limits)
            self._in_flight -= worst
            self._of(chunk).begun += worst

    def batch_ended(self, chunk: ChunkId, worst: Expense) -> None:
        """All results of the batch are settled: what was set aside for it can be spent once that is reported."""
        if self.is_limited:
            self._of(chunk).ended += worst.within(self._limits)

    def spend(self, spent: Expense) -> None:
        """A result of a batch came, and cost this much."""
        self.settle(NOTHING, spent)

    def let_go(self, chunk: ChunkId) -> None:
        """The queue knows that the chunk is sealed or parked, and all that was reported of it."""
        self._batches.pop(chunk, None)
        self._pay()

    def lost(self, chunk: ChunkId) -> None:
        """The chunk is another's. What was put aside here for its batches stays in flight, as a report may be lost. Its
        new owner puts the same aside once more, so this must not be waited for."""
        if (batches := self._batches.pop(chunk, None)) is not None:
            here = batches.moved.at_least(NOTHING)
            self._moved -= here
            self._in_flight += here + batches.begun
            self._stranded += here + batches.begun

    def _of(self, chunk: ChunkId) -> "_Batches":
        return self._batches.setdefault(chunk, _Batches())

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
            turn = self._waiting[0]
            if not turn.taken.done():
                if not self._is_closed and not self._left.covers(turn.worst[0]):
                    return
                turn.taken.set_result(0 if self._is_closed else self._taken(turn))
            self._waiting.popleft()
        self.empty.clear()

    def report(self, opened: Sequence[Opened] = (), *, ended: bool = False, shipped: bool = False) -> SpendReport:
        """Totals, and what is wanted; what can't be used is returned."""
        self._measure()
        for each in opened:
            if (batches := self._batches.get(each.chunk)) is not None:
                self._moved += batches.reported()
        self._pay()
        waiting = [turn.worst for turn in self._waiting if not turn.taken.done()]
        # Request the money in flight once more, so that a worker without a known pace finds it by doubling.
        wanted = self._per_s.times(AHEAD_S) + self._in_flight
        wanted += sum((each for worst in waiting for each in worst), NOTHING)
        if self._is_closed or ended:
            wanted, waiting = NOTHING, []
        if waiting or wanted == NOTHING:
            self._returned += self._left.at_least(NOTHING)  # below it while a batch's results come: they pay later
        else:
            self._returned += (self._left - wanted).at_least(NOTHING)
        return SpendReport(
            granted=self._granted,
            returned=self._returned,
            spent=self._spent,
            moved=self._moved,
            stranded=self._stranded,
            wants=(wanted - self._left).at_least(NOTHING),
            next=waiting[0][0] if waiting else None,
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
