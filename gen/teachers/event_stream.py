"""Server-sent events: the documents of a stream, and what each packet contains, judged by its bytes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from stillhouse.gen.teachers.lenient_json import holds_large_integers, piece_in

UNREADABLE: Final = object()
"""Stands for an event whose content is unknown."""

_BOM = b"\xef\xbb\xbf"
_PADDING = b" \t\0"
_FIELD = re.compile(rb"([\w-]*)(?::|\Z)")
"""A field's name; a comment's is empty."""
_WORDS = re.compile(rb'[^{}"\[\]]*|\[[ \w.:-]*[A-Za-z][ \w.:-]*\]')
"""Data that is not part of a JSON document with content: `ping`, `[DONE]`."""
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?[\s\0]*(?:data|event|id|retry)?:")

_PING_EVENTS = re.compile(rb"event:[ \t]*(?:ping|keep-?alive|heartbeat)[ \t]*(?:\r\n|\r|\n)(?:data:[^\r\n]*)?")
_DATA = re.compile(
    rb"(?:\A|[\r\n])data:"
    rb'(?![ \t]*(?:[\r\n]|\{[ \t]*"type"[ \t]*:[ \t]*"(?:ping|keep-?alive|heartbeat)"))'
    rb"(?:[^\r\n]{40}|[^\r\n]+[\r\n])"
)
"""Enough of a line of data to tell that it is not a ping, or the whole line."""
_BLANKS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_DONE = re.compile(rb"(?:\A|[\r\n])data:[ \t]*\[DONE\]")
_KEPT_BYTES = 256


def is_stream(headers: Mapping[str, str], body: bytes) -> bool:
    """True if the body of a reply with these headers is a raw stream of events, requested or not."""
    return is_binary(headers.get("content-type", "")) or _BEGINS.match(body) is not None


def is_binary(content_type: str) -> bool:
    """True for Amazon's event streams, whose frames are not text."""
    return "eventstream" in content_type


def events_in(body: bytes, *, change: Callable[[Any], Any] | None = None) -> list[Any]:
    """The documents of a stream's events, in order; `UNREADABLE` in place of each that can't be read.

    `change`: applied to each as soon as it is parsed.

    Other lines, and data that is not JSON, such as `[PING]`, say nothing. An error that a server wrote without its
    `data:` is an event too. A lone surrogate in a text stays: its other half may be in the next event.
    """
    events: list[Any] = []
    split: list[bytes] = []  # the lines of a document that has several
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = body.removeprefix(_BOM).strip(_PADDING + b"\n").split(b"\n")
    is_plain = not holds_large_integers(body)
    bare = True
    for place, line in enumerate(lines):
        if is_plain and not split and line.startswith(b"data:"):
            try:
                event = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                pass
            else:
                events.append(event if change is None else change(event))
                continue
        line = line.strip(_PADDING)
        if not line:
            _join(events, split)
        elif (field := _FIELD.match(line)) is not None:
            if field[1].lower() == b"data":
                _odd(line[field.end() :].strip(), events, split)
        elif not _WORDS.fullmatch(line):
            if bare and (errors := _errors_in(b"\n".join(lines[place:]))):
                return events + errors
            bare = False  # the rest is read once
            events += _errors_in(line) or [UNREADABLE]
    _join(events, split)
    return events


def repeats(documents: Sequence[Any]) -> Sequence[Any] | None:
    """The half that the stream repeats; None if it does not. A gateway may send a whole stream twice."""
    half = len(documents) // 2
    if not half or len(documents) % 2 or documents[0] != documents[half] or documents[:half] != documents[half:]:
        return None
    return documents[:half]


def _odd(data: bytes, events: list[Any], split: list[bytes]) -> None:
    """A line of data that is not clearly a document."""
    if split:
        split.append(data)
    elif not _WORDS.fullmatch(data):
        document = _document(data)
        if document is UNREADABLE:
            split.append(data)
        else:
            events.append(document)


def _join(events: list[Any], split: list[bytes]) -> None:
    """The event ends."""
    if split:
        events.append(_document(b"\n".join(split)))
        split.clear()


def _document(data: bytes) -> Any:
    try:
        return piece_in(data)
    except (ValueError, RecursionError):
        return UNREADABLE


def _errors_in(text: bytes) -> list[Any]:
    """The errors that a text without `data:` consists of; empty if it is anything else."""
    found = _document(text)
    errors = [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]
    return errors if all(each.get("error") for each in errors) else []


class Progress:
    """Distinguishes events from comments and pings as the packets of a stream arrive; parses nothing."""

    def __init__(self) -> None:
        self._event = b""
        """The head of the incomplete event."""
        self.is_done = False
        """True once the end marker of a stream, `[DONE]`, has come."""

    def brings(self, packet: bytes) -> bool:
        """True if part of the packet belongs to a data event that is not a ping."""
        text = self._event + packet
        if b"[DONE]" in text and _DONE.search(text):
            self.is_done = True
        last = max(text.rfind(blank) + len(blank) if blank in text else 0 for blank in _BLANKS)
        self._event = text[last : last + _KEPT_BYTES]
        if b"event:" in text:
            text = _PING_EVENTS.sub(b"", text)
        return _DATA.search(text) is not None
