"""Ships the journals of a worker's chunks in time, and closes its fence while one is late."""

import asyncio
from collections.abc import Callable, Mapping

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.journal.shipping import SHIP_BYTES
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.leased_chunk import Hands, LeasedChunk
from stillhouse.gen.worker.tasks import Tasks

LOOK_S = 0.25
"""How often it checks whether a journal is far behind."""


class Shipments:
    """Ships the journals of one worker."""

    def __init__(
        self,
        tasks: Tasks,
        hands: Hands,
        fence: Fence,
        *,
        held: Mapping[ChunkId, LeasedChunk],
        under_way_bytes: Callable[[], int],
        every_s: float,
        clock: Clock,
    ) -> None:
        """Args:
        tasks: the worker's.
        hands: knows the journals' disk.
        fence: closes if frames stay on this node alone.
        held: the worker's chunks, as of any moment.
        under_way_bytes: size of the replies that may still come.
        every_s: longest time between shipments.
        clock: the worker's.
        """
        self._tasks = tasks
        self._hands = hands
        self._fence = fence
        self._held = held
        self._under_way_bytes = under_way_bytes
        self._every_s = every_s
        self._clock = clock
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
            self._hands.check_room(under_way_bytes=self._under_way_bytes())
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
