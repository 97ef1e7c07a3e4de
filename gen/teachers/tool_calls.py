"""Tool calls as trainers and chat templates take them: a function's name and its arguments, which are a JSON object."""

import json
from typing import Any, NamedTuple

import orjson

from stillhouse.gen.teachers.json_text import is_deep


class ToolCall(NamedTuple):
    """One call of a function."""

    id: str | None
    type: str
    name: str
    arguments: str
    """A JSON object, as the teacher wrote it."""


def tool_calls_in(wire: str | None) -> tuple[ToolCall, ...] | None:
    """The calls in a Completion's `tool_calls`, in order.

    None if one of them can't be stored: it names no function, its arguments are not a JSON object, or it is nested
    too deeply; also if they are not a list.
    """
    if not wire:
        return ()
    if is_deep(wire) or not isinstance(found := json.loads(wire), list):
        return None
    calls = [_call(each) for each in found]
    known = tuple(call for call in calls if call is not None)
    return known if len(known) == len(calls) else None


def _call(call: Any) -> ToolCall | None:
    """OpenAI's form, or the older `function_call`, which is the function alone."""
    if not isinstance(call, dict):
        return None
    function = call.get("function", call)
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        return None
    name, arguments = function.get("name"), _arguments(function.get("arguments"))
    if not isinstance(name, str) or not name or arguments is None:
        return None
    call_id = call.get("id")
    return ToolCall(call_id if isinstance(call_id, str) else None, "function", name, arguments)


def _arguments(given: Any) -> str | None:
    """Servers send JSON as text, an object (Ollama), or nothing where there are no arguments."""
    if given is None or given == "":
        return "{}"
    if isinstance(given, dict):
        return json.dumps(given, ensure_ascii=False, separators=(",", ":"))  # orjson would make floats of large numbers
    try:
        return given if isinstance(given, str) and isinstance(orjson.loads(given), dict) else None
    except orjson.JSONDecodeError:
        return None
