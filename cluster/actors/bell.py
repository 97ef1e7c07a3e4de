"""A bell: a thread rings it, and whoever waits for it in an event loop wakes up."""

import asyncio
import contextlib
import threading


class Bell:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    async def within(self, seconds: float) -> None:
        """Return once it rings, or after so long."""
        rung = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.add(rung)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await rung
        finally:
            with self._lock:
                self._waiting.discard(rung)

    def ring(self) -> None:
        """Wake all who wait; safe from any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for rung in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                rung.get_loop().call_soon_threadsafe(_settle, rung)


def _settle(rung: "asyncio.Future[None]") -> None:
    if not rung.done():
        rung.set_result(None)
