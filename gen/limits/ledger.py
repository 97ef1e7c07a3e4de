"""Leases an account's capacity to its workers; leased shares never add up to more than the limit.

Shares follow demand (requests in flight and waiting) and are max-min fair: small demands are met in full, and the
others get equal shares. If there are fewer slots than workers, workers take turns. Undeclared limits are discovered,
see `gen.limits.concurrency`. Pure: times are arguments.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from stillhouse.gen.limits.concurrency import step
from stillhouse.gen.limits.search import Search
from stillhouse.gen.limits.shares import BURST_S, LEASE_S, Ceilings, Lease, Report, Resource, rates_of
from stillhouse.gen.limits.stated_wait import StatedWait
from stillhouse.schemas.limits import Limits

ON_THE_WAY_S = 0.25
"""Requests that were sent evenly may reach the teacher closer together by this much."""

EPISODE_S = 5.0
"""One complaint that we grow too fast reaches many requests at once; within this time it counts once."""

RAMP_S = 900.0
"""After the teacher said that we grow too fast (OpenAI's `slow_down`), the ceiling grows by half in each such time."""


def granted_per_s(name: Resource, per_s: float, *, workers: int) -> float:
    """How much of a declared limit is leased, so that no minute exceeds it by the teacher's count.

    A minute may include everything that full buckets release at once, and requests that were sent before it began. A
    bucket holds at least one whole request, however small its worker's rate.
    """
    stated = 60 * per_s
    spare = min(workers - 1, stated / 2) if name == "requests" else 0.0
    return (stated - spare) / (60 + BURST_S + ON_THE_WAY_S)


@dataclass(slots=True)
class _Ramp:
    """A ceiling on everything after a `slow_down`: half of what was in use, then growing slowly."""

    rate_part: float = 1.0
    slots: float = math.inf
    cut_at: float = -math.inf

    def cut(self, *, slots: int, now: float) -> None:
        """Halve the ceiling, once per episode."""
        if now >= self.cut_at + EPISODE_S:
            self.rate_part = self.rates(now) / 2
            self.slots = slots / 2
            self.cut_at = now

    def rates(self, now: float) -> float:
        """The part of each rate that may be used."""
        return min(1.0, self.rate_part * self._growth(now))

    def most_slots(self, now: float) -> float:
        """The slots that may be used."""
        return max(1.0, self.slots * self._growth(now))

    def _growth(self, now: float) -> float:
        return math.pow(1.5, min((now - self.cut_at) / RAMP_S, 100.0))


@dataclass(slots=True)
class _Share:
    """What was leased last, and which part of it is not free: a worker uses its last lease until it has the next
    one."""

    rates: Mapping[Resource, float]
    held_rates: Mapping[Resource, float]
    slots: int
    held: int
    """Slots that are not free: when a share shrinks, its slots are free once their requests have ended."""
    demand: int
    until: float
    had_slots_at: float
    before_at: float
    """When the worker got the lease before this one."""


class Ledger:
    """Leases an account's capacity; the sum of all leases never exceeds it."""

    def __init__(self, limits: Limits, *, now: float) -> None:
        self._rates = rates_of(limits)
        self._declared_slots = limits.in_flight
        self._search = Search(self._rates.get("requests", 0.0), self._rates.get("output", 0.0))
        self._ramp = _Ramp()
        self._ceilings = Ceilings()
        self._shares: dict[str, _Share] = {}
        self._level = math.inf
        """The most of a worker's demand that counts."""
        self._wait = StatedWait()

    def slots(self, *, now: float) -> int:
        """Requests that may be in flight at once, across all workers."""
        slots = self._declared_slots or self._search.slots_at(now)
        return int(max(1, min(slots, self._ramp.most_slots(now))))

    def renew(self, worker: str, report: Report, *, now: float) -> Lease:
        """Process a worker's report, and lease it its share."""
        mine = self._shares.pop(worker, None)
        self._forget(now)
        # called a thousand times per second for a thousand workers, so it sums plain fields
        others = list(self._shares.values())
        self._observe(worker, report, mine, now=now)
        had = max(report.in_flight, mine.slots if mine else 0) if report.held is None else report.held
        demand = (had if report.gave_up else report.in_flight) + report.waiting
        part = self._part(demand, [share.demand for share in others], now=now)
        rates = {
            name: max(0.0, min(rate * part, rate - sum([share.held_rates.get(name, 0.0) for share in others])))
            for name, rate in self._rates_now(now, workers=1 + len(others)).items()
        }
        had_slots_at = -math.inf if mine is None else mine.had_slots_at
        starving = [share.had_slots_at for share in others if share.held == 0 and share.demand > 0]
        first = all(had_slots_at <= at for at in starving)
        fair = self.slots(now=now) * part
        spare = self.slots(now=now) - sum([share.held for share in others])
        slots = max(0, min(math.ceil(fair) if first else math.floor(fair), spare))
        # The worker uses the previous lease until this one arrives, unless it gave that up.
        before = None if report.gave_up else mine
        held_rates = {name: max(rate, before.rates.get(name, 0.0) if before else 0.0) for name, rate in rates.items()}
        held = max(slots, had)
        had_slots_at = now if max(slots, report.in_flight) else had_slots_at
        before_at = now if mine is None else mine.until - LEASE_S
        self._shares[worker] = _Share(rates, held_rates, slots, held, demand, now + LEASE_S, had_slots_at, before_at)
        return Lease(rates, slots, LEASE_S, self._wait.silent_s(now))

    def _part(self, demand: int, others: list[int], *, now: float) -> float:
        """A worker's part of the total; moves the level one step closer to where demands up to it fill the slots."""
        level = self._level
        below = [each for each in (*others, demand) if each < level]
        above = len(others) + 1 - len(below)
        wanted = sum(below) + (above * level if above else 0)
        self._level = max(1.0, (self.slots(now=now) - sum(below)) / above) if above else max(demand, *others, 1)
        return min(demand, level) / wanted if wanted else 1.0

    def _forget(self, now: float) -> None:
        """Drop expired shares; they are in the order of their renewals."""
        over = [name for name, share in itertools.takewhile(lambda item: item[1].until <= now, self._shares.items())]
        for name in over:
            del self._shares[name]

    def _rates_now(self, now: float, *, workers: int) -> dict[Resource, float]:
        """What may be used: the declared rates, or what the ramp and the teacher's headers leave of them."""
        ramp = self._ramp.rates(now)
        rates = {name: ramp * granted_per_s(name, rate, workers=workers) for name, rate in self._rates.items()}
        for name, ceiling in self._ceilings.standing(now=now).items():
            rates[name] = min(rates.get(name, math.inf), ceiling.rate)
        return rates

    def _observe(self, worker: str, report: Report, mine: _Share | None, *, now: float) -> None:
        if report.pause_s > 0:
            self._wait = self._wait.told(worker, report.pause_s, whose=report.whose, now=now)
        self._ceilings.take(report.ceilings, now=now)
        if report.ramped:
            self._ramp.cut(slots=self.slots(now=now), now=now)
        saturated = mine is not None and report.in_flight >= max(1.0, 0.8 * mine.slots)
        # The last lease reached the worker after its last report, so part of this one is due to the lease before.
        leased_at = now if mine is None else mine.before_at
        self._search = step(self._search, report.replies, saturated=saturated, leased_at=leased_at, now=now)

    def leave(self, worker: str) -> None:
        """Give a worker's share back; none of its requests are in flight."""
        self._shares.pop(worker, None)

    def died(self, worker: str) -> None:
        """A worker's process is gone: its rates are free at once; its slots only when the teacher drops its
        requests."""
        if (share := self._shares.get(worker)) is not None:
            share.rates, share.held_rates, share.demand = {}, {}, 0
