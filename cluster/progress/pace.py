"""How fast a run goes: against the limits, and towards the end."""

from collections import Counter, deque
from dataclasses import dataclass

from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.limits.shares import rates_of
from stillhouse.schemas.recipe import Recipe

WINDOW_S = 15.0
"""Rates are averages over this window; workers report every three seconds."""
STALE_S = 7.0
"""Without news for this long, the run stands still: each worker reports within half of it."""
LEAST_S = 3.0
"""Nothing is divided by less: what a worker reports first may have begun so long before."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """How far it was."""

    at_s: float
    """Monotonic."""
    used: Counter[tuple[str, str]]
    """(account, limit) to what was used of it."""
    settled: int
    """Samples."""


class Pace:
    """Takes the progress so far and gives the speed; `add` comes first."""

    def __init__(self, recipe: Recipe) -> None:
        self._account_of = {teacher.name: teacher.limits_key for teacher in recipe.teachers}
        self._limits = recipe.accounts
        self._seen: deque[_Moment] = deque()
        """Those at which there was news, since the last at which nothing was asked yet."""
        self._now_s = 0.0

    def add(self, stats: QueueStats, *, now: float) -> None:
        """Take in how far it is at the monotonic time `now`."""
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
        return max(0, more) / max(self._span_s, LEAST_S)  # a restarted queue counts from nothing

    @property
    def _span_s(self) -> float:
        """From the first moment to the last news; where that is old, to now."""
        last_s = self._seen[-1].at_s
        return (last_s if self._now_s - last_s < STALE_S else self._now_s) - self._seen[0].at_s

    @property
    def requests_per_s(self) -> float:
        """Of all teachers."""
        return sum(self._used_per_s(account, "requests") for account in self._limits)

    @property
    def tokens_per_s(self) -> float:
        """Of all teachers, input and output."""
        return sum(self._used_per_s(account, "total") for account in self._limits)

    def limits_used(self, stats: QueueStats) -> dict[tuple[str, str], float]:
        """(account, limit) to the share of the declared limit in use, 1.0 being all of it."""
        shares: dict[tuple[str, str], float] = {}
        for account, limits in self._limits.items():
            for name, rate in rates_of(limits).items():
                shares[account, name] = self._used_per_s(account, name) / rate
            if limits.in_flight is not None:
                under_way = sum(t.in_flight for n, t in stats.teachers.items() if self._account_of[n] == account)
                shares[account, "in_flight"] = under_way / limits.in_flight
        return shares

    def time_left_s(self, stats: QueueStats) -> float | None:
        """Seconds to the end at the present pace; None where that is not known."""
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
