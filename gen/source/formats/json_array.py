"""A .json file: an array of objects, each of which is a row, or JSON Lines under another name.

The array is cut into elements at brackets, commas and quotes only, so memory holds one element, however large the file;
an element that is not valid JSON is a bad row between good ones.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from stillhouse.gen.source.formats.jsonl import parsed, read_jsonl
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, TOO_LARGE, Position, Row
from stillhouse.gen.source.formats.text import Codec, open_blocks

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)
"""A whole text, whatever it contains, or a character that structures an array; a lone quote begins an incomplete
text."""
_INSIDE_TEXT = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")

CUT_OFF = "the file ends inside its array: it is cut off"


def read_json(file: BinaryIO, *, codec: Codec | None, start: Position) -> Iterator[Row]:
    """The rows from `start` on, with all their columns.

    Raises:
        FormatError: the file is of another kind.
        OSError: compressed data is corrupt or cut off; rows in earlier megabytes were yielded.
    """
    offset, blocks = open_blocks(file, codec=codec)
    for block in blocks:
        if (first := _NOT_SPACE.search(block)) is None:
            offset += len(block)
            continue
        if first[0] != b"[":
            yield from read_jsonl(file, codec=codec, start=start)
            return
        begin = offset + first.end()
        head = blocks  # kept to the end: deleting a decompressor closes the file
        if start.offset:
            _, blocks = open_blocks(file, codec=codec, offset=start.offset)
            yield from _Elements(blocks, b"", at=start).rows()
        else:
            lines = 1 + block.count(b"\n", 0, first.start())
            yield from _Elements(blocks, block[first.end() :], at=Position(0, begin, lines)).rows()
        del head
        return


class _Elements:
    """The elements of an array, from one of them on."""

    def __init__(self, blocks: Iterator[bytes], buffer: bytes, *, at: Position) -> None:
        self._blocks = blocks
        self._buffer = buffer
        self._row = at.row
        self._offset = at.offset
        """Offset of the buffer's first byte, where the element begins."""
        self._line = at.line
        self._dropped = 0
        """Bytes of an oversized element that are no longer in memory."""
        self._scanned = 0
        self._depth = 0
        self._in_text = False

    def rows(self) -> Iterator[Row]:
        """Yield the rest of the array."""
        while True:
            ends, is_over = self._scan()
            yield from self._taken(ends, is_last=is_over)
            if is_over:
                return
            if not self._read_on():
                yield from self._taken([len(self._buffer)], is_last=True, cut_off=True)
                return

    def _scan(self) -> tuple[list[int], bool]:
        """Where elements end in the buffer, and whether the array ends there too."""
        ends: list[int] = []
        if self._in_text and not self._leave_text():
            return ends, False
        for token in _TOKEN.finditer(self._buffer, self._scanned):
            self._scanned = token.end()
            match token[0]:
                case b"{" | b"[":
                    self._depth += 1
                case b"]" if self._depth == 0:
                    return [*ends, token.start()], True
                case b"}" | b"]":
                    self._depth = max(0, self._depth - 1)
                case b"," if self._depth == 0:
                    ends.append(token.start())
                case b'"':
                    self._in_text = True
                    self._leave_text()
                    return ends, False
        self._scanned = len(self._buffer)
        return ends, False

    def _leave_text(self) -> bool:
        """True if the text being scanned ends in the buffer; a lone backslash waits for more."""
        inside = _INSIDE_TEXT.match(self._buffer, self._scanned)
        assert inside is not None
        self._scanned = inside.end()
        if self._buffer[self._scanned : self._scanned + 1] == b'"':
            self._scanned += 1
            self._in_text = False
        return not self._in_text

    def _read_on(self) -> bool:
        if len(self._buffer) > MAX_ROW_BYTES:
            self._line += self._buffer.count(b"\n", 0, self._scanned)
            self._dropped += self._scanned
            self._offset += self._scanned
            self._buffer = self._buffer[self._scanned :]
            self._scanned = 0
        block = next(self._blocks, b"")
        self._buffer += block
        return bool(block)

    def _taken(self, ends: list[int], *, is_last: bool, cut_off: bool = False) -> Iterator[Row]:
        """The rows that end there; the buffer then begins with the next one."""
        begin = 0
        for number, end in enumerate(ends, 1):
            element = self._buffer[begin:end]
            space = len(element) - len(element.lstrip())
            if element.strip() or self._dropped or not (is_last and number == len(ends)):
                at = Position(self._row, self._offset + begin + space, self._line + element.count(b"\n", 0, space))
                if self._dropped or len(element) > MAX_ROW_BYTES:
                    yield Row(at, None, TOO_LARGE)
                elif cut_off:
                    yield Row(at, None, CUT_OFF)
                else:
                    yield Row(at, *parsed(element.strip()))
                self._row += 1
            self._line += self._buffer.count(b"\n", begin, end + 1)
            self._dropped = 0
            begin = end + 1
        self._buffer = self._buffer[begin:]
        self._offset += begin
        self._scanned = max(0, self._scanned - begin)
