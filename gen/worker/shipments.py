"""Ships the journals of a worker's chunks in time, and closes its fence while one is late."""

import asyncio

from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.journal.shipping import SHIP_BYTES
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parts import Parts

LOOK_S = 0.25
"""How often it checks whether a journal is far behind."""


class Shipments:
    """Ships the journals of one worker."""

    def __init__(self, parts: Parts, *, every_s: float) -> None:
        """`every_s`: longest time between shipments."""
        self._tasks, self._hands, self._fence, self._clock = parts.tasks, parts.hands, parts.fence, parts.clock
        self._counters, self._asker = parts.counters, parts.asker
        self._held = parts.chunks.held
        self._every_s = every_s
        self._last_s = 0.0
        """Duration of the last shipment."""

    async def run(self) -> None:
        """Ship every journal in time, each on its own: a hanging call to the store does not delay the others.

        A shipment's duration counts towards `every_s`, because what arrives meanwhile waits for the next one.
        """
        due_at = self._clock.monotonic() + self._every_s
        while True:
            await asyncio.sleep(max(0.0, min(LOOK_S, due_at - self._clock.monotonic())))
            is_due = self._clock.monotonic() >= due_at
            if is_due:
                due_at = self._clock.monotonic() + max(self._every_s / 2, self._every_s - self._last_s)
            under_way_bytes = self._counters.in_flight * self._asker.largest_reply_bytes  # of replies that may come
            self._hands.check_room(under_way_bytes=under_way_bytes)
            for held in self._held.values():
                if not held.is_shipping and (is_due or held.shipper.behind_bytes >= SHIP_BYTES):
                    held.is_shipping = True
                    self._tasks.spawn(self._ship, held)
            self._fence.unshipped_since(
                min((held.shipped_at for held in self._held.values() if held.shipper.behind_bytes), default=None)
            )

    async def _ship(self, held: LeasedChunk) -> None:
        started = self._clock.monotonic()
        try:
            await asyncio.to_thread(held.shipper.ship)
        finally:
            held.is_shipping = False
        held.shipped_at = started
        self._last_s = self._clock.monotonic() - started


async def ship_last(held: LeasedChunk) -> bool:
    """True if it is shipped: at the end one more call is tried; if that fails, the journal stays on the node's disk."""
    try:
        await asyncio.to_thread(held.shipper.ship)
    except (StillhouseError, OSError):
        return False
    return True
