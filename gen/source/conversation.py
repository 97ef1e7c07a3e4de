"""A conversation is asked as it is or not at all: what can't be sent word for word is no prompt."""

import json
from typing import Any

import orjson

from stillhouse.schemas.prompt import ROLES, Message


class NoPrompt(Exception):
    """Why a row is no prompt, in words that do not repeat its content."""


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
    """The value's kind, as a user calls it."""
    return "null" if value is None else type(value).__name__


def conversation(value: Any, what: str) -> tuple[Message, ...]:
    """The messages of a list of {role, content}, or of the JSON text of one.

    Keys whose value is null count as absent: a Parquet column gives every message the keys of all. A content of text
    parts is their texts, one after the other.

    Raises:
        NoPrompt: it is none, holds more than roles and texts, or ends with what needs no answer.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            raise NoPrompt(f"{what}: expected a list of messages, or JSON of one: {error}") from error
    if not isinstance(value, list):
        raise NoPrompt(f"{what}: expected a list of messages, got {kind_of(value)}")
    if not value:
        raise NoPrompt(f"{what}: the conversation has no messages")
    messages = tuple(_message(item, f"{what}, message {number}") for number, item in enumerate(value, 1))
    role, content = messages[-1]
    if role not in ("user", "tool"):
        raise NoPrompt(f"{what}: expected a last message of the user or a tool, got one of role {role}")
    if not content or content.isspace():
        raise NoPrompt(f"{what}: empty prompt")
    return messages


def json_text(value: Any, what: str) -> str:
    """The value's JSON, on one line.

    Raises:
        NoPrompt: JSON has no such value.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise NoPrompt(f"{what}: expected text or what JSON can say, got {kind_of(value)}: {error}") from error


def _message(item: Any, what: str) -> Message:
    if not isinstance(item, dict):
        raise NoPrompt(f"{what}: expected an object with role and content, got {kind_of(item)}")
    role, content = item.get("role"), item.get("content")
    if type(role) is not str or role not in ROLES:
        got = repr(role[:40]) if isinstance(role, str) else kind_of(role)
        raise NoPrompt(f"{what}: expected a role of {', '.join(sorted(ROLES))}, got {got}")
    if len(item) > 2 and (more := [key for key, extra in item.items() if extra is not None and key not in _KEYS]):
        raise NoPrompt(f"{what}: only role and content can be asked, got {', '.join(map(repr, more[:5]))} too")
    if isinstance(content, list):
        return role, "".join(_part(part, what) for part in content)
    return role, text(content, what)


_KEYS = frozenset(("role", "content"))


def _part(part: Any, what: str) -> str:
    given = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    if given.keys() != {"type", "text"} or given["type"] != "text":
        kind = given.get("type")
        got = f"one of type {kind[:40]!r}" if isinstance(kind, str) and kind != "text" else "another"
        raise NoPrompt(f"{what}: text only: expected content parts of {{type: text, text}}, got {got}")
    return text(given["text"], what)
