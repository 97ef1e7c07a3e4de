"""One run at a time on a dataset: `run.json` says who, and is renewed as long as that run lives.

On a local disk a file lock says it, which the system takes away with its holder. On S3 the holder renews by
compare-and-set every `BEAT_S`; one that has not for `STALE_S` is gone, and one that finds another's name in its place
stops.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from stillhouse.gen.dataset import RUN_KEY
from stillhouse.gen.errors import DatasetError, StillhouseError, StoreAway
from stillhouse.gen.store import Store

BEAT_S = 5.0
STALE_S = 15.0


class RunLock:
    """Held for the length of a run; a context manager."""

    def __init__(self, store: Store, *, run: str, waiting: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._store = store
        self._run = run
        self._waiting = waiting
        self._lost = lost
        self._fd: int | None = None
        self._etag: str | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._store.is_local:
            self._lock_file()
        else:
            self._claim()
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._fd is not None:
            self._say(self._fd, ended=True)
            os.close(self._fd)
        elif self._etag is not None:
            with suppress(StillhouseError):  # the next run waits until we are stale
                self._write(ended=True)

    def _lock_file(self) -> None:
        path = Path(self._store.url) / RUN_KEY
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreAway(f"{path}: can't be written ({error.strerror}); mend that, then run again") from None
        said = False
        while not _locked(self._fd):
            if not said:
                self._waiting(f"another run works on {self._store.url} ({path}); waiting until it ends")
            said = True
            time.sleep(0.5)
        self._say(self._fd, ended=False)

    def _say(self, fd: int, *, ended: bool) -> None:
        """For whoever looks; the lock itself is what counts, so that a disk that is full changes nothing."""
        with suppress(OSError):
            os.ftruncate(fd, os.pwrite(fd, self._document(ended=ended), 0))

    def _claim(self) -> None:
        """Take run.json over once it is absent, ended or has not changed for `STALE_S` by our own clock."""
        seen, since, said = "", time.monotonic(), False
        while True:
            found = self._store.get_with_etag(RUN_KEY)
            body, etag = found if found is not None else (b"{}", None)
            if etag != seen:
                seen, since = etag or "", time.monotonic()
            holder = _parsed(body, self._store.url)
            if etag is None or holder.get("ended") or time.monotonic() - since > STALE_S:
                self._etag = etag
                if self._write(ended=False):
                    return
            elif not said:
                said = True
                self._waiting(
                    f"another run works on {self._store.url} ({holder.get('host')}, process {holder.get('pid')}); "
                    f"waiting until it ends or has been silent for {STALE_S:.0f} s"
                )
            time.sleep(1.0)

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(BEAT_S):
            try:
                held = self._write(ended=False)
            except StillhouseError:
                held = time.monotonic() - renewed < STALE_S
            else:
                renewed = time.monotonic()
            if not held:
                self._etag = None
                self._lost()
                return

    def _write(self, *, ended: bool) -> bool:
        """Say that we are here; False where another is."""
        etag = self._store.swap(RUN_KEY, self._document(ended=ended), etag=self._etag)
        if etag is None:
            # A write of ours whose outcome we never heard may be what is there.
            found = self._store.get_with_etag(RUN_KEY)
            if found is None or _parsed(found[0], self._store.url).get("run") != self._run:
                return False
            etag = found[1]
        self._etag = etag
        return True

    def _document(self, *, ended: bool) -> bytes:
        who = {"run": self._run, "host": socket.gethostname(), "pid": os.getpid(), "beat": time.time(), "ended": ended}
        return orjson.dumps(who)


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(body: bytes, url: str) -> dict[str, object]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise DatasetError(f"{url}/{RUN_KEY}: is damaged; if no run works on this dataset, delete that file")
    return document


def is_running(store: Store) -> bool:
    """Whether a run works on the dataset now, as far as can be told."""
    if store.is_local:
        path = Path(store.url) / RUN_KEY
        if not path.exists():
            return False
        try:
            with path.open("rb") as file:
                return not _locked(file.fileno(), fcntl.LOCK_SH)
        except OSError as error:
            raise DatasetError(f"{path}: expected a file that can be read ({error.strerror}); move it away") from None
    body = store.get(RUN_KEY)
    if body is None:
        return False
    holder = _parsed(body, store.url)
    beat = holder.get("beat")
    return not holder.get("ended") and isinstance(beat, (int, float)) and time.time() - beat < STALE_S
