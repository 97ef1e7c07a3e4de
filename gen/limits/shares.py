"""Limits shared by many workers: rates and slots, leased for a second or two, spent locally, paid back as debt.

The `Ledger` (one an account) leases each worker a share of every rate and of the slots in flight; the shares that are
out never add up to more than the limit. The `Allowance` (one an account in each worker) paces requests by its share: it
reserves an estimate, settles with the real usage, and pays a debt by waiting. Both take the time and own no task.

Shares follow demand (requests in flight and waiting), max-min fair: small demands are met, the others get as much as
each other. Where there are fewer slots than workers they go round in turn.
What nobody declared is found out, see `gen.limits.concurrency`.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from stillhouse.gen.limits.concurrency import Replies, Search, step
from stillhouse.gen.limits.minute import SLOT_S, Minute
from stillhouse.gen.limits.stated_wait import StatedWait, Whose
from stillhouse.schemas.limits import Limits

LEASE_S = 3.2
"""How long a share is good for, which is also how long the share of a worker that vanished is nobody's."""

SHARE_RENEW_S = 1.6
"""How often a worker renews its share: with its chunks' renewals that is less than a call a second. Its lease lasts
until the next one arrives if that takes no longer than the difference: on a busy machine an answer takes a second."""

BURST_S = 0.2
"""A worker's bucket holds so many seconds of its rate, at least one reservation."""

ON_THE_WAY_S = 0.25
"""Requests that were sent evenly may reach the teacher so much closer together."""

EPISODE_S = 5.0
"""That we grow too fast is said of many requests at once: once in so long it counts."""

RAMP_S = 900.0
"""After the teacher said that we grow too fast, half as much again in each such time (OpenAI's `slow_down`)."""

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


def granted_per_s(name: Resource, per_s: float, *, workers: int) -> float:
    """What is leased of a declared limit, so that no minute by the teacher's count exceeds what it states.

    A minute may hold all that full buckets let go at once, and requests that were sent before it began. A bucket holds
    a whole request at least, however small its worker's rate.
    """
    stated = 60 * per_s
    spare = min(workers - 1, stated / 2) if name == "requests" else 0.0
    return (stated - spare) / (60 + BURST_S + ON_THE_WAY_S)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most of a resource that a teacher's headers leave to the account for a while, whoever else uses it."""

    rate: float
    """Units a second."""
    for_s: float
    """How long it holds."""
    age_s: float
    """How long ago it was said."""


@dataclass(slots=True)
class Ceilings:
    """What was said last of each resource."""

    _last: dict[Resource, tuple[float, Ceiling]] = field(default_factory=dict)
    """(when it was said, what)."""

    def take(self, said: Mapping[Resource, Ceiling], *, now: float) -> None:
        """Take in what was said; what is older than what is known changes nothing."""
        for name, ceiling in said.items():
            at = now - ceiling.age_s
            if name not in self._last or at >= self._last[name][0]:
                self._last[name] = at, ceiling

    def standing(self, *, now: float) -> dict[Resource, Ceiling]:
        """The limits that apply now."""
        return {
            name: replace(ceiling, age_s=now - at)
            for name, (at, ceiling) in self._last.items()
            if now < at + ceiling.for_s
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells the ledger when it renews; counts since its last report."""

    in_flight: int
    """The most requests in flight at once."""
    waiting: int
    """Requests it could send at once if it had the share."""
    replies: Replies
    pause_s: float = 0.0
    """How long the teacher asked the account to wait, from now."""
    whose: Whose = "account"
    """Whose wait that is."""
    ramped: bool = False
    """The teacher said that we grow too fast."""
    ceilings: Mapping[Resource, Ceiling] = field(default_factory=dict)
    """What the teacher's headers left at last."""
    draining: int | None = None
    """Requests in flight now, if there is nothing left to send: it has given up its lease, and sends nothing before it
    has the next one."""


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
class _Ramp:
    """A ceiling under everything after a `slow_down`: half of what was in use, then growing slowly."""

    rate_part: float = 1.0
    slots: float = math.inf
    cut_at: float = -math.inf

    def cut(self, *, slots: int, now: float) -> None:
        """Halve, once an episode."""
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
    """What was leased last, and what of it is not free: a worker uses its last lease until it has the next one."""

    rates: Mapping[Resource, float]
    held_rates: Mapping[Resource, float]
    slots: int
    held: int
    """Slots that are not free: a share that shrinks is free again when its requests have come home."""
    demand: int
    until: float
    had_slots_at: float


class Ledger:
    """Leases an account's capacity; the sum of what is out never exceeds it."""

    def __init__(self, limits: Limits, *, now: float) -> None:
        self._rates = rates_of(limits)
        self._declared_slots = limits.in_flight
        self._search = Search(self._rates.get("requests", 0.0), self._rates.get("output", 0.0))
        self._ramp = _Ramp()
        self._ceilings = Ceilings()
        self._shares: dict[str, _Share] = {}
        self._level = math.inf
        """What of a worker's demand counts at most."""
        self._wait = StatedWait()

    def slots(self, *, now: float) -> int:
        """Requests that may be in flight at once, across all workers."""
        slots = self._declared_slots or self._search.slots
        return int(max(1, min(slots, self._ramp.most_slots(now))))

    def renew(self, worker: str, report: Report, *, now: float) -> Lease:
        """Take in a worker's report and lease it its share."""
        mine = self._shares.pop(worker, None)
        self._forget(now)
        others = list(self._shares.values())  # a thousand of them, a thousand times a second: sums of plain fields
        self._observe(worker, report, mine, now=now)
        in_use = report.in_flight if report.draining is None else report.draining
        demand = in_use + report.waiting
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
        # It uses the lease before until this one arrives, as its next report will tell, unless it has given that up.
        before = mine if report.draining is None else None
        held_rates = {name: max(rate, before.rates.get(name, 0.0) if before else 0.0) for name, rate in rates.items()}
        held = max(slots, before.slots if before else 0, in_use)
        had_slots_at = now if max(slots, report.in_flight) else had_slots_at
        self._shares[worker] = _Share(rates, held_rates, slots, held, demand, now + LEASE_S, had_slots_at)
        return Lease(rates, slots, LEASE_S, self._wait.silent_s(now))

    def _part(self, demand: int, others: list[int], *, now: float) -> float:
        """A worker's part of what there is; the level comes a step nearer to where demands up to it fill the slots."""
        level = self._level
        below = [each for each in (*others, demand) if each < level]
        above = len(others) + 1 - len(below)
        wanted = sum(below) + (above * level if above else 0)
        self._level = max(1.0, (self.slots(now=now) - sum(below)) / above) if above else max(demand, *others, 1)
        return min(demand, level) / wanted if wanted else 1.0

    def _forget(self, now: float) -> None:
        """Drop the shares that are over; they lie in the order of their renewals."""
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
        self._search = step(self._search, report.replies, saturated=saturated, now=now)

    def leave(self, worker: str) -> None:
        """Give a worker's share back; nothing of it is in flight."""
        self._shares.pop(worker, None)

    def died(self, worker: str) -> None:
        """A worker's process is gone: its rates are free; its slots are until the teacher drops its requests."""
        if (share := self._shares.get(worker)) is not None:
            share.rates, share.held_rates, share.demand = {}, {}, 0


class Cost(NamedTuple):
    """What one request uses up."""

    input: float
    output: float
    more_input: float = 0.0
    """How much more it may be, of an estimate."""
    more_output: float = 0.0

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


@dataclass(slots=True)
class _Bucket:
    rate: float
    level: float
    at: float
    minute: Minute | None = None
    """Of tokens, which are known only afterwards."""
    need: float = 0.0
    """What the last reservation was for: it has to fit, however small the rate."""
    untaken: int = 0
    """Of requests: grants that nobody has taken up yet. They may be sent in one burst with what is in the bucket, so
    there is that much less room in it."""

    @property
    def most(self) -> float:
        return max(self.rate * BURST_S - self.untaken, self.need)

    def fill(self, now: float) -> None:
        """Let in what the rate gave since the last time, up to the bucket's size."""
        gained = self.rate * max(0.0, now - self.at)
        self.level = max(self.level, min(self.level + gained, self.most))
        self.at = max(self.at, now)
        if self.minute is not None and gained:
            self.minute.give(gained, now=now)

    def settle(self, over: float) -> None:
        """Give back what was reserved and not used, which nobody else had; or take out, down to any debt.

        Of tokens more may come back than the bucket holds: estimates are larger than answers. A request that was not
        sent comes back one for one, and what the rate gave meanwhile is in the bucket already.
        """
        most = self.most if self.minute is None else self.most + LEASE_S * self.rate
        self.level = min(self.level + over, max(self.level, most))


def _new_bucket(name: Resource, rate: float, *, now: float) -> _Bucket:
    return _Bucket(rate, 0.0, now, None if name == "requests" else Minute(rate, now))


@dataclass(slots=True)
class Allowance:
    """A worker's share of an account: spends what is leased, and nothing once the lease is over."""

    in_flight: int = 0
    peak: int = 0
    slots: int = 0
    _until: float = -math.inf
    _paused_until: float = -math.inf
    _buckets: dict[Resource, _Bucket] = field(default_factory=dict)

    def accept(self, lease: Lease, *, asked_at: float, now: float) -> None:
        """Take over a lease, good from when it was asked for, with its pause in place of any before; debts stay."""
        buckets = {}
        for name, rate in lease.rates.items():
            bucket = buckets[name] = self._buckets.get(name) or _new_bucket(name, rate, now=now)
            bucket.fill(min(now, self._until))
            bucket.at, bucket.rate = now, rate
            if name == "requests":  # what a larger share had gathered is the others' now; tokens may be given back ones
                bucket.level = min(bucket.level, bucket.most)
        self._buckets = buckets
        self.slots = lease.slots
        self._until = asked_at + lease.ttl_s
        self._paused_until = now + lease.pause_s

    def give_up(self, *, now: float) -> None:
        """Send nothing before the next lease."""
        self._until = min(self._until, now)

    def shrinks(self, lease: Lease, *, below: float) -> bool:
        """True if the lease leaves less than this part of a rate that may be used now."""
        return any(
            rate < below * self._buckets[name].rate for name, rate in lease.rates.items() if name in self._buckets
        )

    def pause(self, seconds: float, *, now: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def rate(self, resource: Resource) -> float:
        """Units a second that may be used."""
        bucket = self._buckets.get(resource)
        return math.inf if bucket is None else bucket.rate

    def is_paused(self, *, now: float) -> bool:
        """True if nothing may be sent now, reserved or not."""
        return now < self._paused_until

    def reserve(self, cost: Cost, *, now: float, taken: bool = True, in_pause: bool = False) -> float:
        """Reserve a request's estimate: 0.0 when it may be sent now, else seconds until it is worth asking again.

        `taken`: False if whoever waits for the grant learns of it later; `take` follows then.
        `in_pause`: a pause does not hold it.
        """
        if self.is_paused(now=now) and not in_pause:
            return self._paused_until - now
        if now >= self._until or self.in_flight >= self.slots:
            return math.inf  # a renewal or a release will tell
        wait = 0.0
        for name, bucket in self._buckets.items():
            bucket.need = cost.of(name)
            bucket.fill(now)
            if bucket.level < bucket.need:
                wait = max(wait, (bucket.need - bucket.level) / bucket.rate if bucket.rate > 0 else math.inf)
            elif bucket.minute is not None and not bucket.minute.allows(cost.most_of(name), now=now):
                wait = max(wait, SLOT_S)
        if wait > 0:
            return max(wait, 0.001)
        for name, bucket in self._buckets.items():
            bucket.level -= bucket.need
            if bucket.minute is not None:
                bucket.minute.spend(cost.most_of(name), at=now)
        if not taken and (requests := self._buckets.get("requests")) is not None:
            requests.untaken += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        return 0.0

    def take(self, *, now: float) -> None:
        """A grant is taken up: what it was granted from fills up from now on, not from when it was granted."""
        if (requests := self._buckets.get("requests")) is not None:
            requests.fill(min(now, self._until))
            requests.untaken = max(0, requests.untaken - 1)

    def settle(self, reserved: Cost, used: Cost | None, *, now: float, at: float | None = None) -> None:
        """A request reserved at `at` (by default now) ended: put its real usage in the estimate's place.

        None: not known, the estimate stands.
        """
        self.in_flight -= 1
        if used is None:
            return
        for name, bucket in self._buckets.items():
            bucket.fill(min(now, self._until))  # before it may overflow
            bucket.settle(reserved.of(name) - used.of(name))
            if bucket.minute is not None:
                bucket.minute.spend(used.of(name) - reserved.most_of(name), at=now if at is None else at)
