"""How fast a run is: its rates, its use of the limits, and the time left."""

from collections import Counter, deque
from dataclasses import dataclass

from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.limits.shares import rates_of
from stillhouse.schemas.recipe import Recipe

WINDOW_S = 15.0
"""Rates are averages over this window; workers report every three seconds."""
STALE_S = 7.0
"""Without new figures for this long, the run has stalled: each worker reports within half this time."""
LEAST_S = 3.0
"""Rates are divided by at least this: the requests in a worker's first report may have begun this long before."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """The progress at one moment."""

    at_s: float
    """Monotonic."""
    used: Counter[tuple[str, str]]
    """Usage by (account, limit)."""
    settled: int
    """Samples."""


class Pace:
    """Computes rates from the progress so far; call `add` first."""

    def __init__(self, recipe: Recipe) -> None:
        self._account_of = {teacher.name: teacher.limits_key for teacher in recipe.teachers}
        self._limits = recipe.accounts
        self._seen: deque[_Moment] = deque()
        """The moments at which figures changed, since the last one at which nothing was asked yet."""
        self._now_s = 0.0

    def add(self, stats: QueueStats, *, now: float) -> None:
        """Add the progress at the monotonic time `now`."""
        used: Counter[tuple[str, str]] = Counter()
        for teacher, tally in stats.teachers.items():
            account, tokens = self._account_of[teacher], tally.input_tokens + tally.output_tokens
            used[account, "requests"] += tally.requests
            used[account, "input"] += tally.input_tokens
            used[account, "output"] += tally.output_tokens
            used[account, "total"] += tokens
        self._now_s = now
        moment = _Moment(now, used, settled(stats))
        if not used.total() and not moment.settled:
            self._seen.clear()
        elif self._seen and (self._seen[-1].used, self._seen[-1].settled) == (used, moment.settled):
            return
        self._seen.append(moment)
        while len(self._seen) > 2 and now - self._seen[1].at_s >= WINDOW_S:
            self._seen.popleft()

    def _used_per_s(self, account: str, limit: str) -> float:
        more = self._seen[-1].used[account, limit] - self._seen[0].used[account, limit]
        return max(0, more) / max(self._span_s, LEAST_S)  # a restarted queue counts from zero

    @property
    def _span_s(self) -> float:
        """Seconds from the first moment to the last change; if that is old, until now."""
        last_s = self._seen[-1].at_s
        return (last_s if self._now_s - last_s < STALE_S else self._now_s) - self._seen[0].at_s

    @property
    def requests_per_s(self) -> float:
        """Requests per second, to all teachers."""
        return sum(self._used_per_s(account, "requests") for account in self._limits)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second, of all teachers, input and output."""
        return sum(self._used_per_s(account, "total") for account in self._limits)

    def limits_used(self, stats: QueueStats) -> dict[tuple[str, str], float]:
        """(account, limit) to the share of the declared limit in use; 1.0 is all of it."""
        shares: dict[tuple[str, str], float] = {}
        for account, limits in self._limits.items():
            for name, rate in rates_of(limits).items():
                shares[account, name] = self._used_per_s(account, name) / rate
            if limits.in_flight is not None:
                under_way = sum(t.in_flight for n, t in stats.teachers.items() if self._account_of[n] == account)
                shares[account, "in_flight"] = under_way / limits.in_flight
        return shares

    def time_left_s(self, stats: QueueStats) -> float | None:
        """Seconds left at the present pace; None if unknown."""
        if stats.finished:
            return 0.0
        more = self._seen[-1].settled - self._seen[0].settled
        if not stats.planned or more <= 0:
            return None
        left = max(0, stats.samples_left - unsealed(stats))
        return left * self._span_s / more


def settled(stats: QueueStats) -> int:
    """Samples that this run answered, found answered in journals, or sealed, as far as workers reported it."""
    return max(stats.total.answers, stats.open_settled + _sealed(stats))


def unsealed(stats: QueueStats) -> int:
    """Chunks that are not sealed yet."""
    return settled(stats) - _sealed(stats)


def _sealed(stats: QueueStats) -> int:
    return stats.counts.records + sum(stats.counts.rejected.values()) + sum(stats.counts.failed.values())
