"""The bell by which a thread wakes what waits in an event loop."""

import asyncio
import threading

from stillhouse.cluster.actors.bell import Bell

LONG_S = 600.0


async def test_any_thread_can_wake_all_waiters() -> None:
    """Each once; later arrivals wait for the next ring, and waiters that have left don't matter."""
    bell = Bell()
    waiting = [asyncio.create_task(bell.within(LONG_S)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    ringing = threading.Thread(target=bell.ring)
    ringing.start()
    async with asyncio.timeout(LONG_S / 2):
        await asyncio.gather(*waiting, return_exceptions=True)
    ringing.join()
    assert [each.cancelled() for each in waiting] == [True, False, False]
    later = asyncio.create_task(bell.within(LONG_S))
    await asyncio.sleep(0)
    assert not later.done()
    bell.ring()
    await later
    await bell.within(0.0)
