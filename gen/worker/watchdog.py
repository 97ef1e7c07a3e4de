"""A watchdog over the worker's event loop: anything that blocks it for too long is logged once, with its stack.

A blocked loop sends nothing, renews nothing and counts nothing. Work that grows with an answer's size belongs in a
thread.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from types import FrameType, TracebackType
from typing import Self

MOST_HELD_S = 0.1
"""The longest time that anything may block the loop."""
BEAT_S = 0.05
"""How often the loop shows that it runs; shorter would cost CPU."""
LATE_S = BEAT_S + MOST_HELD_S
"""A beat that comes later than this after the one before shows that the loop is blocked."""
_IDLE = ("selectors.py", "threading.py", "thread.py", "queue.py")
"""Modules in which a thread only waits."""
_STACK_LINES = 8

_log = logging.getLogger("stillhouse")


class Watchdog:
    """Watches the loop in which it is entered, from a thread, until it is left."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """The longest block that was reported."""
        self._reported: set[str] = set()
        self._beat_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._loop, self._loops_thread = asyncio.get_running_loop(), threading.get_ident()
        self._loops_clock = time.pthread_getcpuclockid(self._loops_thread)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        held_by, beat_at, used = "", self._beat_at, self._used()
        # Whenever it wakes up, it contends with the loop for the interpreter's lock: not before the loop can be late.
        while not self._ended.wait(max(BEAT_S, beat_at + LATE_S - time.monotonic())):
            if self._beat_at != beat_at:
                if held_by:
                    held_s, (loops_s, all_s) = self._beat_at - beat_at - BEAT_S, self._used()
                    # On a busy machine the loop waits for its turn, which is nobody's fault here.
                    if loops_s - used[0] > MOST_HELD_S or all_s - used[1] > held_s / 2:
                        self._report(held_by, held_s=held_s)
                held_by, beat_at, used = "", self._beat_at, self._used()
            elif not held_by and time.monotonic() - beat_at >= LATE_S:
                held_by = self._culprit()

    def _culprit(self) -> str:
        """The stack of the loop's thread; if that only waits, the stacks of the threads that don't."""
        frames = sys._current_frames()  # noqa: SLF001 - documented, for debuggers
        if (loops := frames.get(self._loops_thread)) is not None and not _waits(loops):
            return _stack(loops)
        own = threading.get_ident()
        return "".join(_stack(frame) for thread, frame in frames.items() if thread != own and not _waits(frame))

    def _used(self) -> tuple[float, float]:
        """Seconds of CPU that the loop's thread and all threads have used."""
        return time.clock_gettime(self._loops_clock), time.process_time()

    def _report(self, held_by: str, *, held_s: float) -> None:
        if held_by in self._reported:
            return
        self.longest_s = max(self.longest_s, held_s)
        self._reported.add(held_by)
        _log.warning(
            "the event loop was blocked for %.2f s; nothing was sent or counted meanwhile:\n%s", held_s, held_by
        )


def _waits(frame: FrameType) -> bool:
    return frame.f_code.co_filename.endswith(_IDLE)


def _stack(frame: FrameType) -> str:
    return "".join(traceback.format_stack(frame)[-_STACK_LINES:])
