"""One run at a time on a dataset: `run.json` names it, and is renewed as long as that run lives."""

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.dataset.layout import RUN_KEY
from stillhouse.gen.errors import Paused, StillhouseError, StoreAway
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.lock import Holder
from stillhouse.gen.store.readable import ReadableStore

POLL_S = 0.5
"""How often a waiting run checks if the lock is free."""
GIVE_UP_S = 60.0
"""A run that could not renew its lock for this long stops: the same patience as for any other call to the store."""


class RunLock:
    """Held for the length of a run; a context manager.

    `lost` is called at most once, from a thread, when the run has to stop: another run has the dataset, or the store
    accepted no renewal for `GIVE_UP_S`. Before that the run may only have to pause sending: see `good_for_s`.
    """

    def __init__(
        self,
        store: Store,
        *,
        run: str,
        waiting: Callable[[str], None],
        lost: Callable[[Paused], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._store = store
        self._lock = store.run_lock(RUN_KEY)
        self._run = run
        self._waiting = waiting
        self.last: Holder | None = None
        """Who held it before, as of the last `take`."""
        self._said = False
        self._waits_for_store = False
        self._lost = lost
        self._clock = clock
        self._is_ours = False
        self._renewed_at = -math.inf
        self._answered_at = clock.monotonic()
        self._hold: Callable[[float], None] | None = None
        self._holding = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        while not self.take():
            time.sleep(POLL_S)
        if self._lock.beat_s is not None:
            self._thread = threading.Thread(target=self._beat, args=(self._lock.beat_s,), daemon=True)
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
    def beat_s(self) -> float | None:
        """How often `renew` has to be called; None: never."""
        return self._lock.beat_s

    @property
    def good_for_s(self) -> float:
        """How long the dataset is certainly still ours, by the clock alone, whatever a renewal is doing."""
        if not self._is_ours:
            return 0.0
        return max(0.0, self._renewed_at + self._lock.fence_s - self._clock.monotonic())

    def take(self) -> bool:
        """Try once; reports whom the run waits for.

        Raises:
            StoreAway: the store did not answer for `GIVE_UP_S`.
        """
        asked_at = self._clock.monotonic()
        try:
            self.last = read_holder(self._store)
            holder = self._lock.take(self._holder())
        except StoreAway:
            if asked_at - self._answered_at < GIVE_UP_S:
                return False
            raise
        self._answered_at = asked_at
        if holder is None:
            self._is_ours, self._renewed_at = True, asked_at
            return True
        if not self._said and self._lock.beat_s is None:
            self._said = True
            self._waiting(
                f"another run is working on {self._store.url} ({self._store.url}/{RUN_KEY}); waiting until it ends"
            )
        elif not self._said and holder.run:
            self._said = True
            self._waiting(
                f"another run is working on {self._store.url} ({holder.host}, process {holder.pid}); "
                f"waiting until it ends or has been silent for {self._lock.stale_s:.0f} s"
            )
        return False

    def renew(self) -> Paused | None:
        """Renew once; returns why the run has to stop, if it has to."""
        asked_at = self._clock.monotonic()
        try:
            held = self._lock.renew(self._holder())
        except StillhouseError as error:
            if self._clock.monotonic() - self._renewed_at < GIVE_UP_S:
                self._say_that_it_waits(error)
                return None
            self._is_ours = False
            return StoreAway(f"{self._store.url} could not be reached for {GIVE_UP_S:.0f} s: {error}")
        if held:
            self._renewed_at = asked_at
            self._waits_for_store = False
            return None
        self._is_ours = False
        return Paused("another run has taken over this dataset; this one stops")

    def _say_that_it_waits(self, error: StillhouseError) -> None:
        if self.good_for_s == 0.0 and not self._waits_for_store:
            self._waits_for_store = True
            self._waiting(
                f"the lock of this run could not be renewed for {self._lock.fence_s:.0f} s ({error}); nothing is asked "
                f"until it is, and after {GIVE_UP_S:.0f} s the run pauses"
            )

    def report_to(self, hold: Callable[[float], None] | None) -> None:
        """Call `hold` with how long sending is allowed, now and after every renewal; from a thread."""
        with self._holding:
            self._hold = hold
        self._report()

    def _report(self) -> None:
        with self._holding:
            if self._hold is not None and self._lock.beat_s is not None:
                self._hold(self.good_for_s)

    def release(self) -> None:
        """Release it at once, if it is ours."""
        if self._is_ours:
            self._lock.release(self._holder(ended=True))

    def _beat(self, every_s: float) -> None:
        began = self._clock.monotonic()
        while not self._ended.wait(max(0.1, began + every_s - self._clock.monotonic())):
            began = self._clock.monotonic()  # after a slow call, renew again at once
            if (why := self.renew()) is not None:
                self._lost(why)
                return
            self._report()

    def _holder(self, *, ended: bool = False) -> Holder:
        return Holder(run=self._run, host=socket.gethostname(), pid=os.getpid(), beat=self._clock.time(), ended=ended)


def read_holder(store: ReadableStore) -> Holder | None:
    """The run that worked on the dataset last, or does now; None if it is not known."""
    try:
        return Holder.model_validate_json(store.get(RUN_KEY) or b"")
    except ValidationError:
        return None


def is_running(store: ReadableStore) -> bool:
    """True if a run seems to be working on the dataset now."""
    return store.is_locked(RUN_KEY)
