"""CSV with a header line: every value is text, and a record is a row or a bad row.

Commas, semicolons, tabs or bars; quotes doubled inside quotes, line breaks inside quotes (RFC 4180). After a row over
MAX_ROW_BYTES, reading resumes after its last quote; a quote that is never closed makes the rest of the file one bad
row.
"""

import csv
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from stillhouse.gen.source.columns import listed
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, TOO_LARGE, FormatError, MissingColumn, Position, Row
from stillhouse.gen.source.formats.text import Codec, Line, open_lines

_MAX_RECORD_BYTES = MAX_ROW_BYTES + 1
"""Including the newline at its end."""

# The parser's limit of 131,072 characters per field is process-wide and would reject long prompts; our own limit is
# checked in bytes before a field reaches the parser.
csv.field_size_limit(_MAX_RECORD_BYTES)


DELIMITERS = (",", ";", "\t", "|")
"""The delimiters that are tried."""


def read_delimited(
    file: BinaryIO,
    *,
    codec: Codec | None,
    columns: Collection[str] | None,
    elsewhere: Collection[str],
    delimiters: Sequence[str] = DELIMITERS,
    start: Position,
) -> Iterator[Row]:
    """The rows from `start` on, with the wanted columns; none if the file is empty.

    The first of the `delimiters` counts that gives the header all wanted columns, except those `elsewhere`.

    Raises:
        FormatError: there is no header before the rows, or it lacks a wanted column or has it twice.
        OSError: compressed data is corrupt or cut off.
    """
    # All heads are kept until the end: deleting a decompressor closes the file.
    heads: list[tuple[_Records, str, list[str]]] = []
    needed = None if columns is None else set(columns) - set(elsewhere)
    reasons = []
    for delimiter in delimiters:
        head = _Records(file, codec=codec, at=Position(), delimiter=delimiter)
        header = head.header()
        if header is None:
            return
        if isinstance(header, str):
            reasons.append(header)
            header = []
        heads.append((head, delimiter, header))
        if needed is not None and header and needed <= set(header):
            break
    else:
        if len(reasons) == len(heads):
            raise FormatError(f"expected a header line with the columns' names: {reasons[0]}")
        head, delimiter, header = max(heads, key=lambda each: len(each[2]))
        if head is not heads[-1][0]:  # the heads after it have read ahead in the same file
            head = _Records(file, codec=codec, at=Position(), delimiter=delimiter)
            head.header()
    wanted = _wanted(header, columns, elsewhere)
    records = _Records(file, codec=codec, at=start, delimiter=delimiter) if start.offset else head
    while (fields := records.next()) is not None:
        at, row = fields
        if isinstance(row, str):
            yield Row(at, None, row)
        elif len(row) != len(header):
            yield Row(at, None, f"expected {len(header)} fields as in the header, got {len(row)}")
        else:
            yield Row(at, {name: row[index] for name, index in wanted}, None)


class _Records:
    """The file's records, and the lines that the CSV parser reads for each."""

    def __init__(self, file: BinaryIO, *, codec: Codec | None, at: Position, delimiter: str) -> None:
        self._offset, blocks = open_lines(file, codec=codec, offset=at.offset)
        self._lines: Iterator[Line] = chain.from_iterable(blocks)
        self._row = at.row
        self._line = at.line
        self._bytes = self._quotes = 0
        self._is_utf8 = True
        self._parser = csv.reader(iter(self._text, None), strict=True, delimiter=delimiter)

    def next(self) -> tuple[Position, list[str] | str] | None:
        """The next record's position and its fields, or why it is bad; None at the end. Blank lines are skipped."""
        while True:
            at = Position(self._row, self._offset, self._line)
            self._bytes = self._quotes = 0
            self._is_utf8 = True
            fields: list[str] | str | None
            try:
                fields = next(self._parser, None)
            except csv.Error as error:
                fields = f"not valid CSV: {error}"
                if str(error) == "unexpected end of data" and self._line > at.line + 1:
                    fields = f"a quote is never closed, so lines {at.line:,} to {self._line - 1:,} count as one row"
            if fields is None:
                return None
            if fields:
                self._row += 1
                return at, fields if self._is_utf8 else "not UTF-8"

    def header(self) -> list[str] | str | None:
        """The first record, which is not a row: the columns' names, or why it has none; None if the file is empty."""
        first = self.next()
        self._row = 0
        return None if first is None else first[1]

    def _text(self) -> str | None:
        """The next line as text with its newline; None at the end."""
        line = self._take()
        if line is None:
            return None
        if self._bytes > _MAX_RECORD_BYTES:
            while self._quotes % 2 and self._take() is not None:
                pass
            raise csv.Error(TOO_LARGE)
        assert isinstance(line, bytes)
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self._is_utf8 = False
            return line.decode(errors="replace") + "\n"

    def _take(self) -> Line | None:
        line = next(self._lines, None)
        if line is not None:
            self._offset += len(line) + 1
            self._line += 1
            self._bytes += len(line) + 1
            self._quotes += line.count(b'"') if isinstance(line, bytes) else line.quotes
        return line


def _wanted(header: list[str], columns: Collection[str] | None, elsewhere: Collection[str]) -> list[tuple[str, int]]:
    for name in header if columns is None else sorted(columns):
        if name in elsewhere and name not in header:
            continue
        if name not in header:
            raise MissingColumn(name, names=header, of=" from the header")
        if header.count(name) != 1:
            raise FormatError(f"the column {name!r} occurs twice in the header, which has {listed(header)}")
    return [(name, index) for index, name in enumerate(header) if columns is None or name in columns]
