"""Deadlines of tasks that share a timer, in virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from faults.simulation.loop import VirtualLoop

from stillhouse.gen.teachers.deadlines import Deadlines


def _run(main: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop(None, admit=lambda handle: True)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)


def test_each_task_has_its_own_deadline() -> None:
    """Three overlap, the first ends in time; a fourth begins after the timer has found nobody."""
    ends = list[tuple[float, str]]()

    async def one(deadlines: Deadlines, *, begins: float, takes: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(begins)
        try:
            how = await deadlines.limited(asyncio.sleep(takes, "done"))
        except TimeoutError:
            how = "late"
        ends.append((loop.time(), how))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1.0)  # what follows is not cancelled

    async def main() -> None:
        deadlines = Deadlines(5.0)
        times = ((0.0, 3.0), (1.0, 9.0), (2.0, 9.0), (20.0, 9.0), (21.0, 4.0))
        await asyncio.gather(*(one(deadlines, begins=begins, takes=takes) for begins, takes in times))

    _run(main())
    assert ends == [(3.0, "done"), (6.0, "late"), (7.0, "late"), (25.0, "late"), (25.0, "done")]


def test_other_exceptions_are_passed_on() -> None:
    """The work's own errors, and a cancellation by somebody else, are not time-outs."""

    async def fails() -> None:
        raise KeyError("mine")

    async def main() -> None:
        deadlines = Deadlines(5.0)
        with pytest.raises(KeyError, match="mine"):
            await deadlines.limited(fails())
        task = asyncio.create_task(deadlines.limited(asyncio.sleep(9.0)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(9.0)

    _run(main())


def test_a_task_cancelled_as_it_becomes_late_stays_cancelled() -> None:
    """A worker that stops in that moment must not carry on with the next request."""

    async def main() -> None:
        task = asyncio.create_task(Deadlines(5.0).limited(asyncio.sleep(9.0)))
        await asyncio.sleep(0.0)
        asyncio.get_running_loop().call_at(5.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    _run(main())
