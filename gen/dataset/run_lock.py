"""One run at a time on a dataset: `run.json` says who, and is renewed as long as that run lives."""

import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stillhouse.gen.dataset.layout import RUN_KEY
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.lock import Holder
from stillhouse.gen.store.readable import ReadableStore

POLL_S = 0.5
"""How often a run that waits looks whether the lock is free."""


class RunLock:
    """Held for the length of a run; a context manager."""

    def __init__(self, store: Store, *, run: str, waiting: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._store = store
        self._lock = store.run_lock(RUN_KEY)
        self._run = run
        self._waiting = waiting
        self._lost = lost
        self._is_ours = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        said = False
        while (holder := self._lock.take(self._holder())) is not None:
            if not said and self._lock.beat_s is None:
                said = True
                self._waiting(
                    f"another run works on {self._store.url} ({self._store.url}/{RUN_KEY}); waiting until it ends"
                )
            elif not said and holder.run:
                said = True
                self._waiting(
                    f"another run works on {self._store.url} ({holder.host}, process {holder.pid}); "
                    f"waiting until it ends or has been silent for {self._lock.stale_s:.0f} s"
                )
            time.sleep(POLL_S)
        self._is_ours = True
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
        if self._is_ours:
            self._lock.release(self._holder(ended=True))

    def _beat(self, every_s: float) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(every_s):
            try:
                held = self._lock.renew(self._holder())
            except StillhouseError:
                held = time.monotonic() - renewed < self._lock.stale_s
            else:
                renewed = time.monotonic()
            if not held:
                self._is_ours = False
                self._lost()
                return

    def _holder(self, *, ended: bool = False) -> Holder:
        return Holder(run=self._run, host=socket.gethostname(), pid=os.getpid(), beat=time.time(), ended=ended)


def is_running(store: ReadableStore) -> bool:
    """True if a run works on the dataset now, as far as can be told."""
    return store.is_locked(RUN_KEY)
