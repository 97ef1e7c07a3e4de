"""An event loop whose time is virtual and whose threads take turns with it, so that a run follows from its seed alone.

Nothing ever waits for real: when nothing is ready, time jumps to the next timer. What a thread does continues at the
place where it pauses itself, and nothing else runs meanwhile. Callbacks belong to the process in whose context they
were scheduled; `admit` may hold back those of a stopped one.

The one module with private names of asyncio, those of CPython 3.11 to 3.13: a loop has no other way to own its time.
Every simulation fails if they go.
"""

import asyncio
import heapq
import random
import threading
from asyncio import Future, Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, ClassVar

_HERE = threading.local()
"""`lane`: the Lane whose thread this is."""


class Lane:
    """A thread that runs only while the loop waits for it."""

    _idle: ClassVar[list["Lane"]] = []

    def __init__(self) -> None:
        self._job: Callable[[], None] = _nothing
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        threading.Thread(target=self._main, daemon=True).start()

    @classmethod
    def start(cls, job: Callable[[], None]) -> None:
        """Run the job until it pauses or ends."""
        lane = cls._idle.pop() if cls._idle else cls()
        lane._job = job  # noqa: SLF001 - one of its own
        lane.resume()

    def resume(self) -> None:
        """Let it continue until it pauses or ends."""
        self._go.release()
        self._back.acquire()

    def pause(self, loop: "VirtualLoop", seconds: float) -> None:
        """In its own thread: let the others continue for this time."""
        loop.call_later(seconds, self.resume)
        self._back.release()
        self._go.acquire()

    def _main(self) -> None:
        _HERE.lane = self
        while True:
            self._go.acquire()
            self._job()
            self._job = _nothing
            Lane._idle.append(self)
            self._back.release()


def _nothing() -> None:
    pass


def context_of(handle: Handle) -> Context:
    """The context that the callback runs in."""
    context: Context = handle._context  # type: ignore[attr-defined] # noqa: SLF001 - see the module
    return context


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    def __init__(self, rng: random.Random | None, *, admit: Callable[[Handle], bool]) -> None:
        super().__init__()
        self._rng = rng
        """Shuffles what is ready; None: first in, first out."""
        self._admit = admit
        self._now = 0.0
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._count = 0
        self.lanes = 0
        """Jobs in threads that have not ended."""
        self.steps = 0
        """Callbacks run."""

    def set_admit(self, admit: Callable[[Handle], bool]) -> None:
        """Set the function that says if a callback may run now."""
        self._admit = admit

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def stall(self, seconds: float) -> None:
        """In a callback: take this long, while everything else waits."""
        self._now += seconds

    def pause(self, seconds: float) -> None:
        """In a thread of `run_in_executor`, let the rest of the world continue for this time; elsewhere do nothing."""
        if (lane := getattr(_HERE, "lane", None)) is not None:
            lane.pause(self, seconds)

    def run_in_executor(  # type: ignore[override] # typed more loosely
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "Future[Any]":
        """Run it in a Lane, which begins at once."""
        future = self.create_future()

        def job() -> None:
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - a future carries whatever it was
                self._tell(future, error=error)
            else:
                self._tell(future, result=result)
            self.lanes -= 1

        self.lanes += 1
        Lane.start(job)
        return future

    @staticmethod
    def _tell(future: "Future[Any]", *, result: Any = None, error: BaseException | None = None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def call_at(  # type: ignore[override] # typed more loosely
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> TimerHandle:
        """Like asyncio's; timers of the same moment fire in the order in which they were made."""
        timer = TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def run_soon(self, handles: Iterable[Handle]) -> None:
        """Run these callbacks, which `admit` held back."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        pass  # it is dropped when its time comes

    def _write_to_self(self) -> None:
        pass  # all threads are ours and take turns

    def _run_once(self) -> None:
        """Run one callback; time moves only when none is ready."""
        ready: deque[Handle] = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        if not ready:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            assert timers, "nothing will ever happen again"
            self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                timer = heapq.heappop(timers)[2]
                if not timer.cancelled():
                    ready.append(timer)
        if self._rng is not None and len(ready) > 1:
            ready.rotate(-self._rng.randrange(len(ready)))
        handle = ready.popleft()
        if not handle.cancelled() and self._admit(handle):
            self.steps += 1
            handle._run()  # noqa: SLF001 - see the module
