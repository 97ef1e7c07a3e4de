"""JSON Lines: a line is a row or a bad row, and a value is exact or the row is bad.

If an object has a key twice, the last one counts, as in JSON libraries. Integers are exact at any size; numbers with a
fraction or an exponent are float64. A number that fits neither only makes a row bad that uses it.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from stillhouse.gen.source.formats.row import TOO_LARGE, OddNumber, Position, Row
from stillhouse.gen.source.formats.text import Codec, Line, open_lines

_DIGITS_AS_9 = bytes(ord("9") if chr(byte).isdigit() and byte < 128 else 0 for byte in range(256))
_LONG_NUMBER = b"9" * 19
"""From 19 digits on, an integer may not fit in 64 bits, and orjson would turn it into an inexact float."""

_MAX_DIGITS = 4300
"""Python parses no longer integers from text."""

_RECORD_SEPARATOR = b"\x1e"
"""Precedes each object in JSON text sequences (RFC 7464)."""

_FRAGMENTS = frozenset((b"{", b"}", b"[", b"]", b"},", b"],", b"[{", b"}]"))

_KINDS: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def read_jsonl(file: BinaryIO, *, codec: Codec | None, start: Position) -> Iterator[Row]:
    """The rows from `start` on, with all their columns.

    Raises:
        OSError: compressed data is corrupt or cut off; rows in earlier megabytes were yielded.
    """
    offset, blocks = open_lines(file, codec=codec, offset=start.offset)
    row, number = start.row, start.line
    for lines in blocks:
        for line in lines:
            if not isinstance(line, bytes) or (line and not line.isspace()):
                values, bad = parsed(line)
                yield Row(Position(row, offset, number), values, bad)
                row += 1
            offset += len(line) + 1
            number += 1


def parsed(line: Line) -> tuple[dict[str, Any] | None, str | None]:
    """The object on a line, or why there is none."""
    if not isinstance(line, bytes):
        return None, TOO_LARGE
    if line.startswith(_RECORD_SEPARATOR):
        line = line[1:]
    try:
        values = orjson.loads(line)
        if _LONG_NUMBER in line.translate(_DIGITS_AS_9):
            values = _lenient(line)
    except orjson.JSONDecodeError as error:
        try:
            values = _lenient(line)
        except (ValueError, RecursionError):
            return None, f"not valid JSON: {_form(line) or f'{error.msg} (column {error.colno})'}"
    except (ValueError, RecursionError) as error:
        return None, f"unusable JSON: {error}"
    if type(values) is dict:
        return values, None
    advice = ""
    if type(values) is list and values and type(values[0]) is dict:
        advice = " of objects: make the file's name end with .json to have each read as a row"
    return None, f"expected a JSON object, got {_KINDS.get(type(values), 'a number')}{advice}"


def _lenient(line: bytes) -> Any:
    """Parse with exact integers, and with non-standard values that other writers use: NaN, large numbers, lone
    surrogates.

    Whether the row is good then depends on what the recipe does with that value.
    """
    return json.loads(line.decode(), parse_int=_integer, parse_float=_float)


def _integer(literal: str) -> int | OddNumber:
    return int(literal) if len(literal) < _MAX_DIGITS else OddNumber(literal)


def _float(literal: str) -> float | OddNumber:
    number = float(literal)
    return OddNumber(literal) if math.isinf(number) else number


def _form(line: bytes) -> str | None:
    """The form of a line that is not JSON, if it is a common one."""
    text = line.strip()
    if text in _FRAGMENTS or re.match(rb'"[^"\\]*"\s*:', text):
        return "a piece of JSON spread over several lines: expected one object per line (`jq -c . FILE` writes it so)"
    if text.endswith(b",") and _is_object(text[:-1]):
        return "an object followed by a comma: expected one object per line and nothing else"
    try:
        first, end = json.JSONDecoder().raw_decode(text.decode())
    except (ValueError, RecursionError):
        return None
    if type(first) is not dict or not text.decode()[end:].lstrip(" \t\r,").startswith("{"):
        return None
    if b"\r" in text:
        return "several objects on one line, with bare carriage returns between them: expected newlines"
    return "several objects on one line: expected one per line (`jq -c . FILE` writes it so)"


def _is_object(text: bytes) -> bool:
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False
