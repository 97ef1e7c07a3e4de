"""A teacher's replies, counted: those to requests sent at one concurrency, and the refusals of a bad spell.

Pure: times are arguments.
"""

import math
from dataclasses import dataclass


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
class Sample:
    """Replies to requests that were sent at one concurrency, counted from `since`."""

    since: float
    served: int = 0
    refused: int = 0
    busy_s: float = 0.0
    tokens: int = 0

    def plus(self, new: Replies) -> "Sample":
        """The counts with these replies added."""
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

    @property
    def most_refused_share(self) -> float:
        """The most that the share may be if chance made it small, by two standard deviations."""
        return (self.refused + 2 * math.sqrt(self.refused + 1) + 1) / self.replies

    def throughput(self, now: float) -> float:
        """Tokens per second; answers per second if the replies state no tokens."""
        return (self.tokens or self.served) / max(1.0, now - self.since)

    def served_per_s(self, now: float) -> float:
        """Answers per second."""
        return self.served / max(1.0, now - self.since)


@dataclass(frozen=True, slots=True)
class Spell:
    """Refusals since they became more frequent than is tolerated.

    Its score grows by one with each refusal, and falls by the tolerated refusals with time (a CUSUM test; E. S. Page,
    "Continuous inspection schemes", 1954). What was served before the spell does not delay its detection, as it would
    in an average.
    """

    since: float = -math.inf
    refused: int = 0
    score: float = 0.0
    at: float = -math.inf

    def plus(self, new: Replies, *, tolerated_per_s: float, now: float) -> "Spell":
        """With these replies: a new spell if refusals were tolerable up to them, none if they still are."""
        score = self.score - tolerated_per_s * (now - self.at) if self.refused else 0.0
        if score > 0.0:
            return Spell(self.since, self.refused + new.refused, score + new.refused, now)
        return Spell(now, new.refused, new.refused, now) if new.refused else Spell()
