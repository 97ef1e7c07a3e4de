"""Counters of what a simulator served, for `GET /_stats`."""

from collections import Counter
from dataclasses import dataclass, field

import orjson


@dataclass(slots=True)
class Stats:
    """Counts of chat requests since the start; `in_flight` is the present number."""

    served: int = 0
    delivered: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_at_s: float | None = None
    """Time of the first request, in seconds of uptime."""
    last_at_s: float | None = None
    """Time at which the last request ended, in seconds of uptime."""
    by_status: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """A request is admitted."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def end(
        self, *, status: int, fault: str | None, delivered: bool, tokens: tuple[int, int], times_s: tuple[float, float]
    ) -> None:
        """A request is over. `tokens` are of prompt and completion, `times_s` the uptimes at which it came and ended.

        The caller lowers `in_flight`.
        """
        came_s, self.last_at_s = times_s
        self.first_at_s = came_s if self.first_at_s is None else min(self.first_at_s, came_s)
        self.served += 1
        self.delivered += delivered
        self.by_status[str(status)] += 1
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]
        if fault is not None:
            self.faults[fault] += 1

    def as_json(self, *, uptime_s: float, connections: int) -> bytes:
        """All counters as one JSON object."""
        return orjson.dumps(
            {
                "uptime_s": uptime_s,
                "connections": connections,
                "served": self.served,
                "delivered": self.delivered,
                "in_flight": self.in_flight,
                "peak_in_flight": self.peak_in_flight,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "first_at_s": self.first_at_s,
                "last_at_s": self.last_at_s,
                "by_status": self.by_status,
                "faults": self.faults,
            }
        )
