"""Threads that decode, journal and read large replies, which would hold up the event loop.

They do nothing else. The loop's own threads may all be busy sealing and shipping for seconds, and a slot that waited
for one of them would ask nothing in that time.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

LARGE_BYTES = 2**18
"""Smaller replies take a few milliseconds at most: the switch to a thread would cost more than it saves."""

_KEEPING = ThreadPoolExecutor(2, thread_name_prefix="keeping")
_READING = ThreadPoolExecutor(1, thread_name_prefix="reading")
"""One, because several reads would keep the interpreter's lock from the loop; others are journalled meanwhile."""

_T = TypeVar("_T")


async def keep(work: Callable[[], _T]) -> _T:
    """Run what has to happen before a reply is in the journal."""
    return await _run(_KEEPING, work)


async def read(work: Callable[[], _T]) -> _T:
    """Run what reads a reply from the journal."""
    return await _run(_READING, work)


async def _run(threads: Executor, work: Callable[[], _T]) -> _T:
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(threads, run, work)
