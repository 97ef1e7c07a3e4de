"""The journals of a dataset on an object store: they are shipped there, segment by segment.

A lost node therefore costs at most what it had not shipped. Once a dead worker's journal is in the store to its end, an
empty segment behind it says so, and how many frames it has: without one, nobody knows what the worker sent last.
"""

import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.folders import dead_journals, opened, opened_leftovers, remove_folder
from stillhouse.gen.journal.frames import MAGIC, Frame, encode, frames
from stillhouse.gen.journal.names import is_of_this_boot, writer_of
from stillhouse.gen.journal.recovered import Recovered
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore

SHIP_BYTES = 2**20
"""A journal with this much unshipped is shipped early."""
SEGMENT_BYTES = 8 * 2**20
"""A dead worker's journal is shipped in segments of about this many bytes."""

_SUFFIX = ".zst"
_LEFT, _WHOLE = "-left", "-whole"
"""What follows a journal's name in the keys of what a sweep ships: its segments, then its end, with its number of
frames."""


class ShippedJournal:
    """A live journal that is shipped segment by segment."""

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
        """See `LiveJournal`."""
        return self._journal.size - self._shipped

    def ship(self) -> None:
        """See `LiveJournal`."""
        with self._lock:
            if self._ended or self._journal.closed:
                return
            if data := self._journal.tail(self._shipped):
                self._put(data)

    def _put(self, data: bytes) -> None:
        self._store.put(f"{self._prefix}-{self._segments:06d}{_SUFFIX}", _pack(MAGIC + data))
        self._shipped += len(data)
        self._segments += 1

    def announce(self) -> None:
        """See `LiveJournal`."""
        with self._lock:
            self._put(b"")

    def end(self) -> None:
        """See `LiveJournal`."""
        with self._lock:
            self._ended = True


class ShippedJournals:
    """The journals of a dataset on an object store; see `Journals`."""

    def __init__(self, store: Store, root: Path) -> None:
        self.root = root
        self._store = store

    def live(self, chunk: ChunkId, journal: JournalFile) -> ShippedJournal:
        """See `Journals`."""
        return ShippedJournal(self._store, chunk, journal)

    def recovered(self, chunk: ChunkId, *, mine: Path | None = None) -> Recovered:
        """See `Journals`."""
        whole: set[str] = set()
        return Recovered(self._frames(chunk, mine, whole), whole)

    def _frames(self, chunk: ChunkId, mine: Path | None, whole: set[str]) -> Iterator[Frame]:
        # Local files are opened before the store is listed: whoever ships one meanwhile removes it only afterwards.
        with opened_leftovers(self.root / str(chunk), mine=mine) as here:
            yield from self._frames_beside(here, chunk, whole)

    def _frames_beside(self, here: Mapping[str, BinaryIO], chunk: ChunkId, whole: set[str]) -> Iterator[Frame]:
        """The frames of these files and of what is shipped, each journal's in order."""
        shipped: dict[str, list[str]] = {}
        ends: set[tuple[str, str]] = set()
        for stat in self._store.list(chunk.journal_prefix):
            stem, _, number = stat.key.rpartition("/")[2].removesuffix(_SUFFIX).rpartition("-")
            shipped.setdefault(stem, []).append(stat.key)
            if stem.endswith(_WHOLE):
                ends.add((stem.removesuffix(_WHOLE), number))
        found: Counter[str] = Counter()
        for stem in sorted(here.keys() | shipped.keys()):
            for key in shipped.get(stem, ()):
                for frame in read_segment(self._store, key):
                    found[stem] += 1
                    yield frame
            if stem in here:
                yield from frames(here[stem], origin=here[stem].name)
        stems = {stem.removesuffix(_LEFT).removesuffix(_WHOLE) for stem in here.keys() | shipped.keys()}
        whole |= {writer_of(stem) for stem in stems}
        whole -= {writer_of(stem) for stem in stems if (stem, f"{found[stem + _LEFT]:06d}") not in ends}

    def sweep(self) -> None:
        """See `Journals`."""
        for chunk, path in dead_journals(self.root):
            if self._store.stat(chunk.data_key) is not None:
                path.unlink(missing_ok=True)
            elif (file := opened(path)) is not None:
                with file:
                    self._ship(f"{chunk.journal_prefix}{path.stem}", _Counted(frames(file, origin=file.name)))
                path.unlink(missing_ok=True)

    def _ship(self, journal: str, found: "_Counted") -> None:
        """Ship a dead worker's journal, whose keys begin with this."""
        for number, segment in enumerate(_segments(found)):
            self._store.put(f"{journal}{_LEFT}-{number:06d}{_SUFFIX}", _pack(segment))
        if found.whole and is_of_this_boot(journal.rpartition("/")[2]):
            self._store.put(f"{journal}{_WHOLE}-{found.count:06d}{_SUFFIX}", _pack(MAGIC))

    def forget(self, chunk: ChunkId) -> None:
        """See `Journals`."""
        remove_folder(self.root / str(chunk))
        for stat in list(self._store.list(chunk.journal_prefix)):
            self._store.delete(stat.key)


def is_segment(key: str) -> bool:
    """True if the object of this key in the store was shipped; False for a journal that its writer left here."""
    return key.endswith(_SUFFIX)


def read_segment(store: ReadableStore, key: str) -> Iterator[Frame]:
    """The frames of a shipped segment, up to where it is damaged; empty if it is gone."""
    return frames(_Unpacked(store.get(key) or b""), origin=f"{store.url}/{key}")


class _Counted:
    """A journal's frames, counted while they are read."""

    def __init__(self, found: Generator[Frame, None, bool]) -> None:
        self._found = found
        self.count = 0
        self.whole = False
        """True once all have been read, if none was damaged."""

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                frame = next(self._found)
            except StopIteration as end:
                self.whole = end.value
                return
            self.count += 1
            yield frame


def _segments(found: Iterable[Frame]) -> Iterator[bytes]:
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


def _pack(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


class _Unpacked:
    """A segment's bytes, up to where it is damaged: what comes after that is asked again."""

    def __init__(self, data: bytes) -> None:
        self._stream = pa.CompressedInputStream(pa.BufferReader(data), "zstd")

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        try:
            return bytes(self._stream.read(size))
        except (OSError, pa.ArrowException):
            return b""
