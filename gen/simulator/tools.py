"""Calls of the tools that a request offers: arguments that fit their JSON Schema, drawn with the request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stillhouse.gen.simulator.shaped import value_of


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
    arguments = value_of({"type": "object", **tool.schema}, drawn=drawn >> 8)
    return Call(tool.name, arguments if isinstance(arguments, dict) else {})
