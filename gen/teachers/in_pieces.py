"""Searches a reply's body in pieces, so that no call keeps the interpreter's lock for long, however large it is."""

import codecs
import re
from collections.abc import Iterator

PIECE_BYTES = 2**20
"""The most that one call gets. A slow regular expression takes 10 ms for this much, as orjson does."""
LONGEST_BYTES = 1024
"""Most matches take less."""


def search(
    pattern: re.Pattern[bytes], body: bytes, start: int = 0, *, longest: int = LONGEST_BYTES
) -> re.Match[bytes] | None:
    """The first match. `longest`: bytes of the longest match, with what it looks at."""
    while start < len(body):
        end = min(len(body), start + PIECE_BYTES + longest)
        if (found := pattern.search(body, start, end)) is not None or end == len(body):
            return found
        start = end - longest
    return None


def holds(body: bytes, text: bytes) -> bool:
    """True if the text is in the body."""
    longest = len(text) - 1
    return any(body.find(text, at, at + PIECE_BYTES + longest) >= 0 for at in range(0, len(body), PIECE_BYTES))


def replaced(pattern: re.Pattern[bytes], by: bytes, body: bytes, *, longest: int) -> bytes:
    """The body with each match replaced; see `search`."""
    kept: list[bytes] = []
    at = 0
    while (found := search(pattern, body, at, longest=longest)) is not None:
        kept += [body[at : found.start()], by]
        at = found.end()
    return b"".join([*kept, body[at:]])


def recoded(body: bytes, charset: str) -> bytes:
    """The body in UTF-8.

    Raises:
        UnicodeError: it is not in this charset.
        LookupError: there is no such charset.
    """
    body[:4].decode(charset, "ignore")  # refuses what is not a charset, such as base64
    decode = codecs.getincrementaldecoder(charset)().decode
    texts = (decode(piece) for piece in _pieces(body))
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([*encoded, decode(b"", final=True).encode("utf-8", "surrogatepass")])


def _pieces(body: bytes) -> Iterator[bytes]:
    return (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))


def is_utf8(body: bytes) -> bool:
    """True if the body is valid UTF-8."""
    if body.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in _pieces(body):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
