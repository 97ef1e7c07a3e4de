"""Token buckets: in any T seconds at most `per_minute / 60 * T` plus one burst is admitted.

An answer's cost is known only when it is given: output may take a bucket below zero, and nothing is admitted until
time has repaid that debt.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple, TypeAlias

from stillhouse.schemas.simulator import SimulatorLimits

Resource: TypeAlias = Literal["requests", "total", "input", "output"]


class Level(NamedTuple):
    """What is left of a limit at one moment."""

    resource: Resource
    per_minute: int
    left: int
    full_in_s: float
    """Seconds until the whole limit is available again."""


@dataclass(slots=True)
class Bucket:
    """A level that rises with time up to `capacity` and falls by what is taken."""

    resource: Resource
    title: str
    """The provider's name for it in the message of a 429."""
    per_minute: int
    capacity: float
    level: float
    at_s: float

    @classmethod
    def full(cls, resource: Resource, title: str, per_minute: int, *, burst_s: float, now_s: float) -> "Bucket":
        """A full bucket that holds `burst_s` seconds of its rate, and at least one unit."""
        capacity = max(1.0, per_minute / 60 * burst_s)
        return cls(resource, title, per_minute, capacity, capacity, now_s)

    def refill(self, now_s: float) -> None:
        """Let time pass up to `now_s`; a clock that goes back is ignored."""
        if now_s > self.at_s:
            self.level = min(self.capacity, self.level + (now_s - self.at_s) * self.per_minute / 60)
            self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` (or all that the bucket can hold) could be taken; 0: now."""
        return max(0.0, (min(amount, self.capacity) - self.level) * 60 / self.per_minute)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets a 429, and when to retry it."""

    kind: str
    """`requests` or `tokens`, as in the provider's error type."""
    message: str
    retry_after_s: float


class Limits:
    """The limits of one simulator; the time is passed in, in seconds of any monotonic clock."""

    def __init__(self, limits: SimulatorLimits, *, slot_s: float, now_s: float) -> None:
        """`slot_s`: the wait stated in a refusal for too many requests in flight."""

        def bucket(resource: Resource, title: str, per_minute: int | None, burst_s: float) -> Bucket | None:
            if per_minute is None:
                return None
            return Bucket.full(resource, title, per_minute, burst_s=burst_s, now_s=now_s)

        burst_s, token_burst_s = limits.burst_s, limits.token_burst_s
        self._in_flight = limits.in_flight
        self._tells = limits.headers
        self._slot_s = slot_s
        self._requests = bucket("requests", "requests per min (RPM)", limits.requests_per_minute, burst_s)
        self._total = bucket("total", "tokens per min (TPM)", limits.total_tokens_per_minute, token_burst_s)
        self._input = bucket("input", "input tokens per min", limits.input_tokens_per_minute, token_burst_s)
        self._output = bucket("output", "output tokens per min", limits.output_tokens_per_minute, token_burst_s)
        self._buckets = [each for each in (self._requests, self._total, self._input, self._output) if each]

    def admit(
        self, *, prompt_tokens: int, completion_tokens: int, in_flight: int, model: str, now_s: float
    ) -> Refusal | None:
        """Take what the request costs from all buckets, or refuse it and take nothing.

        `in_flight` counts the requests being served without this one.
        """
        if self._in_flight is not None and in_flight >= self._in_flight:
            where = f"concurrent requests: Limit {self._in_flight}, Used {in_flight}, Requested 1"
            return _refusal("requests", model, where, self._slot_s)
        # (bucket, what it must hold, what is taken): a provider does not know the output beforehand, hence the debt.
        costs = (
            (self._requests, 1, 1),
            (self._input, prompt_tokens, prompt_tokens),
            (self._output, 1, completion_tokens),
            (self._total, prompt_tokens + 1, prompt_tokens + completion_tokens),
        )
        for bucket, needed, _ in costs:
            if bucket:
                bucket.refill(now_s)
                if wait_s := bucket.wait_s(needed):
                    used = max(0, ceil(bucket.capacity - bucket.level))
                    where = f"{bucket.title}: Limit {bucket.per_minute}, Used {used}, Requested {needed}"
                    return _refusal("requests" if bucket is self._requests else "tokens", model, where, wait_s)
        for bucket, _, taken in costs:
            if bucket:
                bucket.level -= taken
        return None

    def levels(self, now_s: float) -> list[Level]:
        """What every answer reports at this moment; empty if the limits are kept secret."""
        found = []
        for bucket in self._buckets if self._tells else ():
            bucket.refill(now_s)
            full_in_s = (bucket.capacity - bucket.level) * 60 / bucket.per_minute
            found.append(Level(bucket.resource, bucket.per_minute, max(0, int(bucket.level)), full_in_s))
        return found


def _refusal(kind: str, model: str, where: str, wait_s: float) -> Refusal:
    wait_s = max(wait_s, 0.001)
    message = f"Rate limit reached for {model} on {where}. Please try again in {go_duration(wait_s)}."
    return Refusal(kind, message, wait_s)


def go_duration(seconds: float) -> str:
    """Seconds as Go writes a duration, rounded up to the millisecond: `120ms`, `1.5s`, `6m0s`."""
    millis = ceil(seconds * 1000 - 1e-6)
    if millis < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
