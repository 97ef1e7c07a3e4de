"""Journals on their way between a node's disk and the store, so that a lost node costs at most what it had not shipped.

A dataset on a local disk needs no shipping: its journals are written where the next owner looks for them.
"""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs
import pyarrow as pa

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.file import JournalFile, is_dead, leftovers
from stillhouse.gen.journal.frames import MAGIC, Frame, encode, frames
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.recipe import RunSettings

SHIP_BYTES = 2**20
"""A journal that is so far behind is shipped before its time."""
SEGMENT_BYTES = 8 * 2**20
"""A dead worker's journal is shipped in segments of about so many bytes."""


def journal_root(store: ReadableStore, settings: RunSettings, *, changes: int = 0) -> Path:
    """This node's folder for the dataset's journals: the same for every run, outside Ray's session folder.

    `changes`: how often the dataset's recipe was changed (`gen.dataset.binding.times_changed`). What an earlier recipe
    left on a node is in another folder, so that it is never taken for an answer to the present one.
    """
    if store.is_local:
        return Path(store.url) / "_stillhouse" / "journal"
    base = (
        Path(settings.journal_dir) if settings.journal_dir else platformdirs.user_state_path("stillhouse") / "journal"
    )
    name = f"{store.url} {changes}" if changes else store.url
    return base / hashlib.sha256(name.encode()).hexdigest()[:16]


class Shipper:
    """Ships one live journal, segment by segment."""

    def __init__(self, store: Store, chunk: ChunkId, journal: JournalFile) -> None:
        self._store = store
        self._prefix = f"{chunk.journal_prefix}{journal.path.stem}"
        self._journal = journal
        self._shipped = len(MAGIC)
        self._segments = 0
        self._lock = threading.Lock()
        self._ended = False

    @property
    def behind_bytes(self) -> int:
        """What is not shipped."""
        return 0 if self._store.is_local else self._journal.size - self._shipped

    def ship(self) -> None:
        """Ship what is new; on a local dataset, have the disk hold it.

        Raises:
            StoreAway: it is not shipped; the next call tries again.
        """
        with self._lock:
            if self._ended or self._journal.closed:
                return
            if self._store.is_local:
                self._journal.sync()
            elif data := self._journal.tail(self._shipped):
                self._store.put(f"{self._prefix}-{self._segments:06d}.zst", _pack(MAGIC + data))
                self._shipped += len(data)
                self._segments += 1

    def end(self) -> None:
        """Ship nothing more, once what is being shipped has arrived: the chunk is sealed and its journals go."""
        with self._lock:
            self._ended = True


def recovered(store: Store, chunk: ChunkId, folder: Path, *, mine: Path | None = None) -> Iterator[Frame]:
    """The frames that earlier owners left, on this node and in the store, oldest journal first; some come twice.

    Raises:
        DatasetError: a newer version wrote them.
        StoreAway: the disk or the store does not give them.
    """
    # What lies here is opened before the store is listed: whoever ships it meanwhile removes it only afterwards.
    here = {path.stem: file for path in leftovers(folder) if path != mine and (file := _opened(path)) is not None}
    shipped: dict[str, list[str]] = {}
    for stat in () if store.is_local else store.list(chunk.journal_prefix):
        shipped.setdefault(stat.key.rpartition("/")[2].rpartition("-")[0], []).append(stat.key)
    for stem in sorted(here.keys() | shipped.keys()):
        for key in shipped.get(stem, ()):
            yield from frames(Unpacked(store.get(key) or b""), origin=f"{store.url}/{key}")
        if stem in here:
            with here[stem] as file:
                yield from frames(file, origin=file.name)


def sweep(store: Store, root: Path) -> list[ChunkId]:
    """Ship what dead workers left on this node, and drop what belongs to sealed chunks; the chunks shipped."""
    shipped = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        chunk = _chunk_of(folder.name)
        if chunk is None:
            continue
        for path in filter(is_dead, leftovers(folder)):
            if store.stat(chunk.data_key) is not None:
                path.unlink(missing_ok=True)
            elif not store.is_local and (file := _opened(path)) is not None:
                with file:
                    for number, segment in enumerate(_segments(frames(file, origin=file.name))):
                        store.put(f"{chunk.journal_prefix}{path.stem}-left-{number:06d}.zst", _pack(segment))
                path.unlink(missing_ok=True)
                shipped.append(chunk)
        if not leftovers(folder):
            _remove_empty(folder)
    return shipped


def forget(store: Store, chunk: ChunkId, folder: Path) -> None:
    """Remove what is left of a sealed chunk's journals, here and in the store."""
    for path in leftovers(folder):
        path.unlink(missing_ok=True)
    _remove_empty(folder)
    if not store.is_local:
        for stat in list(store.list(chunk.journal_prefix)):
            store.delete(stat.key)


def _chunk_of(name: str) -> ChunkId | None:
    generation, _, number = name.partition("-")
    return ChunkId(int(generation), int(number)) if generation.isdigit() and number.isdigit() else None


def _opened(path: Path) -> BinaryIO | None:
    """The journal file, or None where it is gone."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreAway(f"{path}: the journal can't be read ({error.strerror}); fix that, then run again") from error


def _segments(found: Iterator[Frame]) -> Iterator[bytes]:
    parts, size = [MAGIC], 0
    for frame in found:
        buffers = encode(frame)
        parts += buffers
        size += sum(map(len, buffers))
        if size >= SEGMENT_BYTES:
            yield b"".join(parts)
            parts, size = [MAGIC], 0
    if size:
        yield b"".join(parts)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # not empty: a live journal is in it


def _pack(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


class Unpacked:
    """A segment's bytes, up to where it is damaged: what was behind that is asked again."""

    def __init__(self, data: bytes) -> None:
        self._stream = pa.CompressedInputStream(pa.BufferReader(data), "zstd")

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        try:
            return bytes(self._stream.read(size))
        except (OSError, pa.ArrowException):
            return b""
