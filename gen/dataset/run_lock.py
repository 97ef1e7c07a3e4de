"""One run at a time on a dataset: `run.json` names it, and it holds the store's lock on that key as long as it lives.

A lock of the operating system can't be lost. A claim on an object store must be renewed, so it can be lost.
"""

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, assert_never

from pydantic import ValidationError

from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.dataset.layout import RUN_KEY
from stillhouse.gen.errors import Paused, StillhouseError, StoreAway
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.lock import ClaimLock, FileLock, Holder
from stillhouse.gen.store.readable import ReadableStore

POLL_S = 0.5
"""How often a waiting run checks whether the lock is free."""
GIVE_UP_S = 60.0
"""A run that could not renew its lock for this long stops; the same patience as for any other call to the store."""


class RunLock(Protocol):
    """Held for the length of a run; a context manager, which waits until the lock is free."""

    last: Holder | None
    """Who held the lock before."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def report_to(self, hold: Callable[[float], None] | None) -> None:
        """Call `hold` from a thread with the seconds for which sending is allowed, if that is limited."""
        ...


def run_lock(
    store: Store,
    *,
    run: str,
    waiting: Callable[[str], None],
    lost: Callable[[Paused], None],
    clock: Clock = SYSTEM,
) -> RunLock:
    """The lock on the store's dataset.

    Args:
        store: the dataset's store.
        run: a name that no other run has.
        waiting: called once with what the run waits for.
        lost: called at most once, from a thread, when the run must stop: another run has the dataset, or the store
            accepted no renewal for `GIVE_UP_S`.
        clock: the time.
    """
    match store.run_lock(RUN_KEY):
        case FileLock() as lock:
            return FileRunLock(store, lock, run=run, waiting=waiting, clock=clock)
        case ClaimLock() as lock:
            return ClaimRunLock(store, lock, run=run, waiting=waiting, lost=lost, clock=clock)
        case never:
            assert_never(never)


class FileRunLock:
    """A lock of the operating system, which ends with its process and can't be lost."""

    def __init__(self, store: Store, lock: FileLock, *, run: str, waiting: Callable[[str], None], clock: Clock) -> None:
        """See `run_lock`."""
        self.last: Holder | None = None
        self._store = store
        self._lock = lock
        self._run = run
        self._waiting = waiting
        self._clock = clock

    def __enter__(self) -> Self:
        said = False
        while not self._take():
            if not said:
                said = True
                url = self._store.url
                self._waiting(f"another run is working on {url} ({url}/{RUN_KEY}); waiting until it ends")
            time.sleep(POLL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release(_holder(self._run, self._clock, ended=True))

    def _take(self) -> bool:
        self.last = read_holder(self._store)
        return self._lock.take(_holder(self._run, self._clock))

    def report_to(self, hold: Callable[[float], None] | None) -> None:
        """Do nothing: a local lock never expires, so nothing limits sending."""


class ClaimRunLock:
    """A claim that is renewed.

    Before the run must stop because its claim is lost, it may have to pause sending: see `good_for_s`.
    """

    def __init__(
        self,
        store: Store,
        lock: ClaimLock,
        *,
        run: str,
        waiting: Callable[[str], None],
        lost: Callable[[Paused], None],
        clock: Clock,
    ) -> None:
        """See `run_lock`."""
        self.last: Holder | None = None
        """Who held the lock before, as of the last `take`."""
        self._store = store
        self._lock = lock
        self._run = run
        self._waiting = waiting
        self._said = False
        self._waits_for_store = False
        self._lost = lost
        self._clock = clock
        self._renewed_at = -math.inf
        """When the last renewal began; minus infinity if the claim is not ours."""
        self._answered_at = clock.monotonic()
        self._hold: Callable[[float], None] | None = None
        self._holding = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        while not self.take():
            time.sleep(POLL_S)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.release()

    @property
    def beat_s(self) -> float:
        """How often to call `renew`."""
        return self._lock.beat_s

    @property
    def good_for_s(self) -> float:
        """How long the dataset is certainly still ours, by the clock alone, whatever a renewal is doing."""
        return max(0.0, self._renewed_at + self._lock.fence_s - self._clock.monotonic())

    def take(self) -> bool:
        """Try once; reports whom the run waits for.

        Raises:
            StoreAway: the store did not answer for `GIVE_UP_S`.
        """
        asked_at = self._clock.monotonic()
        try:
            self.last = read_holder(self._store)
            holder = self._lock.take(_holder(self._run, self._clock))
        except StoreAway:
            if asked_at - self._answered_at < GIVE_UP_S:
                return False
            raise
        self._answered_at = asked_at
        if holder is None:
            self._renewed_at = asked_at
            return True
        if not self._said and holder.run:
            self._said = True
            self._waiting(
                f"another run is working on {self._store.url} ({holder.host}, process {holder.pid}); "
                f"waiting until it ends or has been silent for {self._lock.stale_s:.0f} s"
            )
        return False

    def renew(self) -> Paused | None:
        """Renew once; returns why the run must stop, if it must."""
        asked_at = self._clock.monotonic()
        try:
            held = self._lock.renew(_holder(self._run, self._clock))
        except StillhouseError as error:
            if self._clock.monotonic() - self._renewed_at < GIVE_UP_S:
                self._say_that_it_waits(error)
                return None
            self._renewed_at = -math.inf
            return StoreAway(f"{self._store.url} could not be reached for {GIVE_UP_S:.0f} s: {error}")
        if held:
            self._renewed_at = asked_at
            self._waits_for_store = False
            return None
        self._renewed_at = -math.inf
        return Paused("another run has taken over this dataset; this one stops")

    def _say_that_it_waits(self, error: StillhouseError) -> None:
        if self.good_for_s == 0.0 and not self._waits_for_store:
            self._waits_for_store = True
            self._waiting(
                f"the lock of this run could not be renewed for {self._lock.fence_s:.0f} s ({error}); nothing is "
                f"sent until it is renewed, and after {GIVE_UP_S:.0f} s the run pauses"
            )

    def report_to(self, hold: Callable[[float], None] | None) -> None:
        """Call `hold` from a thread, now and after every renewal, with how long sending is allowed."""
        with self._holding:
            self._hold = hold
        self._report()

    def _report(self) -> None:
        with self._holding:
            if self._hold is not None:
                self._hold(self.good_for_s)

    def release(self) -> None:
        """Release it at once, if it is ours."""
        if self._renewed_at > -math.inf:
            self._lock.release(_holder(self._run, self._clock, ended=True))

    def _beat(self) -> None:
        began = self._clock.monotonic()
        while not self._ended.wait(max(0.1, began + self.beat_s - self._clock.monotonic())):
            began = self._clock.monotonic()  # after a slow call, renew again at once
            if (why := self.renew()) is not None:
                self._lost(why)
                return
            self._report()


def _holder(run: str, clock: Clock, *, ended: bool = False) -> Holder:
    return Holder(run=run, host=socket.gethostname(), pid=os.getpid(), beat=clock.time(), ended=ended)


def read_holder(store: ReadableStore) -> Holder | None:
    """The run that worked on the dataset last, or does now; None if unknown."""
    try:
        return Holder.model_validate_json(store.get(RUN_KEY) or b"")
    except ValidationError:
        return None


def is_running(store: ReadableStore) -> bool:
    """True if a run seems to be working on the dataset now."""
    return store.is_locked(RUN_KEY)
