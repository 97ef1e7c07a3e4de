"""The watchdog names what holds the event loop."""

import asyncio
import time

import pytest

from stillhouse.gen.worker.watchdog import BEAT_S, MOST_HELD_S, Watchdog


async def test_the_code_that_blocks_the_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """By its stack, with the time that it took."""
    with Watchdog() as watchdog:
        for _ in range(2):
            _compute(3 * MOST_HELD_S)
            await asyncio.sleep(4 * BEAT_S)
    (said,) = caplog.messages
    assert "the event loop was blocked for" in said
    assert "_compute" in said
    assert watchdog.longest_s >= 2 * MOST_HELD_S


async def test_a_waiting_loop_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """However long it has nothing to do."""
    with Watchdog() as watchdog:
        await asyncio.sleep(3 * MOST_HELD_S)
    assert (watchdog.longest_s, caplog.messages) == (0.0, [])


def _compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
