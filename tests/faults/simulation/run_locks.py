"""The lock of a run in a world of virtual time: the real one, with its beat as a task of the driver."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from stillhouse.gen.dataset.layout import RUN_KEY
from stillhouse.gen.dataset.run_lock import POLL_S, ClaimRunLock
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.store.lock import ClaimLock

from .crew import Crew
from .services import Services


class HeldLock:
    """A run's lock as its driver holds it."""

    def __init__(self, lock: ClaimRunLock | None) -> None:
        self._lock = lock
        """None: the system's lock, which needs no renewal."""
        self._crew: Crew | None = None
        self._lost: StillhouseError | None = None

    @asynccontextmanager
    async def followed_by(self, crew: Crew) -> AsyncIterator[None]:
        """Inform the crew of every renewal, and of the loss."""
        self._crew = crew
        if self._lock is not None:
            await crew.hold(self._lock.good_for_s)
        if self._lost is not None:
            crew.stop_for(self._lost)
        try:
            yield
        finally:
            self._crew = None

    async def beat(self) -> None:
        """Renew it until it is lost."""
        assert self._lock is not None
        while self._lost is None:
            await asyncio.sleep(self._lock.beat_s)
            self._lost = await asyncio.to_thread(self._lock.renew)
            if self._crew is None:
                continue
            await self._crew.hold(self._lock.good_for_s)
            if self._lost is not None:
                self._crew.stop_for(self._lost)


@asynccontextmanager
async def held_lock(services: Services, *, waiting: Callable[[str], None]) -> AsyncIterator[HeldLock]:
    """Wait for the run's lock and hold it."""
    claim = services.store.run_lock(RUN_KEY)
    if not isinstance(claim, ClaimLock):
        yield HeldLock(None)
        return
    run = f"run-{len(services.processes.all)}"
    lock = ClaimRunLock(services.store, claim, run=run, waiting=waiting, lost=lambda _: None, clock=services.clock)
    while not await asyncio.to_thread(lock.take):  # noqa: ASYNC110 - as the run polls, in virtual time
        await asyncio.sleep(POLL_S)
    held = HeldLock(lock)
    beat = asyncio.create_task(held.beat())
    try:
        yield held
    finally:
        beat.cancel()
        await asyncio.to_thread(lock.release)
