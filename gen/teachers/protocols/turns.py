"""A prompt's messages for APIs that take the system prompt apart and want the roles of turns to alternate."""

import re
from collections.abc import Sequence
from itertools import groupby

from stillhouse.schemas.prompt import Message
from stillhouse.schemas.recipe import Ask

_SYSTEM = ("system", "developer")
_JINJA = re.compile(r"\{[{%#]")


def shared_system(ask: Ask) -> str | None:
    """The system prompt that every row has, if the recipe gives one that is not a template."""
    return None if ask.system is None or _JINJA.search(ask.system) else ask.system


def system_and_turns(messages: Sequence[Message]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(texts of the system messages at the head, turns as (role, texts)); neighbours of one role are one turn."""
    head = 0
    while head < len(messages) and messages[head][0] in _SYSTEM:
        head += 1
    turns = [
        (role, [content for _, content in same]) for role, same in groupby(messages[head:], key=lambda each: each[0])
    ]
    return [content for _, content in messages[:head]], turns
