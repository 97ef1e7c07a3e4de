"""Reads single values from documents in which any value may have any type."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue


def text(value: Any) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; empty if it is not a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def merged(fields: Mapping[str, Any], extra: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The fields with `extra` over them; if both have an object, their fields are merged recursively."""
    found = dict(fields)
    for name, value in extra.items():
        known = found.get(name)
        found[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return found


def listed(values: Any) -> list[Any]:
    """A list as it is. Anything else stays as one odd element, because without it those after it would be shifted."""
    return values if isinstance(values, list) else [values]
