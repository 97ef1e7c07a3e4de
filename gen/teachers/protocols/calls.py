"""Tool calls in the one form that a Completion keeps, whatever the wire's: OpenAI's."""

import json
from typing import Any

from stillhouse.gen.teachers.json_text import text_of

_TOO_DEEP = "arguments nested too deeply"
"""Replaces arguments that are not kept. It is not JSON, so the call is invalid."""


def function_call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """One call; arguments that are not text yet are written as JSON. An id or a name that is not text becomes None."""
    text = arguments if isinstance(arguments, str) else text_of(arguments)
    function = {"name": _text(name), "arguments": _TOO_DEEP if text is None else text}
    return {"id": _text(call_id), "type": "function", "function": function}


def calls_text(calls: Any) -> str:
    """Calls in OpenAI's form, as a server sent them."""
    text = text_of(calls)
    return json.dumps([_TOO_DEEP]) if text is None else text


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
