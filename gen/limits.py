"""Limits shared by many workers: rates and slots, leased for a second or two, spent locally, paid back as debt.

The `Ledger` (one an account) leases each worker a share of every rate and of the slots in flight; the shares that are
out never add up to more than the limit. The `Allowance` (one an account in each worker) paces requests by its share:
it reserves an estimate, settles with the real usage, and pays a debt by waiting. Both take the time and own no task.

Shares follow demand (requests under way and waiting). What nobody declared is found out: `Adaptive` grows concurrency
while it is used up and nothing is refused, and cuts it once an episode of refusals.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from schemas.teacher import Limits

LEASE_S = 2.0
"""How long a share is good for; it is renewed every half of it."""

BURST_S = 0.25
"""A worker's bucket holds so many seconds of its rate, at least one reservation."""

Resource: TypeAlias = Literal["requests", "input", "output", "total"]


def rates_of(limits: Limits) -> dict[Resource, float]:
    """The declared limits, a second."""
    stated: dict[Resource, int | None] = {
        "requests": limits.requests_per_minute,
        "input": limits.input_tokens_per_minute,
        "output": limits.output_tokens_per_minute,
        "total": limits.tokens_per_minute,
    }
    return {name: value / 60 for name, value in stated.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells the ledger when it renews; counts since its last report."""

    in_flight: int
    """The most under way at once."""
    waiting: int
    """Requests it could send at once if it were let."""
    served: int
    refused: int
    """429s and overloads."""
    pause_s: float = 0.0
    """How long the teacher asked the account to wait, from now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may use until `ttl_s` from now."""

    rates: Mapping[Resource, float]
    """Units a second; a resource that is not here is not limited."""
    slots: int
    ttl_s: float
    pause_s: float
    """Send nothing for so long."""


@dataclass(slots=True)
class Adaptive:
    """Finds a concurrency nobody declared: doubles while used up and never refused, then adds; one cut an episode.

    The scheme of AIMD with slow start; an episode lasts as long as the answers that were under way at its cut.
    """

    slots: int = 32
    most: int = 2048
    _slow_start: bool = True
    _next_cut: float = -math.inf
    _next_growth: float = -math.inf

    def observe(self, report: Report, *, saturated: bool, now: float) -> None:
        """Take in a report."""
        if report.refused:
            if now >= self._next_cut:
                self.slots = max(1, int(self.slots * 0.7))
                self._slow_start = False
                self._next_cut = now + 5.0
            self._next_growth = now + 2.0
        elif saturated and report.served and now >= self._next_growth:
            self.slots = min(self.most, self.slots * 2 if self._slow_start else self.slots + max(1, self.slots // 20))
            self._next_growth = now + 1.0


@dataclass(slots=True)
class _Share:
    rates: dict[Resource, float]
    slots: int
    demand: int
    until: float


class Ledger:
    """Leases an account's capacity; the sum of what is out never exceeds it."""

    def __init__(self, limits: Limits, *, now: float) -> None:
        self._rates = rates_of(limits)
        self._declared_slots = limits.in_flight
        self._adaptive = None if limits.in_flight is not None else Adaptive()
        self._shares: dict[str, _Share] = {}
        self._paused_until = now

    @property
    def slots(self) -> int:
        """Requests that may be under way at once, over all workers."""
        return self._declared_slots or (self._adaptive.slots if self._adaptive else 1)

    def renew(self, worker: str, report: Report, *, now: float) -> Lease:
        """Take in a worker's report and lease it its share."""
        self._paused_until = max(self._paused_until, now + report.pause_s)
        self._shares = {name: share for name, share in self._shares.items() if share.until > now or name == worker}
        demand = max(1, report.in_flight + report.waiting)
        if self._adaptive:
            mine = self._shares.get(worker)
            saturated = mine is not None and report.in_flight >= 0.8 * mine.slots
            self._adaptive.observe(report, saturated=saturated, now=now)
        others = [share for name, share in self._shares.items() if name != worker]
        part = demand / (demand + sum(share.demand for share in others))
        rates = {
            name: max(0.0, min(rate * part, rate - sum(share.rates[name] for share in others)))
            for name, rate in self._rates.items()
        }
        slots = max(0, min(math.ceil(self.slots * part), self.slots - sum(share.slots for share in others)))
        self._shares[worker] = _Share(rates, slots, demand, now + LEASE_S)
        return Lease(rates, slots, LEASE_S, max(0.0, self._paused_until - now))

    def leave(self, worker: str) -> None:
        """Give a worker's share back."""
        self._shares.pop(worker, None)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request uses up."""

    input: float
    output: float

    def of(self, resource: Resource) -> float:
        """Its part of one resource."""
        match resource:
            case "requests":
                return 1.0
            case "input":
                return self.input
            case "output":
                return self.output
            case "total":
                return self.input + self.output


@dataclass(slots=True)
class _Bucket:
    rate: float
    level: float
    at: float

    def fill(self, now: float, *, least: float) -> None:
        most = max(self.rate * BURST_S, least)
        self.level = min(most, self.level + self.rate * (now - self.at)) if self.level < most else self.level
        self.at = now


@dataclass(slots=True)
class Allowance:
    """A worker's share of an account: spends what is leased, and nothing once the lease is over."""

    in_flight: int = 0
    peak: int = 0
    slots: int = 0
    _until: float = -math.inf
    _paused_until: float = -math.inf
    _buckets: dict[Resource, _Bucket] = field(default_factory=dict)

    def accept(self, lease: Lease, *, now: float) -> None:
        """Take over a lease; debts stay."""
        self.slots = lease.slots
        self._until = now + lease.ttl_s
        self.pause(lease.pause_s, now=now)
        for name, rate in lease.rates.items():
            bucket = self._buckets.setdefault(name, _Bucket(rate, 0.0, now))
            bucket.fill(now, least=0.0)
            bucket.rate = rate

    def pause(self, seconds: float, *, now: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def reserve(self, cost: Cost, *, now: float) -> float:
        """Reserve a request's estimate: 0.0 when it may be sent now, else seconds until it is worth asking again."""
        if now < self._paused_until:
            return self._paused_until - now
        if now >= self._until or self.in_flight >= self.slots:
            return math.inf  # a renewal or a release will tell
        wait = 0.0
        for name, bucket in self._buckets.items():
            need = cost.of(name)
            bucket.fill(now, least=need)
            if bucket.level < need:
                wait = max(wait, (need - bucket.level) / bucket.rate if bucket.rate > 0 else math.inf)
        if wait > 0:
            return max(wait, 0.001)
        for name, bucket in self._buckets.items():
            bucket.level -= cost.of(name)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        return 0.0

    def settle(self, reserved: Cost, used: Cost | None) -> None:
        """A request ended: put its real usage in the estimate's place (None: not known, the estimate stands)."""
        self.in_flight -= 1
        if used is not None:
            for name, bucket in self._buckets.items():
                bucket.level += reserved.of(name) - used.of(name)


@dataclass(slots=True)
class Estimator:
    """Learns what a request of a teacher costs: tokens a character of input, tokens of output."""

    max_output: int | None
    _per_char: float = 0.25
    _output: float | None = None

    def estimate(self, chars: int) -> Cost:
        """The expected cost of a prompt of so many characters; the output by the learned mean."""
        output = self._output if self._output is not None else float(min(self.max_output or 1000, 1000))
        return Cost(chars * self._per_char + 8, min(output, self.max_output or math.inf))

    def learn(self, chars: int, used: Cost) -> None:
        """Take in a real usage."""
        if chars:
            self._per_char += 0.05 * (used.input / chars - self._per_char)
        self._output = used.output if self._output is None else self._output + 0.05 * (used.output - self._output)
