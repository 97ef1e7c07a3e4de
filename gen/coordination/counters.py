"""A worker's totals since it started. They are cumulative, so a lost report costs nothing."""

from bisect import bisect_left
from dataclasses import dataclass, field, fields

from stillhouse.gen.dataset.budget import SpendReport
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.dataset.sums import added
from stillhouse.schemas.completion import Usage

LATENCY_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bucket n of `Tally.latencies` counts answers that took at most this many seconds, and more than bucket n - 1."""
SPEED_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)
"""Upper bounds of the bins of `Tally.speeds`, in output tokens per second of one answer."""


@dataclass(slots=True)
class Tally:
    """Results of asking one teacher, in totals since the worker started."""

    requests: int = 0
    retries: int = 0
    """Requests for a sample that was asked before."""
    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    in_flight: int = 0
    """Now."""
    awaited: int = 0
    """Requests in flight at endpoints whose last request did not fail, as of the last report."""
    lease_wait_s: float = 0.0
    """Sum of the times that requests waited for their share of the limits."""
    troubles: dict[str, int] = field(default_factory=dict)
    """Replies that were not answers, by class."""
    said: str = ""
    """The last reply that was not an answer, in words without a key."""
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    """Answers by seconds; the last bucket has no bound."""
    speeds: list[int] = field(default_factory=lambda: [0] * (len(SPEED_BOUNDS) + 1))
    """Answers by output tokens per second; the last bucket has no bound."""
    batches: int = 0
    """Batches created, or found created."""
    batches_ended: int = 0
    """Batches collected."""
    batches_expired: int = 0
    """Collected batches in which the provider left requests unprocessed."""
    batches_open: int = 0
    """Batches of chunks in its hands, as of the last report."""
    accepted: dict[str, int] = field(default_factory=dict)
    """Answers that each check accepted, by the check's name; answers that a check could not judge are in neither
    count."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Answers that each check rejected, by its name."""

    def answered(self, usage: Usage, *, usd: float | None, latency_s: float) -> None:
        """Count an answer."""
        self.answers += 1
        self.input_tokens += usage.input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        self.usd += usd or 0.0
        self.latencies[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        if usage.output_tokens and latency_s > 0:
            self.speeds[bisect_left(SPEED_BOUNDS, usage.output_tokens / latency_s)] += 1

    def judged(self, check: str, *, accepted: bool) -> None:
        """Count a verdict of the check."""
        counts = self.accepted if accepted else self.rejected
        counts[check] = counts.get(check, 0) + 1

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(**{f.name: added(getattr(self, f.name), getattr(other, f.name)) for f in fields(Tally)})


@dataclass(slots=True)
class Counters:
    """A worker's totals since it started, and its current state."""

    teachers: dict[str, Tally] = field(default_factory=dict)
    """Totals by the teacher's name."""
    open_chunks: int = 0
    """Chunks that it held at the last renewal or seal."""
    waiting_chunks: int = 0
    """Chunks that only wait until their teachers may open another batch."""
    open_settled: int = 0
    """Samples of these chunks that no longer need to be asked, by any worker."""
    journal_lag_bytes: int = 0
    """Answers journalled but not in the store yet, at the last renewal."""
    sealed: ShardCounts = field(default_factory=ShardCounts)
    """Chunks that it sealed."""
    shards: int = 0
    """Rows of the shards that it sealed."""
    held_up: str = ""
    """Why it has sent nothing for a while; empty if it sends."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user, each shown once; they never contain a key."""
    last_trouble: str = ""
    """The last reply that was not an answer, in words without a key."""
    spending: SpendReport | None = None
    """The worker's part of the budget; None if there is no budget."""
    streamed: list[tuple[str, str]] = field(default_factory=list)
    """(teacher, endpoint) of those whose answers it asks for as streams since one timed out."""

    def of(self, teacher: str) -> Tally:
        """The teacher's tally."""
        if (tally := self.teachers.get(teacher)) is None:
            tally = self.teachers[teacher] = Tally()
        return tally

    def troubled(self, teacher: str, kind: str, message: str) -> None:
        """Count a reply that was not an answer."""
        tally = self.of(teacher)
        tally.troubles[kind] = tally.troubles.get(kind, 0) + 1
        tally.said = message
        self.last_trouble = f"{teacher}: {message}"

    def note(self, text: str) -> None:
        """Show this note once."""
        if text not in self.notes:
            self.notes.append(text)

    def ended(self) -> None:
        """The worker is gone, with its requests in flight."""
        self.open_chunks = self.waiting_chunks = self.open_settled = self.journal_lag_bytes = 0
        self.held_up = ""
        for tally in self.teachers.values():
            tally.in_flight = tally.awaited = tally.batches_open = 0

    @property
    def requests(self) -> int:
        """Sum over all teachers."""
        return sum(tally.requests for tally in self.teachers.values())

    @property
    def retries(self) -> int:
        """Sum over all teachers."""
        return sum(tally.retries for tally in self.teachers.values())

    @property
    def answers(self) -> int:
        """Sum over all teachers."""
        return sum(tally.answers for tally in self.teachers.values())

    @property
    def in_flight(self) -> int:
        """Sum over all teachers."""
        return sum(tally.in_flight for tally in self.teachers.values())
