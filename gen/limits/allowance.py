"""A worker's share of an account: reserves an estimate, settles with the real usage, and pays a debt by waiting.

Pure: times are arguments, and it owns no task.
"""

import math
from dataclasses import dataclass, field

from stillhouse.gen.limits.minute import SLOT_S, Minute
from stillhouse.gen.limits.shares import BURST_S, LEASE_S, Cost, Lease, Resource


@dataclass(slots=True)
class _Bucket:
    rate: float
    level: float
    at: float
    minute: Minute | None = None
    """Set for tokens, whose usage is known only afterwards."""
    need: float = 0.0
    """The last reservation: it must fit, however small the rate."""
    untaken: int = 0
    """For requests: grants that nobody has used yet. They may be sent in one burst with the bucket's content, so they
    take up room in it."""

    @property
    def most(self) -> float:
        return max(self.rate * BURST_S - self.untaken, self.need)

    def fill(self, now: float) -> None:
        """Add what the rate has granted since the last call, up to the bucket's size."""
        gained = self.rate * max(0.0, now - self.at)
        self.level = max(self.level, min(self.level + gained, self.most))
        self.at = max(self.at, now)
        if self.minute is not None and gained:
            self.minute.give(gained, now=now)

    def settle(self, over: float) -> None:
        """Give back what was reserved and not used, which nobody else had; or take more out, into any debt.

        More tokens may come back than the bucket holds, because estimates are larger than answers. A request that was
        not sent comes back one for one, and the bucket already has what the rate granted meanwhile.
        """
        most = self.most if self.minute is None else self.most + LEASE_S * self.rate
        self.level = min(self.level + over, max(self.level, most))


def _new_bucket(name: Resource, rate: float, *, now: float) -> _Bucket:
    return _Bucket(rate, 0.0, now, None if name == "requests" else Minute(rate, now))


@dataclass(slots=True)
class Allowance:
    """A worker's share of an account: spends what is leased, and nothing once the lease has expired."""

    in_flight: int = 0
    peak: int = 0
    slots: int = 0
    _until: float = -math.inf
    _paused_until: float = -math.inf
    _buckets: dict[Resource, _Bucket] = field(default_factory=dict)

    def accept(self, lease: Lease, *, asked_at: float, now: float) -> None:
        """Start a new lease, valid from when it was requested; its pause replaces any earlier one, debts remain."""
        buckets = {}
        for name, rate in lease.rates.items():
            bucket = buckets[name] = self._buckets.get(name) or _new_bucket(name, rate, now=now)
            bucket.fill(min(now, self._until))
            bucket.at, bucket.rate = now, rate
            if name == "requests":  # what a larger share saved up belongs to others now; tokens may be returned ones
                bucket.level = min(bucket.level, bucket.most)
        self._buckets = buckets
        self.slots = lease.slots
        self._until = asked_at + lease.ttl_s
        self._paused_until = now + lease.pause_s

    def give_up(self, *, now: float) -> None:
        """Send nothing before the next lease."""
        self._until = min(self._until, now)

    def shrinks(self, lease: Lease, *, below: float) -> bool:
        """True if the lease leaves less than this part of the slots, or of a rate, that may be used now."""
        return lease.slots < below * self.slots or any(
            rate < below * self._buckets[name].rate for name, rate in lease.rates.items() if name in self._buckets
        )

    def most_in_flight(self, *, now: float) -> int:
        """The most requests that can be in flight before the next lease."""
        return max(self.in_flight, self.slots if now < self._until else 0)

    def pause(self, seconds: float, *, now: float) -> None:
        """Send nothing for this long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def rate(self, resource: Resource) -> float:
        """Units per second that may be used."""
        bucket = self._buckets.get(resource)
        return math.inf if bucket is None else bucket.rate

    def is_paused(self, *, now: float) -> bool:
        """True if nothing may be sent now, reserved or not."""
        return now < self._paused_until

    def reserve(self, cost: Cost, *, now: float, taken: bool = True, in_pause: bool = False) -> float:
        """Reserve a request's estimate: 0.0 if it may be sent now, else seconds after which to ask again.

        `taken`: False if the waiting request learns of the grant later; `take` follows then. `in_pause`: a pause does
        not hold it.
        """
        if self.is_paused(now=now) and not in_pause:
            return self._paused_until - now
        if now >= self._until or self.in_flight >= self.slots:
            return math.inf  # until a renewal or a release
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
        """A grant is used: the bucket that it came from fills up from now on, not from the time of the grant."""
        if (requests := self._buckets.get("requests")) is not None:
            requests.fill(min(now, self._until))
            requests.untaken = max(0, requests.untaken - 1)

    def settle(self, reserved: Cost, used: Cost | None, *, now: float, at: float | None = None) -> None:
        """A request reserved at `at` (by default now) has ended: replace the estimate by its real usage.

        None: the usage is unknown, so the estimate stays.
        """
        self.in_flight -= 1
        if used is None:
            return
        for name, bucket in self._buckets.items():
            bucket.fill(min(now, self._until))  # before the bucket may overflow
            bucket.settle(reserved.of(name) - used.of(name))
            if bucket.minute is not None:
                bucket.minute.spend(used.of(name) - reserved.most_of(name), at=now if at is None else at)
