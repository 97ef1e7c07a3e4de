"""The journal's format: frames that are checked by length and CRC, so that damage costs the frames it hit alone."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from stillhouse.gen.errors import DatasetError

MAGIC = b"STILLJ01"
"""The first bytes of a file or segment; the last two digits are the format's version."""
FRAME_HEAD = struct.Struct("<II")
_EVENT = struct.Struct("<BId")
_ANSWER = struct.Struct("<fHB")
_HEAD = FRAME_HEAD.size + _EVENT.size
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
        return [FRAME_HEAD.pack(len(event), zlib.crc32(event)) + event]
    name = frame.endpoint.encode()[:255]
    event += _ANSWER.pack(frame.latency_s, frame.status, len(name)) + name
    crc = zlib.crc32(frame.body, zlib.crc32(event))
    return [FRAME_HEAD.pack(len(event) + len(frame.body), crc) + event, frame.body]


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
    while len(header := window.at(at, FRAME_HEAD.size)) == FRAME_HEAD.size:
        length, crc = FRAME_HEAD.unpack(header)
        if _EVENT.size <= length <= _MAX_FRAME:
            payload = window.at(at, FRAME_HEAD.size + length)[FRAME_HEAD.size :]
            if len(payload) == length and zlib.crc32(payload) == crc:
                yield decode(payload)
                at += FRAME_HEAD.size + length
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
