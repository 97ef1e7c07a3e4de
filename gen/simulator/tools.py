"""Calls of the tools that a request offers: arguments that fit their JSON Schema, drawn with the request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

_MOST_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call."""

    name: str
    schema: Mapping[str, Any]
    """The JSON Schema of its arguments."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return orjson.dumps(dict(self.arguments)).decode()


def call_of(tools: Sequence[Tool], *, drawn: int) -> Call:
    """A call of one of the tools."""
    tool = tools[drawn % len(tools)]
    arguments = _value(tool.schema, drawn=drawn >> 8, depth=0)
    return Call(tool.name, arguments if isinstance(arguments, dict) else {})


def _value(schema: Any, *, drawn: int, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        return {}
    if isinstance(enum := schema.get("enum"), list) and enum:
        return enum[drawn % len(enum)]
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "string":
            return f"word {drawn % 1000}"
        case "integer":
            return drawn % 1000
        case "number":
            return drawn % 1000 / 8
        case "boolean":
            return drawn % 2 == 1
        case "array":
            return [_value(schema.get("items"), drawn=drawn, depth=depth + 1)]
        case "object":
            fields = schema.get("properties")
            named = fields.items() if isinstance(fields, Mapping) else ()
            return {name: _value(each, drawn=drawn >> 3, depth=depth + 1) for name, each in named}
        case _:
            return None
