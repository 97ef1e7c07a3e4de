"""Reads single values out of documents in which any value may be of any type."""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

_MOST_TOKENS = 2**24
"""No context is that long: a larger count is ignored, so that it can't become a debt to the limits or a price."""


def count(value: Any, *, below: int = _MOST_TOKENS) -> int | None:
    """A whole number of tokens; a fraction counts as one more."""
    if isinstance(value, float) and math.isfinite(value):
        value = math.ceil(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None


def text(value: Any) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none if it is not a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def tool_call(name: Any, arguments: Any, *, call_id: Any = None) -> dict[str, Any]:
    """A tool call in the form of chat completions, in which all protocols' calls are stored; `arguments`: JSON text."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {"id": text(call_id), "type": "function", "function": {"name": text(name), "arguments": written}}


def merged(fields: Mapping[str, Any], extra: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The fields with `extra` over them; where both hold an object, their fields are merged in turn."""
    found = dict(fields)
    for name, value in extra.items():
        known = found.get(name)
        found[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return found
