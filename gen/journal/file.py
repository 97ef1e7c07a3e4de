"""The Journal: what was sent and what came back, written to disk before anything parses it.

A chunk's journal is one file, written by one live process, which holds a lock on it: a process that can lock it knows
that the writer is dead. Frames are appended in one write each and checked by length and CRC, so that a torn tail or a
flipped bit costs only the frames that it hit. A later owner first copies what it finds into its own journal; so the
newest file always has everything known about a chunk, and sealing reads only that.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeAlias

from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.frames import MAGIC, Frame, decode, encode

Place: TypeAlias = tuple[int, int]
"""Position of a frame in the journal: (offset, length)."""

READ_BYTES = 2**20
"""Frames are read back this many bytes at a time; a larger one by itself."""
GAP_BYTES = 2**14
"""Frames that are this close to each other are read together, with what lies between them."""


class JournalFile:
    """A chunk's journal, held by its one writer."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._using = threading.Lock()
        """Held while the descriptor is used or closed: threads append, ship and seal, and its number may be reused."""
        self.size = len(MAGIC)
        """Bytes written; a frame's position is its offset in the file."""

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create the file; nobody sees it before it is locked.

        Raises:
            StoreAway: the disk is full or not writable.
        """
        fresh = path.with_suffix(".new")
        fd = _new_file(fresh)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _write(fd, [MAGIC], len(MAGIC))
            fresh.rename(path)
        except OSError as error:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise _away(path, error) from error
        return cls(path, fd)

    def append(self, frame: Frame) -> Place:
        """Write a frame; returns its place for `read`.

        Raises:
            StoreAway: it could not be written whole; the file is cut back to its last whole frame.
        """
        buffers = encode(frame)
        length = sum(map(len, buffers))
        with self._using:
            try:
                _write(self._fd, buffers, length)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._fd, self.size)
                raise _away(self.path, error) from error
            offset = self.size
            self.size += length
        return offset, length

    def read(self, offset: int, length: int) -> Frame:
        """The frame that `append` wrote there.

        Raises:
            StoreAway: the disk does not return it unchanged.
        """
        with self._using:
            return self._decoded(self._read(offset, length))

    def read_each(self, places: Iterable[Place]) -> Iterator[Frame]:
        """The frames that `append` wrote to these places, in their order; neighbours are read together.

        While requests are in flight, a thread that reads them one by one takes twice as long: with each read it lets
        other threads run, and then waits for them.

        Raises:
            StoreAway: the disk does not return them unchanged.
        """
        block: list[Place] = []
        size = 0
        for place in places:
            if block and size + place[1] > READ_BYTES:
                yield from self._read_block(block)
                block, size = [], 0
            block.append(place)
            size += place[1]
        yield from self._read_block(block)

    def _read_block(self, places: Sequence[Place]) -> list[Frame]:
        found: dict[Place, Frame] = {}
        for run in _runs(sorted(places)):
            start = run[0][0]
            with self._using:
                data = self._read(start, sum(run[-1]) - start)
            for offset, length in run:
                found[offset, length] = self._decoded(data[offset - start : offset - start + length])
        return [found[place] for place in places]

    def _decoded(self, data: bytes) -> Frame:
        if (frame := decode(data)) is None:
            raise StoreAway(f"{self.path}: a frame changed on disk; check the disk, then run the same command again")
        return frame

    def tail(self, start: int) -> bytes:
        """All bytes from an offset on, which is what a segment ships. None once the journal is closed.

        Raises:
            StoreAway: the disk does not return them.
        """
        with self._using:
            return b"" if self.closed else self._read(start, self.size - start)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise _away(self.path, error, "read") from error

    def sync(self) -> None:
        """Sync to disk what was written, unless the journal is closed. This protects against loss of power, not of the
        process.

        Raises:
            StoreAway: the disk fails.
        """
        try:
            with self._using:
                if self.closed:
                    return
                fd = os.dup(self._fd)  # a slow disk must not block writing or closing
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise _away(self.path, error) from error

    def close(self) -> None:
        """Release the lock and leave the file; may be called again."""
        with self._using:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    @property
    def closed(self) -> bool:
        """True if the lock is released."""
        return self._fd < 0

    def remove(self) -> None:
        """Close and delete: the chunk is sealed."""
        self.path.unlink(missing_ok=True)
        self.close()


def _runs(places: Iterable[Place]) -> Iterator[list[Place]]:
    """These places, which are in the file's order, in runs without large gaps."""
    run: list[Place] = []
    for place in places:
        if run and place[0] - sum(run[-1]) > GAP_BYTES:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def check_room(root: Path, *, wanted_bytes: int) -> None:
    """Check that answers in flight will fit on the journals' disk; asking stops while they still do.

    Raises:
        StoreAway: they may not fit.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(root).free
    except OSError as error:
        raise _away(root, error) from error
    if free_bytes < wanted_bytes:
        raise StoreAway(
            f"{root}: {free_bytes / 2**20:,.0f} MB are free, and the journals of requests in flight may need "
            f"{wanted_bytes / 2**20:,.0f} MB; nothing more is asked. Free disk space or, for a dataset on S3, set "
            "run.journal_dir, then run the same command again"
        )


def leftovers(folder: Path) -> list[Path]:
    """The journal files in a chunk's folder, in the order in which they were created.

    Raises:
        StoreAway: it can't be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".journal")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _away(folder, error, "read") from error


def is_dead(path: Path) -> bool:
    """True if the file's writer is gone.

    Raises:
        StoreAway: the file can't be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS can lock a file only if it is open for writing
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _away(path, error, "read") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _new_file(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # someone removed the folder because it was empty
        except OSError as error:
            raise _away(path, error) from error


def _write(fd: int, buffers: list[bytes], length: int) -> None:
    written = os.writev(fd, buffers)
    while written < length:  # a large frame, or a disk that is almost full
        written += os.write(fd, b"".join(buffers)[written:])


def _away(path: Path, error: OSError, verb: str = "written") -> StoreAway:
    return StoreAway(
        f"{path}: the journal can't be {verb} ({error.strerror}); nothing is asked without it. "
        "Free space or fix the disk or, for a dataset on S3, set run.journal_dir, then run the same command again"
    )
