"""Threads for work on the bodies of large replies, which would hold up the event loop.

They do nothing else: the loop's own threads may all be busy sealing and shipping for seconds.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LARGE_BODY_BYTES = 2**20
"""Smaller bodies take a few milliseconds at most."""

_THREADS = ThreadPoolExecutor(2, thread_name_prefix="bodies")

_T = TypeVar("_T")


async def beside_the_loop(work: Callable[[], _T]) -> _T:
    """Run it in one of the threads."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)
