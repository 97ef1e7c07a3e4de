"""Tool calls, and the messages of a conversation that make them and answer them."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The form of a call's id that all providers accept."""


class ToolCall(NamedTuple):
    """One call of a function."""

    id: str | None
    type: str
    name: str
    arguments: str
    """A JSON object, as it was written."""


class ToolMessage(NamedTuple):
    """A message that calls tools, or the result of a call."""

    role: str
    """assistant or tool."""
    content: str
    calls: tuple[ToolCall, ...] | None = None
    """The calls of an assistant's message."""
    call_id: str | None = None
    """For a result: the id of its call, if the source gives it."""
    name: str | None = None
    """For a result: the function that was called, if the source gives it."""


Message: TypeAlias = tuple[str, str] | ToolMessage
"""(role, content), or a message with tool calls or results."""


def tool_call(call: Any) -> ToolCall | None:
    """A call in OpenAI's form, or in the older form `function_call`, which is the bare function.

    None if it can't be stored: it names no function, or its arguments are not a JSON object.
    """
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
    """The arguments, which servers send as JSON text, as an object (Ollama), or not at all if there are none."""
    if given is None or given == "":
        return "{}"
    if isinstance(given, dict):
        # orjson would turn large integers into floats
        return json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    try:
        return given if isinstance(given, str) and isinstance(orjson.loads(given), dict) else None
    except orjson.JSONDecodeError:
        return None


def paired(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, in which each result names its function and, by an id that any provider accepts, its call.

    A result without an id answers the first open call of its function, or the first open call if it names no function.

    Raises:
        ValueError: a result has no call before it, or a call has no result before the next turn; names the message.
    """
    open_calls: list[ToolCall] = []
    sent: dict[int, str] = {}
    """The id that is sent, by the call's own `id`."""
    used: set[str] = set()
    found: list[Message] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, ToolMessage) or message.role != "tool":
            _check_answered(open_calls, number)
        if not isinstance(message, ToolMessage):
            found.append(message)
        elif message.role == "tool":
            call = next((each for each in open_calls if _answers(message, each)), None)
            if call is None:
                which = "" if message.call_id is None else f" with the id {message.call_id[:64]!r}"
                raise ValueError(f"message {number}: a tool's result without its call{which} before it")
            open_calls.remove(call)
            found.append(message._replace(call_id=sent[id(call)], name=call.name))
        else:
            open_calls = list(message.calls or ())
            for call in open_calls:
                sent[id(call)] = _id_of(call, used)
            found.append(message._replace(calls=tuple(call._replace(id=sent[id(call)]) for call in open_calls)))
    _check_answered(open_calls, len(messages) + 1)
    return tuple(found)


def _answers(result: ToolMessage, call: ToolCall) -> bool:
    if result.call_id is not None:
        return result.call_id == call.id
    return result.name in (None, call.name)


def _id_of(call: ToolCall, used: set[str]) -> str:
    found = call.id if call.id is not None and _ID.fullmatch(call.id) and call.id not in used else None
    if found is None:
        found = next(name for number in range(len(used) + 1) if (name := f"call_{number}") not in used)
    used.add(found)
    return found


def _check_answered(open_calls: Sequence[ToolCall], number: int) -> None:
    if open_calls:
        raise ValueError(
            f"message {number - 1}: expected the result of every call next, got none for {open_calls[0].name!r}"
        )
