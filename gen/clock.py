"""Time as the core sees it: passed in, so that a test can own it.

Durations and deadlines are monotonic seconds; only what is written down for people is wall-clock time.
"""

import time
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
