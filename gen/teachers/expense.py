"""What requests cost, in the three measures that a budget can limit. Integers, so that sums are exact."""

import math
from dataclasses import dataclass

from stillhouse.schemas.budget import Budget

NANO = 1_000_000_000
"""Nanodollars per dollar: a token at a hundredth of a dollar per million costs ten of them."""

UNLIMITED = 2**62
"""Stands for the limit of a measure that a budget does not limit."""


@dataclass(frozen=True, slots=True)
class Expense:
    """An amount of each measure; a difference may be below zero."""

    requests: int = 0
    output_tokens: int = 0
    nano_usd: int = 0

    def __add__(self, other: "Expense") -> "Expense":
        return Expense(
            self.requests + other.requests,
            self.output_tokens + other.output_tokens,
            self.nano_usd + other.nano_usd,
        )

    def __sub__(self, other: "Expense") -> "Expense":
        return Expense(
            self.requests - other.requests,
            self.output_tokens - other.output_tokens,
            self.nano_usd - other.nano_usd,
        )

    def covers(self, other: "Expense") -> bool:
        """True if it is at least the other in every measure."""
        return (
            self.requests >= other.requests
            and self.output_tokens >= other.output_tokens
            and self.nano_usd >= other.nano_usd
        )

    def at_most(self, other: "Expense") -> "Expense":
        """The smaller of both, measure by measure."""
        return Expense(
            min(self.requests, other.requests),
            min(self.output_tokens, other.output_tokens),
            min(self.nano_usd, other.nano_usd),
        )

    def at_least(self, other: "Expense") -> "Expense":
        """The larger of both, measure by measure."""
        return Expense(
            max(self.requests, other.requests),
            max(self.output_tokens, other.output_tokens),
            max(self.nano_usd, other.nano_usd),
        )

    def times(self, factor: float) -> "Expense":
        """The amount times this number, rounded down."""
        return Expense(int(self.requests * factor), int(self.output_tokens * factor), int(self.nano_usd * factor))

    def within(self, limits: "Expense") -> "Expense":
        """The amount in the limited measures, 0 in all others."""
        return Expense(
            self.requests if limits.requests < UNLIMITED else 0,
            self.output_tokens if limits.output_tokens < UNLIMITED else 0,
            self.nano_usd if limits.nano_usd < UNLIMITED else 0,
        )

    @property
    def usd(self) -> float:
        """The amount in dollars."""
        return self.nano_usd / NANO


NOTHING = Expense()


def nano_usd(usd: float) -> int:
    """Dollars as nanodollars, rounded up, except for errors of float arithmetic."""
    return math.ceil(round(usd * NANO, 3))


def limits_of(budget: Budget) -> Expense:
    """The budget's limits; `UNLIMITED` for measures without one."""
    return Expense(
        UNLIMITED if budget.requests is None else budget.requests,
        UNLIMITED if budget.output_tokens is None else budget.output_tokens,
        UNLIMITED if budget.usd is None else nano_usd(budget.usd),
    )
