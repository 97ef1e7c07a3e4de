"""Journals as the first release wrote them: STILLJ01, which every later version reads and none writes.

A frame is length u32, crc32 u32 of the payload, then kind u8, ordinal u32, at f64; for an answer also latency f32,
status u16, the endpoint's name (u8 length and UTF-8) and the body.
"""

import io
import struct
import zlib
from collections.abc import Iterable

from stillhouse.gen.journal.frames import Frame, Kind, encode, frames

FIRST_MAGIC = b"STILLJ01"
FIRST_KINDS = (Kind.SENT, Kind.ANSWERED, Kind.NOT_SENT, Kind.LOST, Kind.DIED, Kind.CUT)


def first_payload(frame: Frame) -> bytes:
    """The payload of a frame."""
    event = struct.pack("<BId", frame.kind, frame.ordinal, frame.at)
    if frame.kind is not Kind.ANSWERED:
        return event
    name = frame.endpoint.encode()[:255]
    return event + struct.pack("<fHB", frame.latency_s, frame.status, len(name)) + name + frame.body


def first_frame(payload: bytes) -> bytes:
    """The frame around a payload."""
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def first_journal(wanted: Iterable[Frame]) -> bytes:
    """A file of these frames."""
    return FIRST_MAGIC + b"".join(first_frame(first_payload(frame)) for frame in wanted)


def first_of(frame: Frame) -> Frame:
    """What the first release knew of a frame."""
    if frame.kind is Kind.ANSWERED:
        return frame._replace(headers=(), teacher=None, stage=0, flags=0)
    return Frame(frame.kind, frame.ordinal, frame.at)


def in_first_format(data: bytes) -> bytes:
    """A journal of today as the first release would have left it; a torn end stays torn."""
    found = list(frames(io.BytesIO(data), origin="here"))
    whole = 8 + sum(len(part) for frame in found for part in encode(frame))
    return first_journal(found) + data[whole:]
