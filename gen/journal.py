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
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from gen.errors import DatasetError, StoreAway

MAGIC = b"STILLJ01"
"""The first bytes of a file or segment; the last two digits are the format's version."""

_FRAME = struct.Struct("<II")
_EVENT = struct.Struct("<BId")
_ANSWER = struct.Struct("<fHB")
_HEAD = _FRAME.size + _EVENT.size
_MAX_FRAME = 2**28
ERROR_BODY_BYTES = 4096
"""How much of the body of a reply that is no 2xx is kept."""


class Kind(IntEnum):
    """What a frame says happened to a sample's attempt."""

    SENT = 1
    ANSWERED = 2
    NOT_SENT = 3  # no connection: closes the last SENT, nothing can have been billed
    LOST = 4  # no whole reply: closes the last SENT, which may have been billed
    DIED = 5  # the worker died with this attempt under way, the run lived on


@dataclass(frozen=True, slots=True)
class Frame:
    """One event in a sample's life."""

    kind: Kind
    ordinal: int
    at: float
    """UTC seconds since 1970: when the attempt was sent (SENT, ANSWERED), or the event was noted."""
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


def decode(payload: bytes) -> Frame:
    """The frame in a payload whose CRC was right."""
    kind, ordinal, at = _EVENT.unpack_from(payload)
    if kind != Kind.ANSWERED:
        return Frame(Kind(kind), ordinal, at)
    latency_s, status, length = _ANSWER.unpack_from(payload, _EVENT.size)
    start = _EVENT.size + _ANSWER.size
    name = payload[start : start + length].decode()
    return Frame(Kind.ANSWERED, ordinal, at, latency_s, status, name, payload[start + length :])


def frames(data: bytes, *, origin: str) -> Iterator[Frame]:
    """The valid frames of a file or segment; what is torn or damaged is stepped over.

    Raises:
        DatasetError: a newer version wrote it.
    """
    if data[:6] == MAGIC[:6] and data[6:8] > MAGIC[6:8]:
        raise DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
    view = memoryview(data)
    at = len(MAGIC)
    while at + _HEAD <= len(data):
        length, crc = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if _EVENT.size <= length <= _MAX_FRAME and end <= len(data) and zlib.crc32(view[at + _FRAME.size : end]) == crc:
            yield decode(data[at + _FRAME.size : end])
            at = end
        else:
            at += 1  # look for the next frame that checks


class JournalFile:
    """A chunk's journal in the hands of its one writer."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.size = len(MAGIC)
        """Bytes written; a frame's place is its offset in the file."""

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create the file and lock it.

        Raises:
            StoreAway: the disk is full or not writable.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, MAGIC)
        except OSError as error:
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
            written = os.writev(self._fd, buffers)
            while written < length:  # a large frame, or a disk about to be full
                written += os.write(self._fd, b"".join(buffers)[written:])
        except OSError as error:
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
        data = os.pread(self._fd, length, offset)
        payload = data[_FRAME.size :]
        if len(data) != length or zlib.crc32(payload) != _FRAME.unpack_from(data)[1]:
            raise StoreAway(f"{self.path}: a frame changed on disk; check the disk, then run the same command again")
        return decode(payload)

    def tail(self, start: int) -> bytes:
        """All bytes from an offset on: what a segment ships."""
        return os.pread(self._fd, self.size - start, start)

    def sync(self) -> None:
        """Have the disk hold what was written (against the loss of power, not of the process)."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Give up the lock and leave the file; once is enough."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Close and delete: the chunk is sealed."""
        self.path.unlink(missing_ok=True)
        self.close()


def leftovers(folder: Path) -> list[Path]:
    """The journal files in a chunk's folder, in the order they were begun."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".journal")
    except FileNotFoundError:
        return []


def is_dead(path: Path) -> bool:
    """Whether the file's writer is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _away(path: Path, error: OSError) -> StoreAway:
    return StoreAway(
        f"{path}: the journal can't be written ({error.strerror}); nothing is asked without it. "
        "Free or mend the disk, or set run.journal_dir, then run the same command again"
    )
