"""A teacher's replies, counted: the recent ones, and those to requests sent at one concurrency.

Pure: times are arguments.
"""

import math
from dataclasses import dataclass

DECAY_S = 5.0
"""Time constant of the recent share of refusals: long enough for chance to even out, short enough to react."""

SWAMPED_S = 0.3
"""How long a flow of refusals is measured, and before that how long workers take to learn of a change: each that is
refused reports at once."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies since the last report."""

    served: int = 0
    refused: int = 0
    """Refused for overload, or without a whole answer."""
    busy_s: float = 0.0
    """Sum of the latencies of the served requests."""
    tokens: int = 0
    """Output tokens of the served requests."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Replies, decayed exponentially."""

    replies: float = 0.0
    refused: float = 0.0
    at: float = -math.inf

    def plus(self, new: Replies, *, now: float) -> "Recent":
        """With these replies, which came by `now`."""
        kept = math.exp((self.at - now) / DECAY_S)
        return Recent(self.replies * kept + new.served + new.refused, self.refused * kept + new.refused, now)

    @property
    def refused_share(self) -> float:
        """Refusals per reply; 0 before the first."""
        return self.refused / self.replies if self.replies else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Replies to requests that were sent at one concurrency, counted from `since`."""

    since: float
    served: int = 0
    refused: int = 0
    busy_s: float = 0.0
    tokens: int = 0

    def plus(self, new: Replies) -> "Sample":
        """With these replies."""
        return Sample(
            self.since,
            self.served + new.served,
            self.refused + new.refused,
            self.busy_s + new.busy_s,
            self.tokens + new.tokens,
        )

    @property
    def slot_throughput(self) -> float:
        """Tokens per second of one slot; answers per second if the replies state no tokens."""
        return (self.tokens or self.served) / max(self.busy_s, 1e-9)

    @property
    def replies(self) -> int:
        """All replies, at least 1."""
        return max(1, self.served + self.refused)

    @property
    def refused_share(self) -> float:
        """Refusals per reply; 0 before the first."""
        return self.refused / self.replies

    def throughput(self, now: float) -> float:
        """Tokens per second; answers per second if the replies state no tokens."""
        return (self.tokens or self.served) / max(1.0, now - self.since)

    def served_per_s(self, now: float) -> float:
        """Answers per second."""
        return self.served / max(1.0, now - self.since)


@dataclass(frozen=True, slots=True)
class Flow:
    """Replies since workers know the present concurrency."""

    since: float = -math.inf
    served: int = 0
    refused: int = 0

    def plus(self, new: Replies, *, now: float) -> "Flow":
        """With these replies, unless they came too early to count."""
        return Flow(self.since, self.served + new.served, self.refused + new.refused) if now >= self.since else self

    @property
    def refused_share(self) -> float:
        """Refusals per reply; 0 before the first."""
        return self.refused / max(1, self.served + self.refused)

    def refused_per_s(self, now: float) -> float:
        """0 before they were counted for long enough."""
        return self.refused / (now - self.since) if now >= self.since + SWAMPED_S else 0.0
