"""How much of a budget is used, measure by measure, as numbers and as text."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.teachers.expense import Expense
from stillhouse.schemas.budget import Budget

_UNITS = {"usd": "USD", "requests": "requests", "output_tokens": "output tokens"}
_SMALL_USD = 0.1
"""Smaller amounts are shown with four significant digits."""


class Use(BaseModel):
    """One measure: dollars, requests or tokens."""

    model_config = ConfigDict(frozen=True)

    limit: int | float
    used: int | float


def uses_of(budget: Budget, spent: Expense) -> dict[str, Use]:
    """Each measure that the budget limits, by the name of its field."""
    limits = budget.model_dump(exclude_none=True)
    return {name: Use(limit=limit, used=getattr(spent, name)) for name, limit in limits.items()}


def share_used(uses: Mapping[str, Use]) -> float:
    """The largest used part of any limit."""
    return max(use.used / use.limit for use in uses.values())


def used_words(uses: Mapping[str, Use]) -> str:
    """What is used: `99.71 of 100.00 USD, 512 of 1,000 requests`."""
    return ", ".join(_used(name, use) for name, use in uses.items())


def over_line(budget: Budget, spent: Expense, unpayable: Expense) -> str:
    """Why asking ended, by the measure that has no room for this request."""
    uses, wanted = uses_of(budget, spent), uses_of(budget, unpayable)
    over = (name for name, use in uses.items() if round(use.used + wanted[name].used, 9) > use.limit)
    name = next(over, next(iter(uses)))
    worst = _amount(name, wanted[name].used)
    return f"budget: {_used(name, uses[name])} used; the next request could cost {worst}"


def _used(name: str, use: Use) -> str:
    return f"{_amount(name, use.used)} of {_amount(name, use.limit)} {_UNITS[name]}"


def _amount(name: str, value: float) -> str:
    return usd_words(value) if name == "usd" else f"{value:,}"


def usd_words(usd: float) -> str:
    """Dollars, without the sign."""
    return f"{usd:,.2f}" if abs(usd) >= _SMALL_USD or usd == 0 else f"{usd:.4g}"
