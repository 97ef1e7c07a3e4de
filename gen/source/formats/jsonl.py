"""JSON Lines: a line is a row or a bad row, and a value is exact or the row is bad.

Of a key given twice in one object the last counts, as JSON libraries have it. Integers are exact at any size; numbers
with a fraction or an exponent are float64.
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from stillhouse.gen.source.formats.row import TOO_LARGE, Position, Row
from stillhouse.gen.source.formats.text import Codec, Line, open_lines

_DIGITS_AS_9 = bytes(ord("9") if chr(byte).isdigit() and byte < 128 else 0 for byte in range(256))
_LONG_NUMBER = b"9" * 19
"""From 19 digits on an integer may not fit in 64 bits, where orjson would make it an inexact float."""

_KINDS: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def read_jsonl(file: BinaryIO, *, codec: Codec | None, start: Position) -> Iterator[Row]:
    """The rows from `start` on, with all their columns.

    Raises:
        OSError: compressed data is corrupt or cut off; the rows of the megabytes before were yielded.
    """
    offset, blocks = open_lines(file, codec=codec, offset=start.offset)
    row, number = start.row, start.line
    for lines in blocks:
        for line in lines:
            if not isinstance(line, bytes) or (line and not line.isspace()):
                values, bad = _parsed(line)
                yield Row(Position(row, offset, number), values, bad)
                row += 1
            offset += len(line) + 1
            number += 1


def _parsed(line: Line) -> tuple[dict[str, Any] | None, str | None]:
    if not isinstance(line, bytes):
        return None, TOO_LARGE
    try:
        values = orjson.loads(line)
        if _LONG_NUMBER in line.translate(_DIGITS_AS_9):
            values = json.loads(line)
    except orjson.JSONDecodeError as error:
        return None, f"no valid JSON: {error.msg} (column {error.colno})"
    except (ValueError, RecursionError) as error:
        return None, f"no usable JSON: {error}"
    if type(values) is not dict:
        return None, f"expected a JSON object, got {_KINDS.get(type(values), 'a number')}"
    return values, None
