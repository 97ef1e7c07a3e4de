"""Reads the JSON document in a body, despite padding around it and odd numbers in fields that nobody reads."""

import json
import math
import re
from typing import Any, Final

import orjson

from stillhouse.gen.teachers.in_pieces import PIECE_BYTES, holds
from stillhouse.gen.teachers.json_text import MAX_DEPTH, TOKENS, shallow, without_surrogates

_CONSTANTS = {"-Infinity": -9999.0}
"""OpenAI's notation for a log-probability that JSON can't represent; NaN and Infinity become null."""
_PADDING = " \t\r\n\0\ufeff"
_TRAILER = re.compile(r"(?:[\s\0]|data:[ \t]*\[DONE\]|\[DONE\]|:[^\n]*(?:\n|\Z)|event:[^\n]*(?:\n|\Z))*")
"""The end of a stream: its last marker, comments, padding."""
_NOT_PLAIN: Final = object()
_MOST_DIGITS = 300
_ARGUMENTS = (b'"input"', b'"args"', b'"arguments"')
"""Fields that contain arguments as an object."""
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 20
"""The first integer that does not fit has this many digits."""


class NoDocument(ValueError):
    """The body is not a complete JSON document."""


def document_in(body: bytes) -> Any:
    """The document, without lone surrogates, NaN and infinities, which occur on the wire but must not be stored.

    Raises:
        UnicodeDecodeError: the body is not UTF-8.
        NoDocument: it is not JSON, not complete, or more than one document.
    """
    found = _plain(body)
    return _clean(_odd(body)) if found is _NOT_PLAIN else found


def piece_in(body: bytes) -> Any:
    """A piece of a stream, read like `document_in`, but with lone surrogates, whose other halves may follow."""
    found = _plain(body)
    return _odd(body) if found is _NOT_PLAIN else found


def _plain(body: bytes) -> Any:
    if holds_large_integers(body):
        return _NOT_PLAIN
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _NOT_PLAIN


def _odd(body: bytes) -> Any:
    text = body.decode("utf-8").strip(_PADDING)
    try:
        return _one(text)
    except RecursionError:
        return _one(_flattened(text))


def holds_large_integers(body: bytes) -> bool:
    """True if arguments of a call may contain integers of more than 64 bits, which orjson would turn into floats."""
    if len(body) > PIECE_BYTES and not any(holds(body, name) for name in _ARGUMENTS):
        return False
    return _LONG in body.translate(_DIGITS) and any(name in body for name in _ARGUMENTS)


def _one(text: str) -> Any:
    try:
        document, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise NoDocument(str(error)) from None
    rest = text[end:]
    if not _TRAILER.fullmatch(rest):
        raise NoDocument("more follows the document")
    return document


def _clean(document: Any) -> Any:
    try:
        return _in_unicode(document)
    except RecursionError:
        return _in_unicode(shallow(document))


def _in_unicode(document: Any) -> Any:
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _DECODER.decode(without_surrogates(text))
    return document


def _real(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) < _MOST_DIGITS else None


_DECODER = json.JSONDecoder(parse_float=_real, parse_int=_whole, parse_constant=_CONSTANTS.get, strict=False)


def _flattened(text: str) -> str:
    """The text, with null for everything nested deeper than `MAX_DEPTH`."""
    kept: list[str] = []
    depth = at = 0
    for token in TOKENS.finditer(text):
        if token[0][0] in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(text[at : token.start()] + "null")
        elif token[0][0] in "]}":
            depth -= 1
            if depth == MAX_DEPTH:
                at = token.end()
        if depth < 0:
            break
    return "".join(kept) + text[at:] if depth <= MAX_DEPTH else text[: MAX_DEPTH // 2]
