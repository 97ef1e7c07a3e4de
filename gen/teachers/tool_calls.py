"""Tool calls in the form of trainers and chat templates: a function's name and its arguments, which are a JSON
object."""

import json

from stillhouse.gen.teachers.apart import APART, is_apart
from stillhouse.gen.teachers.json_text import is_deep
from stillhouse.schemas.tool_call import ToolCall, tool_call


def tool_calls_in(wire: str | None) -> tuple[ToolCall, ...] | None:
    """The calls in a Completion's `tool_calls`, in order.

    None if one of them can't be stored: it names no function, its arguments are not a JSON object, or it is nested
    too deeply; also if they are not a list.
    """
    return APART.call(calls_in, wire) if wire and is_apart(len(wire)) else calls_in(wire)


def calls_in(wire: str | None) -> tuple[ToolCall, ...] | None:
    """The same, parsed in this process however long they are."""
    if not wire:
        return ()
    if is_deep(wire) or not isinstance(found := json.loads(wire), list):
        return None
    calls = [tool_call(each) for each in found]
    known = tuple(call for call in calls if call is not None)
    return known if len(known) == len(calls) else None
