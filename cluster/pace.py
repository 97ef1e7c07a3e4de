"""How fast a run goes: against the limits, and towards the end."""

from collections import Counter, deque
from dataclasses import dataclass

from cluster.prompt_queue import QueueStats
from gen.limits import rates_of
from schemas.recipe import Recipe

WINDOW_S = 15.0
"""Rates are over the last so many seconds; workers report every three."""
LEAST_S = 1.0
"""Nothing is divided by less."""


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
    """Is told how far it is, and says how fast it goes; `add` comes first."""

    def __init__(self, recipe: Recipe) -> None:
        self._samples = recipe.ask.samples
        self._account_of = {teacher.name: teacher.limits_key for teacher in recipe.teachers}
        self._limits = recipe.accounts
        self._seen: deque[_Moment] = deque()

    def add(self, stats: QueueStats, *, now: float) -> None:
        """Take in how far it is at the monotonic time `now`."""
        used: Counter[tuple[str, str]] = Counter()
        for teacher, tally in stats.teachers.items():
            account, tokens = self._account_of[teacher], tally.input_tokens + tally.output_tokens
            used[account, "requests"] += tally.requests
            used[account, "input"] += tally.input_tokens
            used[account, "output"] += tally.output_tokens
            used[account, "total"] += tokens
        self._seen.append(_Moment(now, used, settled(stats)))
        while len(self._seen) > 2 and now - self._seen[1].at_s >= WINDOW_S:
            self._seen.popleft()

    def _used_per_s(self, account: str, limit: str) -> float:
        first, last = self._seen[0], self._seen[-1]
        more = last.used[account, limit] - first.used[account, limit]  # a restarted queue counts from nothing
        return max(0, more) / max(last.at_s - first.at_s, LEAST_S)

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
        first, last = self._seen[0], self._seen[-1]
        if not stats.planned or last.settled <= first.settled:
            return None
        left = max(0, stats.prompts_left * self._samples - unsealed(stats))
        return left * (last.at_s - first.at_s) / (last.settled - first.settled)


def settled(stats: QueueStats) -> int:
    """Samples that this run answered or sealed: workers report answers every few seconds, seals at once."""
    return max(stats.answers, _sealed(stats))


def unsealed(stats: QueueStats) -> int:
    """Samples that this run answered and has not sealed yet."""
    return settled(stats) - _sealed(stats)


def _sealed(stats: QueueStats) -> int:
    return stats.counts.records + sum(stats.counts.rejected.values()) + sum(stats.counts.failed.values())
