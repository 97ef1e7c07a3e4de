"""A prompt's messages in the shapes that APIs want: the system prompt apart, turns that alternate, images in front."""

import base64
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from stillhouse.schemas.image import InlineImage
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


def first_user(messages: Sequence[tuple[str, Any]]) -> int:
    """Number of the first message or turn of the user, which is where images are sent; there has to be one."""
    return next(number for number, (role, _) in enumerate(messages) if role == "user")


def in_base64(image: InlineImage) -> str:
    """Its bytes as base64."""
    return base64.b64encode(image.data).decode()


def data_url(image: InlineImage) -> str:
    """It as a data: URL."""
    return f"data:{image.media_type};base64,{in_base64(image)}"
