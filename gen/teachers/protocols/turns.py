"""A prompt's messages in the forms that APIs need: a separate system prompt, alternating turns, images first."""

import base64
import re
from collections.abc import Sequence
from itertools import groupby

from stillhouse.schemas.ask import Ask
from stillhouse.schemas.image import InlineImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.tool_call import ToolMessage

_SYSTEM = ("system", "developer")
_JINJA = re.compile(r"\{[{%#]")


def shared_system(ask: Ask) -> str | None:
    """The system prompt that every row has, if the recipe gives one that is not a template."""
    return None if ask.system is None or _JINJA.search(ask.system) else ask.system


def system_and_turns(messages: Sequence[Message]) -> tuple[list[str], list[tuple[str, list[Message]]]]:
    """(texts of the system messages at the start, turns as (role, messages)); consecutive messages of one role are one
    turn.

    Results of tools belong to the user.
    """
    head = 0
    while head < len(messages) and messages[head][0] in _SYSTEM:
        head += 1
    turns = [(role, list(same)) for role, same in groupby(messages[head:], key=_turn_role)]
    return [message[1] for message in messages[:head]], turns


def _turn_role(message: Message) -> str:
    return "user" if isinstance(message, ToolMessage) and message.role == "tool" else message[0]


def first_user(messages: Sequence[Message]) -> int:
    """Number of the first message of the user, where images are sent; there must be one."""
    return next(number for number, message in enumerate(messages) if message[0] == "user")


def first_turn(turns: Sequence[tuple[str, Sequence[Message]]]) -> int:
    """Number of the turn that begins with that message."""
    return next(number for number, (_, messages) in enumerate(turns) if messages[0][0] == "user")


def in_base64(image: InlineImage) -> str:
    """The image's bytes as base64."""
    return base64.b64encode(image.data).decode()


def data_url(image: InlineImage) -> str:
    """The image as a data: URL."""
    return f"data:{image.media_type};base64,{in_base64(image)}"
