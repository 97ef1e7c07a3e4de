"""Time is passed in, so that a test can control it.

Durations and deadlines are monotonic seconds; wall-clock time is only for what people read.
"""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A reading of both clocks."""

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
    """A clock that stands still until a test moves it."""

    now: float = 0.0
    """Wall-clock and monotonic time, in seconds."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return self.now

    def time(self) -> float:
        """See `Clock`."""
        return self.now
