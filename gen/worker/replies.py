"""A reply as the journal stores it, from a teacher about a prompt, or from a judge about an answer."""

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from stillhouse.gen.journal.file import Place
from stillhouse.gen.journal.frames import COMPRESSED, ERROR_BODY_BYTES, EVENT_STREAM, Frame, Kind
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.event_stream import is_stream
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection, Outcome
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.appraisal import Appraisal

STREAM_BYTES = 2**14
"""Larger raw streams are compressed in the journal: their events repeat much of their content."""

_AS_KEPT = struct.Struct("<f")
"""Rounds a latency as the journal stores it, so that every reader sees the same value."""


class Journalled(NamedTuple):
    """A reply that is in the journal."""

    frame: Frame
    place: Place


class Received(NamedTuple):
    """A reply that is in the journal, and what it says."""

    frame: Frame
    place: Place
    outcome: Outcome
    size: int
    """Bytes of the reply; for a stream, once it is folded."""
    appraisal: Appraisal | None = None
    """Of a large answer to a sample."""


async def received_of(
    reply: Reply, journal: Callable[[], Journalled], read: Callable[[Journalled], Received]
) -> Received:
    """Journal a reply, then read it; a large one in threads."""
    if len(reply.body) < LARGE_BYTES:
        return read(journal())
    return await reply_threads.read(partial(read, await reply_threads.keep(journal)))


def reply_frame(
    ordinal: int,
    reply: Reply,
    *,
    at: float,
    latency_s: float,
    endpoint: str,
    place: int | None,
    stage: int = 0,
) -> Frame:
    """The ANSWERED frame of a reply to the attempt that was sent at `at`."""
    # Truncated and rounded before it is read, so that readers of the journal see the same.
    body = reply.body[:ERROR_BODY_BYTES] if reply.status >= 300 else reply.body
    (latency_s,) = _AS_KEPT.unpack(_AS_KEPT.pack(latency_s))
    headers = tuple(reply.headers.items())
    flags = 0
    if reply.status < 300 and is_stream(reply.headers, body):
        flags = EVENT_STREAM | (COMPRESSED if len(body) > STREAM_BYTES else 0)
    return Frame(
        Kind.ANSWERED, ordinal, at, latency_s, reply.status, endpoint, body, headers, place, stage=stage, flags=flags
    )


def unanswered_frame(
    kind: Kind,
    ordinal: int,
    cut: Reply | None,
    *,
    at: float,
    endpoint: str,
    place: int | None,
    stage: int = 0,
) -> Frame:
    """The frame of an attempt that ended without a complete reply; it contains the part of a stream that arrived,
    `cut`.
    """
    if cut is None:
        return Frame(kind, ordinal, at, endpoint=endpoint, teacher=place, stage=stage)
    frame = reply_frame(ordinal, cut, at=at, latency_s=cut.latency_s, endpoint=endpoint, place=place, stage=stage)
    return frame._replace(kind=kind)


def outcome_without_reply(frame: Frame) -> Outcome | None:
    """How an attempt without a reply ended; None if that is unknown, or it is still in flight."""
    match frame.kind:
        case Kind.NOT_SENT:
            return NoConnection("no connection")
        case Kind.LOST:
            return Ambiguous("no whole reply")
        case _:
            return None
