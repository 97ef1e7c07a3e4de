"""Amazon's event stream, and the answer that Converse's events add up to.

A frame is: its length and that of its headers (u32 each, big-endian), the CRC-32 of these eight bytes, headers,
payload, and the CRC-32 of everything before it.
"""

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.lenient_json import NoDocument, piece_in
from stillhouse.gen.teachers.protocols.bedrock_errors import STATUSES
from stillhouse.gen.teachers.protocols.reply_document import HAS_BEGUN

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_MAX_FIRST = b"\x07"
"""A frame begins with its length: none is as long as 128 MiB, and JSON begins with a larger byte."""
_EVENTS = ("messageStart", "contentBlockStart", "contentBlockDelta", "messageStop", "metadata")
_STRING = 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type; values of types 6 and 7 state their own length."""


class _Frame(NamedTuple):
    headers: dict[str, str]
    """Types that are text."""
    payload: bytes
    size: int
    """Maximum size of the whole frame, in bytes."""


class _Broken(ValueError):
    """The bytes are not a whole number of frames, or a frame's place in the answer is unknown."""


def is_stream(body: bytes) -> bool:
    """True if the body begins with a frame."""
    if body[:1] > _MAX_FIRST or len(body) < _PRELUDE.size:
        return False
    crc: int = _PRELUDE.unpack_from(body)[2]
    return zlib.crc32(body[:8]) == crc


def folded(body: bytes) -> tuple[int, dict[str, Any]] | None:
    """(status, document) of a whole stream; for an exception, the status that it has elsewhere. None if it is cut."""
    answer = _Answer()
    # everything that follows is unknown; this matters unless the answer was finished before
    with contextlib.suppress(_Broken):
        for frame in _frames(body):
            if (name := frame.headers.get(":exception-type") or frame.headers.get(":error-code")) is not None:
                if answer.is_finished:
                    break
                status, document = _trouble(name, frame)
                return status, document | {HAS_BEGUN: answer.has_begun}
            if (kind := frame.headers.get(":event-type")) in _EVENTS:
                answer.add(kind, _payload(frame))
    whole = answer.whole()
    return None if whole is None else (200, whole)


def rewritten(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The stream with its payloads and the texts in its headers changed, in frames that are valid again."""
    if change(body) == body:  # nearly always
        return body
    made: list[bytes] = []
    size = 0
    with contextlib.suppress(_Broken):
        for frame in _frames(body):
            made.append(_framed(frame, change))
            size += frame.size
    return b"".join(made) + change(body[size:])


def _framed(frame: _Frame, change: Callable[[bytes], bytes]) -> bytes:
    headers = b""
    for name, value in frame.headers.items():
        text = change(value.encode())
        headers += struct.pack(">B", len(name.encode())) + name.encode() + struct.pack(">BH", _STRING, len(text)) + text
    payload = change(frame.payload)
    lengths = struct.pack(">II", _PRELUDE.size + len(headers) + len(payload) + _CRC.size, len(headers))
    whole = lengths + _CRC.pack(zlib.crc32(lengths)) + headers + payload
    return whole + _CRC.pack(zlib.crc32(whole))


def _trouble(name: str, frame: _Frame) -> tuple[int, dict[str, Any]]:
    document = _payload(frame)
    original = document.get("originalStatusCode")
    status = original if isinstance(original, int) and 400 <= original < 600 else STATUSES.get(name, 500)
    return status, {"__type": name, "message": document.get("message") or frame.headers.get(":error-message", "")}


def _frames(body: bytes) -> Iterator[_Frame]:
    at = 0
    while at < len(body):
        if len(body) - at < _PRELUDE.size + _CRC.size:
            raise _Broken
        size, header_size, crc = _PRELUDE.unpack_from(body, at)
        end = at + size
        if end > len(body) or size < _PRELUDE.size + header_size + _CRC.size or zlib.crc32(body[at : at + 8]) != crc:
            raise _Broken
        if zlib.crc32(body[at : end - _CRC.size]) != _CRC.unpack_from(body, end - _CRC.size)[0]:
            raise _Broken
        payload_at = at + _PRELUDE.size + header_size
        yield _Frame(_headers(body[at + _PRELUDE.size : payload_at]), body[payload_at : end - _CRC.size], size)
        at = end


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name, kind = data[at + 1 : name_end].decode(), data[name_end]
            at = name_end + 1
            if kind in _SIZES:
                at += _SIZES[kind]
                continue
            (size,) = struct.unpack_from(">H", data, at)
            at += 2 + size
            if kind == _STRING:
                found[name] = data[at - size : at].decode()
    except (IndexError, struct.error, UnicodeDecodeError):
        raise _Broken from None
    return found


def _payload(frame: _Frame) -> dict[str, Any]:
    try:
        document = piece_in(frame.payload or b"{}")
    except (NoDocument, UnicodeDecodeError, RecursionError):
        raise _Broken from None
    if not isinstance(document, dict):
        raise _Broken
    return document


class _Answer:
    """An answer as its events arrive."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._role = "assistant"
        self._stop: dict[str, Any] | None = None
        self._metadata: dict[str, Any] | None = None

    def add(self, kind: str, event: dict[str, Any]) -> None:
        """Add one event; unknown events are skipped."""
        index = event.get("contentBlockIndex")
        match kind:
            case "messageStart":
                self._role = event.get("role", self._role)
            case "contentBlockStart" if isinstance(index, int):
                start = event.get("start")
                call = start.get("toolUse") if isinstance(start, dict) else None
                if isinstance(call, dict):
                    self._blocks[index] = {"toolUse": {**call, "input": ""}}
            case "contentBlockDelta" if isinstance(index, int) and isinstance(delta := event.get("delta"), dict):
                _add(self._blocks.setdefault(index, {}), delta)
            case "contentBlockDelta":
                raise _Broken  # it is unknown what it belongs to
            case "messageStop":
                self._stop = event
            case "metadata":
                self._metadata = event

    @property
    def has_begun(self) -> bool:
        """True if some of it has come."""
        return bool(self._blocks)

    @property
    def is_finished(self) -> bool:
        """True if only the usage may still come."""
        return self._stop is not None

    def whole(self) -> dict[str, Any] | None:
        """The document as if unstreamed; None if an end is missing. Without metadata the usage is unknown."""
        if self._stop is None:
            return None
        content = [_ended(self._blocks[index]) for index in sorted(self._blocks)]
        stop, metadata = self._stop, self._metadata or {}
        return {"output": {"message": {"role": self._role, "content": content}}} | stop | metadata


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta:
        case {"text": str(text)}:
            block["text"] = block.get("text", "") + text
        case {"toolUse": {"input": str(piece)}}:
            call = block.setdefault("toolUse", {"input": ""})
            call["input"] += piece
        case {"toolUse": {"input": dict(whole)}}:
            block.setdefault("toolUse", {})["input"] = dumped(whole).decode()
        case {"reasoningContent": dict(thought)}:
            _think(block.setdefault("reasoningContent", {}), thought)


def _think(block: dict[str, Any], thought: dict[str, Any]) -> None:
    for name in ("text", "signature"):
        if isinstance(piece := thought.get(name), str):
            text = block.setdefault("reasoningText", {})
            text[name] = text.get(name, "") + piece
    if isinstance(hidden := thought.get("redactedContent"), str):
        block["redactedContent"] = block.get("redactedContent", "") + hidden


def _ended(block: dict[str, Any]) -> dict[str, Any]:
    """The block at its end. A tool's input stays text: reading and rewriting it would change large numbers."""
    if (call := block.get("toolUse")) is not None:
        call["input"] = call["input"] or "{}"
    return block
