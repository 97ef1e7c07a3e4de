"""Threads that journal and read large replies, which would hold up the event loop.

They do nothing else. The loop's own threads may all be busy sealing and shipping for seconds, and a slot that waited
for one of them would ask nothing in that time.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 2
"""While one reply is read, others can be journalled."""

_T = TypeVar("_T")


class ReplyThreads:
    """See the module."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="replies")
        self._reading = asyncio.Lock()

    async def journal(self, work: Callable[[], _T]) -> _T:
        """Run it in one of the threads."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, work)

    async def read(self, work: Callable[[], _T]) -> _T:
        """Run it while no other reply is read: several would keep the interpreter's lock from the loop."""
        async with self._reading:
            return await self.journal(work)
