"""Where the simulated cluster keeps its dataset: a bucket in memory, or the real local store, both with faults.

A write is a moment at which its process may die: before it, or after it landed. A write that fails as `StoreAway` may
have landed. Either way, a write on its way to a bucket may land later. In a thread an operation takes time, in which
the rest of the world continues.
"""

import contextvars
import copy
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

import pyarrow as pa

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.layout import JOURNAL_PREFIX
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.store.local import LocalStore
from stillhouse.gen.store.lock import BEAT_S, ClaimLock, Lock
from stillhouse.gen.store.readable import Stat

from .history import History
from .loop import VirtualLoop
from .processes import Killed, check_alive

T = TypeVar("T")
URL = "s3://simulated/out"
_LATE_SHARE = 0.3
_LATE_S = 10.0
"""How late such a write may land, at most: well before a dead run's claim on the dataset expires."""


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str


@dataclass(slots=True)
class Weather:
    """The present state of the store."""

    fault_share: float = 0.0
    """Operations that fail."""
    slow_share: float = 0.0
    """Operations that take up to half a minute."""
    away_until: float = 0.0


class Wire:
    """The connection between a process and the store."""

    def __init__(
        self, rng: random.Random, loop: VirtualLoop, history: History, weather: Weather, point: Callable[[str], None]
    ) -> None:
        self._rng = rng
        self._loop = loop
        self._history = history
        self._weather = weather
        self._point = point

    def operate(self, do: Callable[[], T], *, writes: bool, patience_s: float = 60.0, lands_late: bool = False) -> T:
        """Do it for the process that asks, in its time, or not.

        `lands_late`: it may still be done after the process died or gave up.

        Raises:
            Killed: the process died of it, or is dead.
            StoreAway: as in life.
        """
        process = check_alive()
        if process is None:
            return do()
        self._point("store" if writes else "read")
        rng, weather = self._rng, self._weather
        slow = rng.random() < weather.slow_share
        is_cut = self._loop.time() < process.cut_from.get("store", 0.0)
        fails = is_cut or rng.random() < weather.fault_share or self._loop.time() < weather.away_until
        self._history.store_trouble |= slow or fails
        try:
            self._pause(rng.uniform(0.001, min(30.0, patience_s) if slow else 0.05))
        except Killed:
            if lands_late and not is_cut:
                self._land_late(do)
            raise
        result = None
        if not fails or (not is_cut and rng.random() < 0.3):
            result = do()
        elif lands_late and not is_cut:
            self._land_late(do)
        if fails:
            self._pause(rng.uniform(1.0, patience_s))
            raise StoreAway(f"the store does not answer{'' if result is None else ', though it has written'}")
        self._point("store" if writes else "read")
        self._pause(rng.uniform(0.001, 0.02))
        return result  # type: ignore[return-value]

    def _land_late(self, do: Callable[[], object]) -> None:
        """Perhaps do it later, whatever becomes of the process that asked."""
        if self._rng.random() < _LATE_SHARE:
            at = self._loop.time() + self._rng.uniform(0.0, _LATE_S)
            self._loop.call_at(at, do, context=contextvars.Context())

    def _pause(self, seconds: float) -> None:
        self._loop.pause(seconds)
        check_alive()


class Bucket:
    """A `gen.store.base.Store` in memory, like one on S3."""

    is_local = False
    url = URL

    def __init__(
        self, wire: Wire, history: History, scratch: Path, clock: Clock, *, ages: Callable[[bytes], bytes]
    ) -> None:
        """`ages`: the bytes of a journal's segment as they are found by others."""
        self._ages = ages
        self._wire = wire
        self._clock = clock
        self._patience_s = 60.0
        self._history = history
        self._scratch = scratch
        self._objects: dict[str, _Object] = {}

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`."""
        data = _read(body)
        return self._write(lambda: key not in self._objects and self._keep(key, data) is not None)

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        data = _read(body)
        self._write(lambda: self._keep(key, data))

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """See `Store`."""

        def swap() -> str | None:
            found = self._objects.get(key)
            return self._keep(key, body) if (found and found.etag) == etag else None

        return self._write(swap)

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        found = self.get_with_etag(key)
        return None if found is None else found[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """See `Store`."""
        found = self._wire.operate(lambda: self._objects.get(key), writes=False, patience_s=self._patience_s)
        return None if found is None else (found.body, found.etag)

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        found = self._wire.operate(lambda: self._objects.get(key), writes=False, patience_s=self._patience_s)
        return None if found is None else Stat(key, len(found.body), found.etag)

    def seal_of(self, key: str) -> str | None:
        """See `Store`."""
        return None

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        found = self._wire.operate(lambda: self._objects.get(key), writes=False, patience_s=self._patience_s)
        if found is None:
            raise FileNotFoundError(key)
        return io.BytesIO(found.body)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`."""
        yield from self._wire.operate(lambda: self.listing(prefix), writes=False, patience_s=self._patience_s)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Store`."""
        return (stat.key for stat in self.list(prefix))

    def listing(self, prefix: str) -> Sequence[Stat]:
        """The same list, without faults."""
        found = sorted((key, found) for key, found in self._objects.items() if key.startswith(prefix))
        return [Stat(key, len(found.body), found.etag) for key, found in found]

    def delete(self, key: str) -> None:
        """See `Store`."""
        self._write(lambda: self._objects.pop(key, None))

    def leftovers(self) -> Sequence[str]:
        """See `Store`."""
        return ()

    def run_lock(self, key: str) -> Lock:
        """See `Store`."""
        hurried = copy.copy(self)
        hurried._patience_s = BEAT_S  # noqa: SLF001 - a copy of itself
        return ClaimLock(hurried, key, clock=self._clock)

    def is_locked(self, key: str) -> bool:
        """See `Store`."""
        return ClaimLock(self, key, clock=self._clock).is_held()

    def scratch(self) -> Path:
        """See `Store`."""
        return self._scratch

    def probe(self) -> None:
        """See `Store`."""

    def _write(self, do: Callable[[], T]) -> T:
        return self._wire.operate(do, writes=True, patience_s=self._patience_s, lands_late=True)

    def _keep(self, key: str, data: bytes) -> str:
        if key.startswith(JOURNAL_PREFIX):
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                segment = self._ages(stream.read())
            data = pa.Codec("zstd").compress(segment, asbytes=True)
            self._history.shipped(key, segment)
        self._objects[key] = _Object(data, uuid4().hex)
        return self._objects[key].etag


class Disk(LocalStore):
    """The real local store behind a wire."""

    def __init__(self, root: Path, wire: Wire) -> None:
        super().__init__(root)
        self._wire = wire

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`."""
        put = super().put_new
        return self._wire.operate(lambda: put(key, body, seal=seal), writes=True)

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        put = super().put
        self._wire.operate(lambda: put(key, body), writes=True)

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """See `Store`."""
        swap = super().swap
        return self._wire.operate(lambda: swap(key, body, etag=etag), writes=True)

    def delete(self, key: str) -> None:
        """See `Store`."""
        delete = super().delete
        self._wire.operate(lambda: delete(key), writes=True)

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        stat = super().stat
        return self._wire.operate(lambda: stat(key), writes=False)

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """See `Store`."""
        get = super().get_with_etag
        return self._wire.operate(lambda: get(key), writes=False)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`."""
        found = super().list
        yield from self._wire.operate(lambda: tuple(found(prefix)), writes=False)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Store`."""
        found = super().keys
        yield from self._wire.operate(lambda: tuple(found(prefix)), writes=False)


def _read(body: bytes | Path) -> bytes:
    return body if isinstance(body, bytes) else body.read_bytes()


def scratch_folder() -> Path:
    """A folder in memory where there is one."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="simulation-", dir=shared if shared.is_dir() else None))
