"""The journal's format, STILLJ02. Damage costs the frames it hit and no others; whatever is read was written.

A file or a segment is 8 bytes of magic, `STILLJ` and the version in two digits, followed by frames. Numbers are
little-endian:

    frame    length u32    of the payload
             crc32 u32     of the file's magic and the payload, so that a frame tells its own version
             payload
    payload  kind u8       what happened, see `Kind`
             flags u8      COMPRESSED 1, EVENT_STREAM 2
             stage u8      0: the teacher; n: the recipe's n-th check
             teacher u16   its place in the recipe's `teachers`; 32768 more if it was asked online after a batch; 65535:
                      unknown
             ordinal u32   which of the chunk's samples: prompt x samples + sample
             at f64        UTC seconds since 1970
             latency_s f32
             status u16    HTTP; 0: none
             name u8       bytes of the endpoint
             pairs u32     bytes of the header pairs
             endpoint      UTF-8
             headers       a JSON array of [name, value], or nothing
             body          the rest; where COMPRESSED, its length as u32 and one zstd frame

Every kind has this layout. SENT and ANSWERED name the endpoint. SENT to a judge has 16 bytes of body: the hash of what
it is asked about, rubric and texts. ANSWERED has latency, status, headers and the body after content decoding; LOST has
the same of a stream that was cut, as far as it came. The body of VERDICT, DECIDED, INTENT and SUBMITTED is a JSON
object, in which readers ignore the keys that they don't know. A later release may add kinds, flags, header names and
keys without a new version: a frame whose kind or flags a reader doesn't know is skipped, with one warning per file. A
higher version is refused.

STILLJ01, which is read and never written, has a crc32 of the payload alone and another payload: kind u8, ordinal u32,
at f64; then, for ANSWERED only, latency_s f32, status u16, name u8, endpoint, body.
"""

import logging
import struct
import zlib
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

import orjson
import pyarrow as pa

from stillhouse.gen.dataset.damage import newer

MAGIC = b"STILLJ02"
"""The first bytes of a file or segment; the last two digits are the format's version."""
COMPRESSED = 1
"""Flag: the body is compressed on disk. `Frame.body` never is."""
EVENT_STREAM = 2
"""Flag: the body is a raw event stream."""
ERROR_BODY_BYTES = 2**16
"""How many bytes of the body of a non-2xx reply are read and kept."""

_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<BBBHIdfHBI")
_EVENT_1 = struct.Struct("<BId")
_ANSWER_1 = struct.Struct("<fHB")
_SIZE = struct.Struct("<I")
_SEED = zlib.crc32(MAGIC)
_FLAGS = COMPRESSED | EVENT_STREAM
_NO_TEACHER = 2**16 - 1
_MAX_NAME_BYTES = 2**8 - 1
_MAX_FRAME = 2**27
"""More than the largest reply that is read."""
_WINDOW_BYTES = 2**20
_ZSTD = pa.Codec("zstd")

_log = logging.getLogger("stillhouse")


class Kind(IntEnum):
    """The event that a frame records."""

    SENT = 1
    ANSWERED = 2
    NOT_SENT = 3  # no connection: nothing can have been billed
    LOST = 4  # no complete reply: it may have been billed
    DIED = 5  # its worker died while the run lived on: it may have been billed, and may have been the cause
    CUT = 6  # its worker and the run are gone: it may have been billed
    VERDICT = 7  # a check's verdict on an answer
    DECIDED = 8  # a decision based on more than the sample's own frames
    INTENT = 9  # a batch is about to be created
    SUBMITTED = 10  # the provider has the batch


NOTES = frozenset((Kind.VERDICT, Kind.DECIDED, Kind.INTENT, Kind.SUBMITTED))
"""Kinds whose body is a JSON object."""
_KINDS = {kind.value: kind for kind in Kind}

Headers: TypeAlias = tuple[tuple[str, str], ...]


class Frame(NamedTuple):
    """One event in a sample's life. A named tuple: a frozen dataclass takes five times as long to make."""

    kind: Kind
    ordinal: int
    at: float
    """UTC seconds since 1970. For an attempt, when it was sent, which distinguishes it from the sample's others."""
    latency_s: float = 0.0
    status: int = 0
    endpoint: str = ""
    body: bytes = b""
    headers: Headers = ()
    teacher: int | None = None
    """The teacher's position in the recipe's `teachers`; None if unknown."""
    stage: int = 0
    """0: the teacher; n: the recipe's n-th check."""
    flags: int = 0

    @property
    def has_reply(self) -> bool:
        """True if it contains a reply, or part of one."""
        return self.kind is Kind.ANSWERED or (self.kind is Kind.LOST and self.status > 0)


def encode(frame: Frame) -> list[bytes]:
    """The frame as buffers for one gathered write; the body is not copied."""
    kind, ordinal, at, latency_s, status, endpoint, body, headers, place, stage, flags = frame
    name = endpoint.encode()[:_MAX_NAME_BYTES]
    pairs = orjson.dumps(headers) if headers else b""
    teacher = _NO_TEACHER if place is None else place
    head = _HEAD.pack(kind, flags, stage, teacher, ordinal, at, latency_s, status, len(name), len(pairs)) + name + pairs
    crc = zlib.crc32(head, _SEED)
    if flags & COMPRESSED:
        body = _SIZE.pack(len(body)) + _ZSTD.compress(body, asbytes=True)
    if not body:
        return [_FRAME.pack(len(head), crc) + head]
    return [_FRAME.pack(len(head) + len(body), zlib.crc32(body, crc)) + head, body]


def decode(data: bytes) -> Frame | None:
    """The frame that `encode` turned into these bytes, or None if they have changed."""
    if len(data) < _FRAME.size:
        return None
    length, crc = _FRAME.unpack_from(data)
    payload = memoryview(data)[_FRAME.size :]
    return _payload(payload) if len(payload) == length and _reader(payload, crc) is _payload else None


def _payload(payload: memoryview) -> Frame | None:
    """The frame in a payload with a valid CRC; None if this version can't read it."""
    kind, flags, stage, teacher, ordinal, at, latency_s, status, name, pairs = _HEAD.unpack_from(payload)
    if kind not in _KINDS or flags & ~_FLAGS:
        return None
    start = _HEAD.size + name
    endpoint = str(payload[_HEAD.size : start], "utf-8", "replace") if name else ""
    body = bytes(payload[start + pairs :])
    headers: Headers = ()
    try:
        if pairs:
            headers = tuple(map(tuple, orjson.loads(payload[start : start + pairs])))
        if flags & COMPRESSED:
            body = _decompressed(body)
    except (ValueError, TypeError, struct.error, OSError, pa.ArrowException):
        return None
    return Frame(
        _KINDS[kind],
        ordinal,
        at,
        latency_s,
        status,
        endpoint,
        body,
        headers,
        None if teacher == _NO_TEACHER else teacher,
        stage,
        flags,
    )


def _decompressed(body: bytes) -> bytes:
    (size,) = _SIZE.unpack_from(body)
    if size > _MAX_FRAME:
        raise ValueError(size)
    return bytes(_ZSTD.decompress(body[_SIZE.size :], decompressed_size=size, asbytes=True))


def _payload_1(payload: memoryview) -> Frame | None:
    """A frame's payload in the first format, STILLJ01."""
    kind, ordinal, at = _EVENT_1.unpack_from(payload)
    if kind != Kind.ANSWERED:
        return Frame(_KINDS[kind], ordinal, at) if kind in _KINDS else None
    latency_s, status, length = _ANSWER_1.unpack_from(payload, _EVENT_1.size)
    start = _EVENT_1.size + _ANSWER_1.size
    endpoint = str(payload[start : start + length], "utf-8", "replace")
    return Frame(Kind.ANSWERED, ordinal, at, latency_s, status, endpoint, bytes(payload[start + length :]))


def _reader(payload: memoryview, crc: int) -> Callable[[memoryview], Frame | None] | None:
    """The parser for the version whose CRC matches, whatever the file's head says; None if the frame is damaged."""
    if len(payload) >= _HEAD.size and zlib.crc32(payload, _SEED) == crc:
        return _payload
    return _payload_1 if zlib.crc32(payload) == crc else None


class Readable(Protocol):
    """A source of frames; a read may return less than requested, and nothing only at the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        ...


def frames(file: Readable, *, origin: str) -> Generator[Frame, None, bool]:
    """The valid frames of a file or segment, one at a time in memory; torn or damaged ones are skipped.

    Returns:
        True if nothing was skipped, except a last frame that its writer did not finish.

    Raises:
        DatasetError: a newer version wrote it.
    """
    window, at = _Window(file), len(MAGIC)
    head = bytes(window.at(0, len(MAGIC)))
    if head[:6] == MAGIC[:6] and head[6:] > MAGIC[6:]:
        raise newer(origin)
    warned, whole, torn = False, True, False
    while len(header := window.at(at, _FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        if _EVENT_1.size <= length <= _MAX_FRAME:
            payload = window.at(at, _FRAME.size + length)[_FRAME.size :]
            if len(payload) == length and (read := _reader(payload, crc)) is not None:
                frame = read(payload)
                whole &= frame is not None and not torn
                if frame is not None:
                    yield frame
                elif not warned:
                    warned = True
                    _log.warning(
                        "%s: has a frame of kind %d with flags %d, which only a newer version of Stillhouse reads; "
                        "such frames are skipped",
                        origin,
                        payload[0],
                        payload[1] if read is _payload else 0,
                    )
                at += _FRAME.size + length
                continue
            torn |= len(payload) < length
        whole &= torn
        at += 1  # look for the next valid frame
    return whole


class _Window:
    """A window on the file, which only moves forward."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._data = b""
        self._start = 0
        self._ended = False

    def at(self, offset: int, length: int) -> memoryview:
        """The bytes at an offset, fewer at the file's end; bytes before it may be gone afterwards."""
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
