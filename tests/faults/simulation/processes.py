"""The processes of a simulated cluster: what runs in one's context dies with it, at once, wherever it is.

A killed process has no more effect: each of its writes and messages raises `Killed`, its tasks are cancelled, and
its files are closed, which gives up their locks. A stopped one keeps everything and does nothing.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .loop import VirtualLoop, context_of


class Killed(BaseException):
    """The process is dead: no `except` of the code under test may survive it."""


class Closable(Protocol):
    """A file."""

    def close(self) -> None:
        """Close it."""


@dataclass(eq=False)
class Node:
    """A machine with a disk."""

    name: str
    disk: Path
    can_be_lost: bool = False
    cluster: int = 0
    """Processes of another cluster serve another run."""
    full_until: float = 0.0
    cut_from: dict[str, float] = field(default_factory=dict)
    """As `Process.cut_from`, of those that start there."""


@dataclass(eq=False)
class Tenure:
    """Until when a run may count on having its dataset to itself, as its driver knows."""

    good_until: float = float("inf")


@dataclass(eq=False)
class Process:
    """One process on a node."""

    name: str
    kind: str
    node: Node
    started_at: float
    context: contextvars.Context
    dead_at: float | None = None
    stopped_at: float | None = None
    """When it was stopped last, be it over or not."""
    stopped_until: float = 0.0
    cut_off_until: float = 0.0
    """It reaches no other process before."""
    cut_from: dict[str, float] = field(default_factory=dict)
    """Until when it does not reach the queue, the limiter or the store."""
    tenure: Tenure = field(default_factory=Tenure)
    """Its run's."""
    renewed_at: float = 0.0
    """When it asked for the last renewal that it got."""
    leases: int = 0
    """How often it asked the queue for a chunk."""
    disturbed: bool = False
    """True if it was ever stopped or cut off."""
    retired: bool = False
    """True if it ended as it should."""
    tasks: dict["asyncio.Task[Any]", None] = field(default_factory=dict)
    """Those that have not ended, in the order of their start."""
    files: list[Closable] = field(default_factory=list)
    backlog: list[asyncio.Handle] = field(default_factory=list)


_CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current() -> Process | None:
    """The process whose code is running; None for the outside world."""
    return _CURRENT.get()


def check_alive() -> Process | None:
    """The process whose code is running; it must not be dead.

    Raises:
        Killed: it is.
    """
    process = _CURRENT.get()
    if process is not None and process.dead_at is not None:
        raise Killed(process.name)
    return process


class Processes:
    """All there are and were."""

    def __init__(self, *, step: Callable[[Process], None]) -> None:
        self.all: list[Process] = []
        self.loop: VirtualLoop
        self._step = step

    def alive(self, kind: str) -> list[Process]:
        """Those of a kind."""
        return [process for process in self.all if process.kind == kind and process.dead_at is None]

    def spawn(
        self, kind: str, node: Node, main: Callable[[Process], Coroutine[Any, Any, Any]]
    ) -> tuple[Process, "asyncio.Task[Any]"]:
        """Start a process with a coroutine."""
        context = contextvars.Context()
        process = Process(f"{node.name}.{kind}-{len(self.all)}", kind, node, self.loop.time(), context)
        process.cut_from |= node.cut_from
        self.all.append(process)
        context.run(_CURRENT.set, process)
        return process, self.loop.create_task(main(process), context=context)

    def task_factory(self, loop: asyncio.AbstractEventLoop, coro: Any, **how: Any) -> "asyncio.Task[Any]":
        """Every task is noted with its process."""
        context = how.get("context")
        process = context[_CURRENT] if context is not None else _CURRENT.get()
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **how)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda task: process.tasks.pop(task, None))
        return task

    def admit(self, handle: asyncio.Handle) -> bool:
        """True if a callback may run now; a stopped process's callbacks run once it continues."""
        process: Process | None = context_of(handle).get(_CURRENT)
        if process is None or process.dead_at is not None:
            return True
        if process.stopped_until > self.loop.time():
            process.backlog.append(handle)
            return False
        self._step(process)
        return True

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        if process.dead_at is not None:
            return
        process.dead_at = self.loop.time()
        for file in process.files:
            file.close()
        for task in list(process.tasks):
            task.cancel()
        self._release(process)

    def retire(self, process: Process) -> None:
        """The process ended as it should, or its run did."""
        process.retired = process.retired or process.dead_at is None
        self.kill(process)

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after this time."""
        process.stopped_at, process.disturbed = self.loop.time(), True
        process.stopped_until = max(process.stopped_until, self.loop.time() + seconds)
        outside = contextvars.Context()
        self.loop.call_at(process.stopped_until, self._release, process, context=outside)

    def _release(self, process: Process) -> None:
        if process.dead_at is not None or process.stopped_until <= self.loop.time():
            self.loop.run_soon(process.backlog)
            process.backlog.clear()
