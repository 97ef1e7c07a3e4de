"""A deadline for each of many tasks that may all take equally long: `asyncio.timeout`, with one timer for all."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Deadlines:
    """Cancels what takes longer than `timeout_s`; of one event loop."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends: dict[asyncio.Task[Any], float] = {}
        """When each task that is not late yet becomes late, by the loop's clock; the first is the next to be."""
        self._timer: asyncio.TimerHandle | None = None

    async def limited(self, work: Awaitable[_T]) -> _T:
        """The result of the work.

        Raises:
            TimeoutError: it took too long, and was cancelled.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._ends[task] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._look)
        try:
            return await work
        except BaseException as error:
            is_late = task not in self._ends
            if is_late and task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from None
            raise
        finally:
            self._ends.pop(task, None)

    def _look(self) -> None:
        """Cancel the tasks that are late, and look again when the next one will be."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._ends:
            task, end = next(iter(self._ends.items()))
            if end > loop.time():
                self._timer = loop.call_at(end, self._look)
                return
            del self._ends[task]
            task.cancel()
