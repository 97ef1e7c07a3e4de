"""JSON that every reader reads the same way: duplicate names, NaN and the like are refused rather than interpreted."""

import json
import math
from typing import Any


class JsonFault(ValueError):
    """The text is not JSON, or readers may disagree on what it says; the message says why."""

    def __init__(self, words: str, *, line: int | None = None) -> None:
        super().__init__(words)
        self.line = line
        """Line of the text, from 1; None if unknown."""


def read_json(text: str) -> Any:
    """The value.

    Raises:
        JsonFault: the text is not JSON, or readers would read it differently.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        words = f"text that is not JSON: {error.msg} at column {error.colno}"
        raise JsonFault(words, line=error.lineno) from None
    except RecursionError:
        raise JsonFault("JSON that is nested too deeply") from None
    except JsonFault:
        raise
    except ValueError as error:  # an integer with thousands of digits
        raise JsonFault(f"JSON that can't be read: {error}") from None


def _no_number(word: str) -> None:
    raise JsonFault(f"text that is not JSON: {word} is not a JSON number")


def _float(digits: str) -> float:
    if math.isfinite(number := float(digits)):
        return number
    raise JsonFault(f"JSON with a number that is too large: {digits[:30]}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonFault(f"JSON with the name {twice[:70]!r} twice in one object")
    return found
