"""Server-sent events: the documents of a whole stream, and what each packet brings, judged by its bytes."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from stillhouse.gen.teachers.lenient_json import NoDocument, holds_large_integers, piece_in

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b":", b"event:", b"id:", b"retry:")
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?[\s\0]*(?:data|event|id|retry)?:")

_PING_EVENTS = re.compile(rb"event:[ \t]*(?:ping|keep-?alive|heartbeat)[ \t]*(?:\r\n|\r|\n)(?:data:[^\r\n]*)?")
_DATA = re.compile(
    rb"(?:\A|[\r\n])data:"
    rb'(?![ \t]*(?:[\r\n]|\{[ \t]*"type"[ \t]*:[ \t]*"(?:ping|keep-?alive|heartbeat)"))'
    rb"(?:[^\r\n]{40}|[^\r\n]+[\r\n])"
)
"""A line of data that is not a ping: so much of it that a ping would have shown, or the whole line."""
_BLANKS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_DONE = re.compile(rb"(?:\A|[\r\n])data:[ \t]*\[DONE\]")
_KEPT_BYTES = 256


def is_stream(headers: Mapping[str, str], body: bytes) -> bool:
    """True if the body of a reply with these headers is a raw stream of events, asked for or not."""
    return is_binary(headers.get("content-type", "")) or _BEGINS.match(body) is not None


def is_binary(content_type: str) -> bool:
    """True of Amazon's event streams, whose frames are no text."""
    return "eventstream" in content_type


def events_in(body: bytes) -> list[Any]:
    """The documents of a stream's events, in their order; none if the body is not a stream of whole JSON documents.

    A lone surrogate in a text stays: its other half may be in the next event.
    A line that is not a field begins an error that a server wrote without its `data:`; it is the last document.
    """
    events: list[Any] = []
    split: list[bytes] = []  # the lines of a document that has several
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    is_plain = not holds_large_integers(body)
    lines = body.removeprefix(_BOM).strip(b" \t\n\0").split(b"\n")
    try:
        for place, line in enumerate(lines):
            if line.startswith(b"data:"):
                if is_plain and not split:
                    try:
                        events.append(orjson.loads(line[5:]))
                        continue
                    except orjson.JSONDecodeError:
                        pass
                _odd(line[5:].strip(), events, split)
            elif not line or line.isspace():
                _join(events, split)
            elif not line.startswith(_FIELDS):
                return [*events, *_bare_errors(b"\n".join(lines[place:]))]
        _join(events, split)
    except (ValueError, RecursionError):
        return []
    return events


def _odd(data: bytes, events: list[Any], split: list[bytes]) -> None:
    """A line of data that is not plainly a document."""
    if not data or data == b"[DONE]":
        return
    if not split:
        try:
            events.append(piece_in(data))
        except NoDocument:
            split.append(data)
    else:
        split.append(data)


def _join(events: list[Any], split: list[bytes]) -> None:
    """The event ends."""
    if split:
        events.append(piece_in(b"\n".join(split)))
        split.clear()


def _bare_errors(text: bytes) -> list[Any]:
    found = piece_in(text)
    errors = [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]
    if not errors or not all(each.get("error") for each in errors):
        raise NoDocument("more follows the events")
    return errors


class Progress:
    """Tells events from comments and pings as the packets of a stream arrive; parses nothing."""

    def __init__(self) -> None:
        self._event = b""
        """The head of the event that is not complete yet."""
        self.is_done = False
        """True once the end marker of a stream, `[DONE]`, has come."""

    def brings(self, packet: bytes) -> bool:
        """True if some of the packet belongs to a data event that is not a ping."""
        text = self._event + packet
        if b"[DONE]" in text and _DONE.search(text):
            self.is_done = True
        last = max(text.rfind(blank) + len(blank) if blank in text else 0 for blank in _BLANKS)
        self._event = text[last : last + _KEPT_BYTES]
        if b"event:" in text:
            text = _PING_EVENTS.sub(b"", text)
        return _DATA.search(text) is not None
