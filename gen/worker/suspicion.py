"""Puts a run that yields nothing on hold until it is known whether earlier runs had records from there; else stops it.

`gen.worker.guard.Guard` decides when there is enough evidence. What was paid for stays in the journals.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from stillhouse.gen.errors import StillhouseError, TeacherPaused
from stillhouse.gen.worker.guard import Guard, Key, Useless
from stillhouse.gen.worker.lanes.base import Gate
from stillhouse.gen.worker.settlements import Settlement
from stillhouse.gen.worker.tasks import Tasks


class Suspicion:
    """The suspicion against a run; one per worker."""

    def __init__(
        self, tasks: Tasks, gate: Gate, *, places: Collection[Key], has_records: Callable[[Key], bool]
    ) -> None:
        """Args: tasks: the worker's tasks. gate: closed while there is a suspicion. places: teachers and endpoints of
        this run. has_records: blocks; True if the dataset has records from there.
        """
        self.useless: Useless | None = None
        """The suspicion, while it lasts."""
        self._tasks = tasks
        self._gate = gate
        self._places = places
        self._has_records = has_records
        self._guard = Guard()
        self._resolved = asyncio.Event()
        self._resolved.set()

    def note(self, settlements: Sequence[Settlement], *, found: bool = False) -> None:
        """Count these, and act on them if they are enough evidence; `found`: see `Guard.note`."""
        # Frames from an endpoint that is no longer asked say nothing about this run.
        counted = [each for each in settlements if (each.teacher, each.endpoint) in self._places]
        if (useless := self._guard.note(counted, found=found)) is not None and self.useless is None:
            self._suspect(useless)
            self._gate.hold()  # requests sent meanwhile might be paid for in vain
            self._tasks.spawn(self._resolve, useless)

    async def at_chunk_end(self, *, prompts: int) -> None:
        """Act on all samples so far, now that a chunk of this many prompts is complete.

        Raises:
            StillhouseError, TeacherPaused: the run is useless.
        """
        while self.useless is None and (useless := self._guard.at_chunk_end(prompts=prompts)) is not None:
            self._suspect(useless)
            await self._resolve(useless)

    def given_up_on(self, teacher: str) -> None:
        """The teacher never answered, and others replace it: that is not a reason to stop."""
        self._guard.forgive(teacher)

    async def is_cleared(self) -> bool:
        """Wait for the suspicion to be resolved; False if the run ends with it."""
        await self._resolved.wait()
        return self.useless is None

    def _suspect(self, useless: Useless) -> None:
        self.useless = useless
        self._resolved.clear()

    async def _resolve(self, useless: Useless) -> None:
        try:
            if useless.kind == "failed" and await asyncio.to_thread(self._has_records, useless.key):
                self._guard.clear(useless)
                self.useless = None
                self._gate.go_on()
                return
            raise (TeacherPaused if useless.kind == "paused" else StillhouseError)(useless.message)
        finally:
            self._resolved.set()
