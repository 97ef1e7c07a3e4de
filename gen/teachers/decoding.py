"""A reply's body without its content encoding, in bounded memory, and in UTF-8.

A header may be wrong, so the bytes decide.
"""

import codecs
import functools
import json
import re
import zlib
from collections.abc import Iterator

import pyarrow as pa

from stillhouse.gen.teachers.event_stream import is_stream
from stillhouse.gen.teachers.in_pieces import is_utf8, recoded

_PLAIN = ("identity", "none", "utf-8", "utf8", "")
"""Names that servers use for no encoding."""
_CODECS = {"gzip": "gzip", "x-gzip": "gzip", "br": "brotli", "zstd": "zstd"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MOST_ENCODINGS = 4
_PIECE_BYTES = 2**18


class TooLarge(Exception):
    """The decoded body is larger than allowed."""


def is_plain(encoding: str) -> bool:
    """True if a `content-encoding` header names no compression."""
    return all(name in _PLAIN for name in _names(encoding))


def decoded(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """The body decoded by its `content-encoding`, or unchanged if the header is wrong.

    Raises:
        TooLarge: it would be larger than `max_bytes`.
    """
    names = [name for name in _names(encoding) if name not in _PLAIN][-_MOST_ENCODINGS:]
    for name in reversed(names):
        if looks_plain(body):  # a proxy decoded it and left the header
            return body
        decoder = _decoder(body, name)
        try:
            inner = b"".join(_bounded(decoder, max_bytes)) if decoder is not None else body
        except (OSError, zlib.error, pa.ArrowInvalid):
            return body  # the reader reports that it is not JSON, and the journal keeps the body
        body = inner
    return body


def looks_plain(body: bytes) -> bool:
    """True if the body begins like JSON."""
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n\0")[:1] in (b"{", b"[")


_CHARSET = re.compile(r"charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def in_utf8(body: bytes, content_type: str) -> bytes:
    """The body converted to UTF-8 if its first bytes or `content-type` name another charset; otherwise unchanged."""
    if b"\0" in body[:4] or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _recoded(body, json.detect_encoding(body))
    charset = _charset_of(content_type)
    if charset is None:
        return body
    # valid UTF-8 is UTF-8, whatever the header says: servers name a charset out of habit
    return body if is_utf8(body) else _recoded(body, charset)


@functools.lru_cache(maxsize=100)
def _charset_of(content_type: str) -> str | None:
    """The charset that the header names, if it is not UTF-8."""
    named = _CHARSET.search(content_type)
    return None if named is None or named[1].lower() in ("utf-8", "utf8", "us-ascii") else named[1]


def _recoded(body: bytes, charset: str) -> bytes:
    try:
        found = recoded(body, charset)
    except (UnicodeError, LookupError):
        return body
    return found if looks_plain(found) or is_stream({}, found) else body


def _names(encoding: str) -> list[str]:
    return [name.strip().lower() for name in encoding.split(",")]


def _decoder(body: bytes, name: str) -> Iterator[bytes] | None:
    magic = next((codec for head, codec in _MAGIC.items() if body.startswith(head)), None)
    codec = magic or _CODECS.get(name)
    if codec is not None:
        return _streamed(body, codec)
    return _inflated(body) if name == "deflate" else None


def _streamed(body: bytes, codec: str) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _inflated(body: bytes) -> Iterator[bytes]:
    """`deflate` with its zlib header, as in the standard, or without, as some servers send it."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS if body[:1] and body[0] & 0x0F == 8 else -zlib.MAX_WBITS)
    while body and not decoder.eof:
        yield decoder.decompress(body, _PIECE_BYTES)
        body = decoder.unconsumed_tail
    yield decoder.flush()


def _bounded(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise TooLarge
        yield piece
