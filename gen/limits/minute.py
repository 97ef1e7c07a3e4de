"""A worker's share of a resource in the last minute, and what it spent of it: the second never exceeds the first.

A bucket that paces by estimates can't guarantee this for tokens, because a request's usage is only known when its
answer is complete. Until then, this class counts the most that the request may use; afterwards, its real usage, at the
moment it was sent. Pure: times are arguments.
"""

from dataclasses import dataclass, field

SLOT_S = 0.1
"""Resolution. The window is longer than a minute by up to one slot; the granted rates leave room for this."""

_SLOTS = round(60 / SLOT_S) + 1


@dataclass(slots=True)
class Minute:
    """Counts one resource over the last minute. `rate`: units per second that nobody used in the minute before
    `now`."""

    rate: float
    now: float
    _given: list[float] = field(init=False)
    _spent: list[float] = field(init=False)
    _given_sum: float = field(init=False)
    _spent_sum: float = 0.0
    _slot: int = field(init=False)

    def __post_init__(self) -> None:
        """Start with a minute in which nothing was spent, so that the first requests may be large."""
        self._given = [self.rate * SLOT_S] * _SLOTS
        self._given_sum = sum(self._given)
        self._spent = [0.0] * _SLOTS
        self._slot = int(self.now / SLOT_S)

    def _advance(self, now: float) -> None:
        slot = int(now / SLOT_S)
        for each in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            place = each % _SLOTS
            self._given_sum -= self._given[place]
            self._spent_sum -= self._spent[place]
            self._given[place] = self._spent[place] = 0.0
        self._slot = max(self._slot, slot)

    def give(self, amount: float, *, now: float) -> None:
        """The share granted this amount recently."""
        self._advance(now)
        self._given[self._slot % _SLOTS] += amount
        self._given_sum += amount

    def allows(self, amount: float, *, now: float) -> bool:
        """True if this amount may be spent now; amounts above any minute's share are let through one at a time.

        Amounts below half a token are rounding errors.
        """
        self._advance(now)
        return self._spent_sum < 0.5 or self._spent_sum + amount <= self._given_sum

    def spend(self, amount: float, *, at: float) -> None:
        """This amount was spent at that moment; negative if less was used than reserved."""
        if (slot := int(at / SLOT_S)) > self._slot - _SLOTS:
            self._spent[slot % _SLOTS] += amount
            self._spent_sum += amount
