"""Limits shared by many workers: rates and slots, leased for a second or two, spent locally, paid back as debt.

The `Ledger` (one per account, `limits/ledger.py`) leases each worker a share of every rate and of the slots in flight;
the shares that are out never add up to more than the limit. The `Allowance` (one per account in each worker,
`limits/allowance.py`) paces requests by its share. Here is what the two exchange.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.stated_wait import Whose
from stillhouse.schemas.limits import Limits

LEASE_S = 3.2
"""How long a share is valid. If a worker vanishes, nobody can use its share for this long."""

SHARE_RENEW_S = 1.6
"""How often a worker renews its share; together with its chunks' renewals, less than one call per second. A lease stays
valid until the next one arrives if that takes no longer than the difference: on a busy machine, a reply takes a
second."""

BURST_S = 0.2
"""A worker's bucket holds this many seconds of its rate, and at least one reservation."""

Resource: TypeAlias = Literal["requests", "input", "output", "total"]


def rates_of(limits: Limits) -> dict[Resource, float]:
    """The declared limits, per second."""
    stated: dict[Resource, int | None] = {
        "requests": limits.requests_per_minute,
        "input": limits.input_tokens_per_minute,
        "output": limits.output_tokens_per_minute,
        "total": limits.tokens_per_minute,
    }
    return {name: value / 60 for name, value in stated.items() if value is not None}


class Cost(NamedTuple):
    """What one request uses."""

    input: float
    output: float
    more_input: float = 0.0
    """How much more than this estimate it may be."""
    more_output: float = 0.0

    def of(self, resource: Resource) -> float:
        """The amount of one resource."""
        match resource:
            case "requests":
                return 1.0
            case "input":
                return self.input
            case "output":
                return self.output
            case "total":
                return self.input + self.output

    def most_of(self, resource: Resource) -> float:
        """The most that it may use of one resource."""
        match resource:
            case "requests":
                return 1.0
            case "input":
                return self.input + self.more_input
            case "output":
                return self.output + self.more_output
            case "total":
                return self.input + self.more_input + self.output + self.more_output


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most of a resource that a teacher's headers leave to the account for a while, even if others use the
    account."""

    rate: float
    """Units a second."""
    for_s: float
    """How long the ceiling applies."""
    age_s: float
    """How long ago the teacher stated it."""


@dataclass(slots=True)
class Ceilings:
    """The latest ceiling of each resource."""

    _last: dict[Resource, tuple[float, Ceiling]] = field(default_factory=dict)
    """(time of the statement, ceiling)."""

    def take(self, said: Mapping[Resource, Ceiling], *, now: float) -> None:
        """Update the ceilings; statements older than the known ones are ignored."""
        for name, ceiling in said.items():
            at = now - ceiling.age_s
            if name not in self._last or at >= self._last[name][0]:
                self._last[name] = at, ceiling

    def standing(self, *, now: float) -> dict[Resource, Ceiling]:
        """The ceilings that apply now."""
        return {
            name: replace(ceiling, age_s=now - at)
            for name, (at, ceiling) in self._last.items()
            if now < at + ceiling.for_s
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's report to the ledger when it renews; counts since its last report."""

    in_flight: int
    """The most requests that were in flight at once."""
    waiting: int
    """Requests it could send at once if its share allowed."""
    replies: Replies
    pause_s: float = 0.0
    """How long the teacher asked the account to wait, from now."""
    whose: Whose = "account"
    """Whether the wait is the account's or one prompt's."""
    ramped: bool = False
    """True if the teacher said that we grow too fast."""
    ceilings: Mapping[Resource, Ceiling] = field(default_factory=dict)
    """The ceilings from the teacher's latest headers."""
    held: int | None = None
    """The most requests it can have in flight before its next lease; None: what it was leased, or `in_flight`."""
    gave_up: bool = False
    """True if there is nothing left to send: the worker has given up its lease, and sends nothing until it has the next
    one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may use until `ttl_s` from now."""

    rates: Mapping[Resource, float]
    """Units per second; a resource that is not listed is not limited."""
    slots: int
    ttl_s: float
    pause_s: float
    """Send nothing for this long."""
