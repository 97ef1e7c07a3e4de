"""Decides when a worker may send, by clocks alone, even while a call to the queue or the store hangs.

There are two clocks. A renewal by the queue opens the fence for `FENCE_S`, or for less if the run's own lock is about
to expire: after that, another worker or another run may have the chunks. The store closes the fence if answers older
than a limit exist only on this node's disk: they would be paid for a second time if the node were lost, so no more are
added.
"""

import asyncio
import math

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.leases import FENCE_S


class Fence:
    """The fence of one worker. Wait here before reserving from the limits, or all waiters would send at once."""

    def __init__(self, clock: Clock, *, ship_every_s: float) -> None:
        self._clock = clock
        # Answers not yet due are not late: a recipe may ship less often than every ten seconds.
        self._most_unshipped_s = max(FENCE_S, ship_every_s + FENCE_S / 2)
        self._leased_until = clock.monotonic() + FENCE_S
        self._shipped_until = math.inf
        self._opened = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """True if requests may be sent now."""
        now = self._clock.monotonic()
        return now < self._leased_until and now < self._shipped_until

    @property
    def store_is_late(self) -> bool:
        """True if the store keeps it closed."""
        return self._clock.monotonic() >= self._shipped_until

    async def open(self) -> None:
        """Wait until requests may be sent."""
        while not self.is_open:
            self._opened.clear()
            await self._opened.wait()

    def renewed(self, *, asked_at: float, good_for_s: float = math.inf) -> None:
        """The queue answered a renewal sent at `asked_at`; the run's lock was valid for `good_for_s` more."""
        self._leased_until = asked_at + min(FENCE_S, good_for_s)
        self._opened.set()

    def unshipped_since(self, at: float | None) -> None:
        """The oldest frame that exists only on this node is from `at` or later; None if all are shipped."""
        self._shipped_until = math.inf if at is None else at + self._most_unshipped_s
        self._opened.set()
