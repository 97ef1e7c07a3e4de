"""A bell that one thread rings to wake the tasks that wait for it in an event loop."""

import asyncio
import contextlib
import threading


class Bell:
    """Wakes tasks of an event loop from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    async def within(self, seconds: float) -> None:
        """Wait until the bell rings, or until the timeout."""
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
        """Wake all waiting tasks; safe to call from any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for rung in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                rung.get_loop().call_soon_threadsafe(_settle, rung)


def _settle(rung: "asyncio.Future[None]") -> None:
    if not rung.done():
        rung.set_result(None)
