"""Sweeps: a worker ships what dead workers left on its node, so that others can recover their chunks."""

import asyncio
import contextlib
from collections.abc import Sequence

from stillhouse.gen.coordination.messages import Unreachable
from stillhouse.gen.worker.parts import Parts


class Sweeping:
    """Sweeps of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._worker, self._tasks, self._queue, self._hands = parts.name, parts.tasks, parts.queue, parts.hands
        self._is_begun = False
        """True while a sweep runs in the background."""

    async def sweep(self, left_by: Sequence[str] = ()) -> None:
        """Ship what is left, then report that; `left_by`: the dead workers that the queue has named."""
        try:
            await asyncio.to_thread(self._hands.sweep)
        finally:
            self._is_begun = False
        with contextlib.suppress(Unreachable):
            await self._queue.shipped(self._worker, list(left_by))

    def begin(self, left_by: Sequence[str]) -> None:
        """Sweep in the background, because renewals do not wait for the store. If a sweep is running, the queue names
        the workers again."""
        if not self._is_begun:
            self._is_begun = True
            self._tasks.spawn(self.sweep, left_by)
