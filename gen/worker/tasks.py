"""A worker's tasks: they end with it, and the first error of any of them stops it gracefully."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from stillhouse.gen.errors import StillhouseError, StoreAway, StoreRefused, cause_of

_log = logging.getLogger("stillhouse")


class Tasks:
    """The tasks of one worker; an asynchronous context manager that waits for them."""

    def __init__(self, name: str) -> None:
        """`name`: the worker's."""
        self.error: StillhouseError | None = None
        """The first error of a task."""
        self.stopping = False
        """True if the worker sends nothing new, finishes what is in flight and gives the rest back."""
        self.changed = asyncio.Event()
        """Set if the worker may have to lease a chunk, or to end."""
        self._name = name
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> asyncio.Task[None]:
        """Run a task that ends with the worker, and whose errors stop it."""
        return self._group.create_task(self.guarded(work, *args))

    async def guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run it; an error stops the worker cleanly, because requests in flight are paid for."""
        try:
            await work(*args)
        except StillhouseError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - our bug: it costs no sample a try, and is reported
            _log.exception("worker %s failed", self._name)
            self.fail(StillhouseError(f"worker {self._name} failed: {cause_of(error)}"))

    def fail(self, error: StillhouseError) -> None:
        """Stop gracefully because of this error."""
        if isinstance(error, StoreRefused):  # the driver could write, so a person has to fix what is refused now
            error = StoreAway(f"{error}; then run the same command again")
        self.error = self.error or error
        self.stop()

    def stop(self) -> None:
        """Send nothing new, finish what is in flight, give the rest back."""
        self.stopping = True
        self.changed.set()
