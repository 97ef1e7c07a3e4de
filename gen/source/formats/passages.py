"""Text and Markdown: a document is cut into passages, each a row with the columns `text` and `passage`, its number.

A passage ends at the end of a paragraph, or else of a line, a sentence or a word, and has at most the given number of
characters. Its end depends only on the text from its start, so reading can resume at any passage.
"""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from stillhouse.gen.source.formats.row import Position, Row
from stillhouse.gen.source.formats.text import Codec, open_blocks

_ENDS = tuple(map(re.compile, (r"\n[ \t\r]*\n", r"\n", r"[.!?…。！？]['\")\]]*\s", r"\s")))
"""Where a passage may end, best first."""

NOT_UTF8 = "the passage is not UTF-8 text: write the file as UTF-8"


def read_passages(file: BinaryIO, *, codec: Codec | None, most_chars: int, start: Position) -> Iterator[Row]:
    """The passages from `start` on, each of at most this many characters; memory does not grow with the file.

    Raises:
        FormatError: the file is of another kind.
        OSError: compressed data is corrupt or cut off.
    """
    offset, blocks = open_blocks(file, codec=codec, offset=start.offset)
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    row, line, text, is_over = start.row, start.line, "", False
    while True:
        while len(text) <= most_chars and not is_over:
            block = next(blocks, b"")
            is_over = not block
            text = (text + decode(block, final=is_over)) if text else decode(block, final=is_over)
            blank = len(text) - len(text.lstrip())
            offset, line = offset + _bytes(text[:blank]), line + text.count("\n", 0, blank)
            text = text[blank:]
        if not text:
            return
        end = _end(text, most_chars)
        passage, at = text[:end].rstrip(), Position(row, offset, line)
        if passage.isascii() or not any("\ud800" <= char <= "\udfff" for char in passage):
            yield Row(at, {"text": passage, "passage": row}, None)
        else:
            yield Row(at, None, NOT_UTF8)
        end += len(text) - end - len(text[end:].lstrip())
        row, offset, line = row + 1, offset + _bytes(text[:end]), line + text.count("\n", 0, end)
        text = text[end:]


def _end(text: str, most_chars: int) -> int:
    """Where the first passage of a text ends: not in its first quarter, because that would say little."""
    if len(text) <= most_chars:
        return len(text)
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, most_chars // 4, most_chars)]
        if ends:
            return ends[-1]
    return most_chars


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
