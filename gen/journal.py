"""The Journal: what was sent and what came back, on disk before anyone looks at it.

A chunk's journal is one file, written by one live process, which holds a lock on it: whoever can lock it knows that
the writer is dead. Frames are appended in one write each and are checked by length and CRC, so that a torn tail or a
flipped bit costs the frames it hit and no others. What a later owner finds, it copies into its own journal first; so
all that is known of a chunk is always in the newest file, and sealing reads only that.

A frame: length u32, crc32 u32, kind u8, ordinal u32, at f64, then for an answer latency f32, status u16, the endpoint's
name (u8 length and UTF-8) and the body. `ordinal` numbers a chunk's samples: prompt x samples + sample.
"""

import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, Self

from stillhouse.gen.errors import DatasetError, StoreAway

MAGIC = b"STILLJ01"
"""The first bytes of a file or segment; the last two digits are the format's version."""

_FRAME = struct.Struct("<II")
_EVENT = struct.Struct("<BId")
_ANSWER = struct.Struct("<fHB")
_HEAD = _FRAME.size + _EVENT.size
_MAX_FRAME = 2**27
"""More than the largest reply that is read."""
_WINDOW_BYTES = 2**20
ERROR_BODY_BYTES = 2**16
"""How much of the body of a reply that is no 2xx is kept, and read."""


class Kind(IntEnum):
    """What a frame says happened to a sample's attempt."""

    SENT = 1
    ANSWERED = 2
    NOT_SENT = 3  # no connection: nothing can have been billed
    LOST = 4  # no whole reply: it may have been billed
    DIED = 5  # its worker died alone, the run lived on: it may have been billed, and may have been the cause
    CUT = 6  # its worker is gone with the run: it may have been billed


@dataclass(frozen=True, slots=True)
class Frame:
    """One event in a sample's life."""

    kind: Kind
    ordinal: int
    at: float
    """UTC seconds since 1970 when the attempt was sent, which tells it from the sample's others."""
    latency_s: float = 0.0
    status: int = 0
    endpoint: str = ""
    body: bytes = b""


def encode(frame: Frame) -> list[bytes]:
    """The frame as buffers for one gathered write; an answer's body is not copied."""
    event = _EVENT.pack(frame.kind, frame.ordinal, frame.at)
    if frame.kind is not Kind.ANSWERED:
        return [_FRAME.pack(len(event), zlib.crc32(event)) + event]
    name = frame.endpoint.encode()[:255]
    event += _ANSWER.pack(frame.latency_s, frame.status, len(name)) + name
    crc = zlib.crc32(frame.body, zlib.crc32(event))
    return [_FRAME.pack(len(event) + len(frame.body), crc) + event, frame.body]


def decode(payload: bytes | memoryview) -> Frame:
    """The frame in a payload whose CRC was right."""
    kind, ordinal, at = _EVENT.unpack_from(payload)
    if kind != Kind.ANSWERED:
        return Frame(Kind(kind), ordinal, at)
    latency_s, status, length = _ANSWER.unpack_from(payload, _EVENT.size)
    start = _EVENT.size + _ANSWER.size
    name = str(payload[start : start + length], "utf-8", "replace")
    return Frame(Kind.ANSWERED, ordinal, at, latency_s, status, name, bytes(payload[start + length :]))


class Readable(Protocol):
    """What frames are read from; a read may give less than was asked for, and nothing only at the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        ...


def frames(file: Readable, *, origin: str) -> Iterator[Frame]:
    """The valid frames of a file or segment, one at a time in memory; what is torn or damaged is stepped over.

    Raises:
        DatasetError: a newer version wrote it.
    """
    window, at = _Window(file), len(MAGIC)
    head = bytes(window.at(0, len(MAGIC)))
    if head[:6] == MAGIC[:6] and head[6:] > MAGIC[6:]:
        raise DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
    while len(header := window.at(at, _FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        if _EVENT.size <= length <= _MAX_FRAME:
            payload = window.at(at, _FRAME.size + length)[_FRAME.size :]
            if len(payload) == length and zlib.crc32(payload) == crc:
                yield decode(payload)
                at += _FRAME.size + length
                continue
        at += 1  # look for the next frame that checks


class _Window:
    """The part of a file that is looked at; it only moves on."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._data = b""
        self._start = 0
        self._ended = False

    def at(self, offset: int, length: int) -> memoryview:
        """The bytes at an offset, fewer at the file's end; what is before them may be gone afterwards."""
        end = offset - self._start + length
        if end > len(self._data) and not self._ended:
            self._fill(offset, length)
            end = offset - self._start + length
        return memoryview(self._data)[offset - self._start : end]

    def _fill(self, offset: int, length: int) -> None:
        parts = [self._data[offset - self._start :]]
        missing = max(length, _WINDOW_BYTES) - len(parts[0])
        while missing > 0 and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        self._ended = missing > 0
        self._data, self._start = b"".join(parts), offset


class JournalFile:
    """A chunk's journal in the hands of its one writer."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.size = len(MAGIC)
        """Bytes written; a frame's place is its offset in the file."""

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
            _write(fd, [MAGIC])
            fresh.rename(path)
        except OSError as error:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise _away(path, error) from error
        return cls(path, fd)

    def append(self, frame: Frame) -> tuple[int, int]:
        """Write a frame; returns its (offset, length) for `read`.

        Raises:
            StoreAway: it could not be written whole; the file is cut back to its last whole frame.
        """
        buffers = encode(frame)
        length = sum(map(len, buffers))
        try:
            _write(self._fd, buffers)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise _away(self.path, error) from error
        offset = self.size
        self.size += length
        return offset, length

    def read(self, offset: int, length: int) -> Frame:
        """The frame that `append` put there.

        Raises:
            StoreAway: the disk does not give it back as it was.
        """
        data = self._read(offset, length)
        payload = memoryview(data)[_FRAME.size :]
        if len(data) != length or zlib.crc32(payload) != _FRAME.unpack_from(data)[1]:
            raise StoreAway(f"{self.path}: a frame changed on disk; check the disk, then run the same command again")
        return decode(payload)

    def tail(self, start: int) -> bytes:
        """All bytes from an offset on: what a segment ships.

        Raises:
            StoreAway: the disk does not give them back.
        """
        return self._read(start, self.size - start)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise _away(self.path, error, "read") from error

    def sync(self) -> None:
        """Have the disk hold what was written (against the loss of power, not of the process).

        Raises:
            StoreAway: the disk does not.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _away(self.path, error) from error

    def close(self) -> None:
        """Give up the lock and leave the file; once is enough."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether the lock is given up."""
        return self._fd < 0

    def remove(self) -> None:
        """Close and delete: the chunk is sealed."""
        self.path.unlink(missing_ok=True)
        self.close()


def check_room(root: Path, *, wanted_bytes: int) -> None:
    """Whether what may still come fits on the journals' disk: asking stops while there is room for what is under way.

    Raises:
        StoreAway: it may not fit.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(root).free
    except OSError as error:
        raise _away(root, error) from error
    if free_bytes < wanted_bytes:
        raise StoreAway(
            f"{root}: {free_bytes / 2**20:,.0f} MB are free, and the journals of what is under way may need "
            f"{wanted_bytes / 2**20:,.0f} MB; nothing more is asked. Free the disk, or set run.journal_dir, then run "
            "the same command again"
        )


def leftovers(folder: Path) -> list[Path]:
    """The journal files in a chunk's folder, in the order they were begun."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".journal")
    except FileNotFoundError:
        return []


def is_dead(path: Path) -> bool:
    """Whether the file's writer is gone.

    Raises:
        StoreAway: the file can't be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks only what is open for writing
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
            continue  # someone took the folder away as empty
        except OSError as error:
            raise _away(path, error) from error


def _write(fd: int, buffers: list[bytes]) -> None:
    length = sum(map(len, buffers))
    written = os.writev(fd, buffers)
    while written < length:  # a large frame, or a disk about to be full
        written += os.write(fd, b"".join(buffers)[written:])


def _away(path: Path, error: OSError, verb: str = "written") -> StoreAway:
    return StoreAway(
        f"{path}: the journal can't be {verb} ({error.strerror}); nothing is asked without it. "
        "Free or mend the disk, or set run.journal_dir, then run the same command again"
    )
