"""A lock on a key of a store: one process holds it at a time, and it ends with its holder.

The key's object says who holds it. On a local disk, the system's file lock decides; it ends with its process. On S3,
the holder renews its claim by compare-and-set, and a claim that has not changed for `STALE_S` by the waiting process's
own clock is free. So a holder that could not renew for `FENCE_S` by its own clock acts as if it had lost the lock,
until a renewal succeeds. A holder that finds another's claim in place of its own has lost the lock for good.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.errors import DatasetError, StillhouseError, StoreAway

if TYPE_CHECKING:
    from stillhouse.gen.store.base import Store

BEAT_S = 3.0
"""How often a claim is renewed."""
FENCE_S = 10.0
"""A holder that has not renewed for this long stops everything that only a holder may do. Three beats, so that a single
lost write costs nothing."""
STALE_S = 15.0
"""A claim not renewed for this long is free: `FENCE_S`, plus time for all of the holder's processes to learn of it."""


class Holder(BaseModel):
    """The holder of a lock, as stored in its object."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str = ""
    host: str = ""
    pid: int = 0
    beat: float = 0.0
    """When the lock was last written, in UTC seconds since 1970."""
    ended: bool = False


class FileLock:
    """On a local disk: the operating system's lock on the file, which needs no renewal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        """Open as long as we hold the lock."""

    def take(self, holder: Holder) -> bool:
        """Try once; False if another process holds it.

        Raises:
            StoreAway: the file can't be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreAway(f"{self._path}: can't be written ({error.strerror}); fix that, then run again") from None
        if not _locked(fd, fcntl.LOCK_EX):
            os.close(fd)
            return False
        self._fd = fd
        self._say(holder)
        return True

    def release(self, holder: Holder) -> None:
        """Release it at once, if it is ours; `holder` is marked as ended."""
        if self._fd is not None:
            self._say(holder)
            os.close(self._fd)
            self._fd = None

    def _say(self, holder: Holder) -> None:
        """For readers only: the lock itself decides, so a full disk changes nothing."""
        assert self._fd is not None
        with suppress(OSError):
            os.ftruncate(self._fd, os.pwrite(self._fd, _document(holder), 0))

    def is_held(self) -> bool:
        """True if another process holds it."""
        if not self._path.exists():
            return False
        try:
            with self._path.open("rb") as file:
                return not _locked(file.fileno(), fcntl.LOCK_SH)
        except OSError as error:
            raise DatasetError(f"{self._path}: expected a readable file ({error.strerror}); move it away") from None


class ClaimLock:
    """On S3: a claim that is renewed. The given store must give up on each call within a beat."""

    def __init__(self, store: "Store", key: str, *, clock: Clock = SYSTEM) -> None:
        self.beat_s = BEAT_S
        """Interval between calls to `renew`."""
        self.fence_s = FENCE_S
        """How long the holder may rely on a renewal, counted from its start."""
        self.stale_s = STALE_S
        """A claim not renewed for this long is free."""
        self._clock = clock
        self._store = store
        self._key = key
        self._etag: str | None = None
        self._seen: str | None = None
        self._since = self._clock.monotonic()

    def take(self, holder: Holder) -> Holder | None:
        """Try once. None if the lock is ours; otherwise its holder, with an empty `run` if unknown."""
        found = self._store.get_with_etag(self._key)
        body, etag = found if found is not None else (b"{}", None)
        if etag != self._seen:
            self._seen, self._since = etag, self._clock.monotonic()
        theirs = self._parsed(body)
        if etag is None or theirs.ended or self._clock.monotonic() - self._since > self.stale_s:
            self._etag = etag
            if self.renew(holder):
                return None
        return theirs

    def renew(self, holder: Holder) -> bool:
        """Renew the claim; False if another process holds it."""
        etag = self._store.swap(self._key, _document(holder), etag=self._etag)
        if etag is None:
            # It may be our own write whose outcome was unknown.
            found = self._store.get_with_etag(self._key)
            if found is None or self._parsed(found[0]).run != holder.run:
                return False
            etag = found[1]
        self._etag = etag
        return True

    def release(self, holder: Holder) -> None:
        """Release it at once; `holder` is marked as ended."""
        with suppress(StillhouseError):  # the next holder waits until our claim is stale
            self.renew(holder)

    def is_held(self) -> bool:
        """True if there is a claim that was renewed recently, according to its own timestamp."""
        body = self._store.get(self._key)
        if body is None:
            return False
        holder = self._parsed(body)
        return not holder.ended and self._clock.time() - holder.beat < self.stale_s

    def _parsed(self, body: bytes) -> Holder:
        try:
            return Holder.model_validate(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError):
            raise DatasetError(
                f"{self._store.url}/{self._key}: is damaged; if no run works on this dataset, delete that file"
            ) from None


Lock: TypeAlias = FileLock | ClaimLock


def _document(holder: Holder) -> bytes:
    return orjson.dumps(holder.model_dump())


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
