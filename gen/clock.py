"""Time as the core sees it: passed in, so that a test can own it.

Durations and deadlines are monotonic seconds; only what is written down for people is wall-clock time.
"""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Two readings of time."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        ...


SYSTEM: Clock = time
"""The machine's clock."""


@dataclass(slots=True)
class ManualClock:
    """Time that stands still until a test moves it."""

    now: float = 0.0
    """Both readings, in seconds."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return self.now

    def time(self) -> float:
        """See `Clock`."""
        return self.now
