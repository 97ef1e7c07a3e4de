"""A conversation is sent unchanged or not at all: one that can't be sent verbatim is not a prompt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stillhouse.gen.source.formats.row import OddNumber
from stillhouse.schemas.json_schema import MAX_DEPTH, is_deeper
from stillhouse.schemas.prompt import ROLES, Message
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import ToolCall, ToolMessage, paired, tool_call


class NoPrompt(Exception):
    """Why a row doesn't make a prompt, without repeating its content."""


def text(value: Any, what: str) -> str:
    """The value if it is text that can be written as UTF-8; `what` names it in the reason.

    Raises:
        NoPrompt: it is not.
    """
    if type(value) is not str:
        raise NoPrompt(f"{what}: expected text, got {kind_of(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NoPrompt(f"{what}: a lone surrogate at character {error.start}") from error
    return value


def kind_of(value: Any) -> str:
    """The value's type, in a user's terms."""
    if isinstance(value, OddNumber):
        return "a number that is out of range"
    return "null" if value is None else type(value).__name__


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's prompt, and the assistant's answer in the source."""

    messages: tuple[Message, ...]
    """Messages up to the last one of the user or a tool."""
    answer: str | None
    """Text of the assistant's turns after them; None if there are none, or none with text."""
    images: int = 0
    """Image parts at the start of the first user message: content parts of {type: image}, which contain no image."""


def conversation(
    value: Any,
    what: str,
    *,
    drop_answer: bool = False,
    has_images: bool = False,
    tools: Sequence[Tool] | None = None,
) -> Conversation:
    """The conversation in a list of messages, in a struct of lists, or in the JSON text of either.

    A message is {role, content}, or {from, value} as in ShareGPT. Keys with a null value count as absent: a Parquet
    column gives every message the keys of all. Text parts of a content are joined. `drop_answer`: leave out the
    assistant's turns at the end, instead of making the row bad. `has_images`: image parts may mark where the row's
    images are sent. `tools`: the tools that the row offers. With a list, even an empty one, messages may call tools and
    contain results; with None they may not.

    Raises:
        NoPrompt: it is none, holds more than roles and texts, or ends with what needs no answer.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            raise NoPrompt(f"{what}: expected a list of messages, or JSON of one: {error}") from error
    if isinstance(value, dict) and value and all(isinstance(each, list) for each in value.values()):
        value = _rows_of(value, what)
    if not isinstance(value, list):
        raise NoPrompt(f"{what}: expected a list of messages, got {kind_of(value)}")
    if not value:
        raise NoPrompt(f"{what}: the conversation has no messages")
    end = len(value)
    while drop_answer and end and isinstance(value[end - 1], dict) and _role(value[end - 1]) == "assistant":
        end -= 1
    if not end:
        raise NoPrompt(f"{what}: the conversation has only messages of the assistant")
    asked, images = _without_image_parts(value[:end], what) if has_images else (value[:end], 0)
    read = _message if tools is None else _message_or_tool_message
    messages = tuple(read(item, f"{what}, message {number}") for number, item in enumerate(asked, 1))
    role, content = messages[-1][:2]
    if role not in ("user", "tool"):
        advice = ": set source.answer to drop to have it answered again" if role == "assistant" else ""
        raise NoPrompt(f"{what}: expected a last message of the user or a tool, got one of role {role}{advice}")
    if tools is not None:
        _check_tool_messages(messages, tools, what)
    if (not content or content.isspace()) and not isinstance(messages[-1], ToolMessage):  # a tool may return nothing
        raise NoPrompt(f"{what}: empty prompt")
    return Conversation(messages, _answer(value[end:], what), images)


def _rows_of(lists: dict[str, list[Any]], what: str) -> list[dict[str, Any]]:
    """Convert a struct of lists, which columnar tools produce, back to a list of structs."""
    lengths = {name: len(each) for name, each in lists.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{length} of {name!r}" for name, length in list(lengths.items())[:5])
        raise NoPrompt(f"{what}: expected lists of equal length, one item per message, got {sizes}")
    return [dict(zip(lists, each, strict=True)) for each in zip(*lists.values(), strict=True)]


def _answer(turns: list[dict[str, Any]], what: str) -> str | None:
    contents = [_given(turn, "content", "value") for turn in turns]
    texts = [
        "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
        if isinstance(content, list)
        else text(content, what)
        for content in contents
        if content is not None
    ]
    return "\n\n".join(texts) if texts else None


def json_text(value: Any, what: str) -> str:
    """The value's JSON, on one line.

    Raises:
        NoPrompt: JSON has no such value.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise NoPrompt(f"{what}: expected text or a JSON value, got {kind_of(value)}: {error}") from error


def _message(item: Any, what: str) -> Message:
    if not isinstance(item, dict):
        raise NoPrompt(f"{what}: expected an object with role and content, got {kind_of(item)}")
    role, content = _role(item), _given(item, "content", "value")
    if type(role) is not str or role not in ROLES:
        role = item.get("role", item.get("from"))
        got = repr(role[:40]) if isinstance(role, str) else kind_of(role)
        raise NoPrompt(f"{what}: expected a role of {', '.join(sorted(ROLES))}, got {got}")
    if len(item) > 2 and (more := [key for key, extra in item.items() if _says_more(key, extra, item)]):
        raise NoPrompt(f"{what}: expected only role and content, got {', '.join(map(repr, more[:5]))} too")
    if isinstance(content, list):
        return role, "".join(_part(part, what) for part in content)
    return role, text(content, what)


def _message_or_tool_message(item: Any, what: str) -> Message:
    """A message, which may call tools or be the result of a call."""
    role = _role(item) if isinstance(item, dict) else None
    if role == "assistant" and item.get("tool_calls"):
        given = item["tool_calls"]
        calls = [_call(each) for each in given] if isinstance(given, list) else [None]
        if (bad := next((n for n, call in enumerate(calls, 1) if call is None), None)) is not None:
            raise NoPrompt(
                f"{what}, call {bad}: expected {{function: {{name, arguments}}}} with a JSON object as arguments"
            )
        rest = {key: value for key, value in item.items() if key != "tool_calls"}
        if _given(rest, "content", "value") is None:
            rest["content"] = ""
        return ToolMessage(*_message(rest, what)[:2], calls=tuple(call for call in calls if call is not None))
    if role == "tool":
        call_id, name = item.get("tool_call_id"), item.get("name")
        rest = {key: value for key, value in item.items() if key not in ("tool_call_id", "name", "tool_calls")}
        if item.get("tool_calls"):
            raise NoPrompt(f"{what}: a tool's result calls tools, which only the assistant does")
        call_id, name = (None if each is None else text(each, what) for each in (call_id, name))
        return ToolMessage(*_message(rest, what)[:2], call_id=call_id, name=name)
    if isinstance(item, dict) and item.get("tool_calls") == []:
        item = {key: value for key, value in item.items() if key != "tool_calls"}
    return _message(item, what)


def _call(given: Any) -> ToolCall | None:
    """A call. Null arguments in an object are left out: a Parquet column gives every call the arguments of all."""
    given = without_nulls(given)
    if isinstance(given, dict) and isinstance(function := given.get("function"), dict):
        given["function"] = function = without_nulls(function)
        if "arguments" in function:
            function["arguments"] = without_nulls(function["arguments"])
    try:
        call = tool_call(given)
        if call is not None:
            text(call.name + call.arguments, "a call")
            if is_deeper(orjson.loads(call.arguments), MAX_DEPTH):
                return None
    except (ValueError, RecursionError, NoPrompt):
        return None
    return call


def without_nulls(value: Any) -> Any:
    """An object without its keys that are null; anything else as it is."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


def _check_tool_messages(messages: Sequence[Message], tools: Sequence[Tool], what: str) -> None:
    """Refuse calls and results that do not belong together, or that no tool of the row explains."""
    if not any(isinstance(message, ToolMessage) for message in messages):
        return
    if not tools:
        raise NoPrompt(f"{what}: the conversation calls tools, and its row offers none")
    try:
        paired(messages)
    except ValueError as error:
        raise NoPrompt(f"{what}, {error}") from None


def _role(item: dict[str, Any]) -> Any:
    role = _given(item, "role", "from")
    if type(role) is not str or role in ROLES:
        return role
    return _ROLES_ELSEWHERE.get(role.lower(), role.lower())


def _given(item: dict[str, Any], name: str, name_elsewhere: str) -> Any:
    value = item.get(name)
    return item.get(name_elsewhere) if value is None else value


def _says_more(key: str, value: Any, item: dict[str, Any]) -> bool:
    """True if a message has content besides role and content that would be lost.

    A number or boolean only marks the message for a trainer (`weight`, `train`); empty text is not content.
    """
    if value is None or isinstance(value, (int, float)) or value == "":
        return False
    if key in ("from", "value"):
        return item.get("role" if key == "from" else "content") is not None
    return key not in _KEYS


_KEYS = frozenset(
    (
        *("role", "content", "id", "message_id", "uuid", "parent_id", "turn_id", "turn_identifier", "state", "model"),
        *("timestamp", "date", "created_at", "language", "lang", "country", "hashed_ip", "header", "metadata"),
    )
)
"""Role, content, and keys that only describe a message in chat logs."""

_ROLES_ELSEWHERE = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "bing", "bard", "model", "ai"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool_response"), "tool"),
}
"""Names of the roles in ShareGPT and similar formats."""


def _part(part: Any, what: str) -> str:
    given = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    if given.keys() != {"type", "text"} or given["type"] != "text":
        kind = given.get("type")
        got = f"one of type {kind[:40]!r}" if isinstance(kind, str) and kind != "text" else "another"
        raise NoPrompt(f"{what}: text only: expected content parts of {{type: text, text}}, got {got}")
    return text(given["text"], what)


def _without_image_parts(items: list[Any], what: str) -> tuple[list[Any], int]:
    """The messages without their image parts, and the number of those.

    Raises:
        NoPrompt: one is not at the start of the first user message, where images are sent.
    """
    contents = [_parts_of(item) for item in items]
    first = next((n for n, item in enumerate(items) if isinstance(item, dict) and _role(item) == "user"), -1)
    count = 0
    for number, content in enumerate(contents):
        places = [n for n, part in enumerate(content) if _is_image_part(part)]
        if places and (number != first or places != list(range(len(places)))):
            raise NoPrompt(
                f"{what}, message {number + 1}: images are sent at the start of the first user message, and an "
                "image part is elsewhere: move it there"
            )
        count += len(places)
    if not count:
        return items, 0
    return [*items[:first], {**items[first], "content": contents[first][count:]}, *items[first + 1 :]], count


def _parts_of(item: Any) -> list[Any]:
    """Parts of a message's content, if it has parts."""
    content = _given(item, "content", "value") if isinstance(item, dict) else None
    return content if isinstance(content, list) else []


def _is_image_part(part: Any) -> bool:
    return isinstance(part, dict) and {key: value for key, value in part.items() if value is not None} == {
        "type": "image"
    }
