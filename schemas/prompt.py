"""A Prompt: one input, and the key that says when two are equal.

`prompt_key` hashes everything that is sent for a row, including system message and images, and nothing else: neither
the id nor the kept columns.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from stillhouse.schemas.image import Image
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import Message, ToolMessage

__all__ = ["KEY_BYTES", "ROLES", "Message", "Prompt", "Role", "prompt_key", "scored_key"]

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(get_args(Role))

KEY_BYTES = 16
"""Length of a prompt key in bytes; its text form is 32 hex digits."""
_NOTHING_YET = hashlib.blake2b(digest_size=KEY_BYTES, person=b"stillhouse-1")
"""What every key's hash begins with; a copy takes a quarter of the time of a new one."""


@dataclass(slots=True)
class Prompt:
    """One input, as it is asked; never changed. It is not frozen, because that takes 2 µs more for every row."""

    id: str
    """The user's id, or the key's hex digits."""
    key: bytes
    """16 bytes."""
    messages: tuple[Message, ...]
    kept: tuple[Any, ...]
    """The values of the recipe's `keep` columns, in order."""
    references: tuple[str | tuple[str, ...] | None, ...] = ()
    """The values that the recipe's checks compare answers with, in the order of `schemas.checks.references_of`; None if
    a planned row has no such value, as in a dataset that was created without the check."""
    images: tuple[Image, ...] = ()
    """Images sent at the start of the first user message, in order."""
    tools: tuple[Tool, ...] | None = None
    """Tools that answers may call; None if neither `ask.tools` nor `source.tools` defines any."""
    scored: Scored | None = None
    """Under `ask.score`, the tokens to score; there are no messages then."""
    chars: int = field(init=False, repr=False, compare=False)
    """Characters of all messages and of the tools; four for each token to score."""

    def __post_init__(self) -> None:
        chars = 4 * len(self.scored) if self.scored is not None else sum([len(message[1]) for message in self.messages])
        for tool in self.tools or ():
            chars += len(tool.text)
        self.chars = chars  # counted once, for each request needs it


def prompt_key(messages: tuple[Message, ...], images: Iterable[bytes] = (), tools: Iterable[Tool] = ()) -> bytes:
    """The 16-byte BLAKE2b hash of the messages. Lengths are hashed too, so that two lists of parts never look the same.

    `images`: the keys of the images, in order. `tools`: only those of this row.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
    """
    digest = _NOTHING_YET.copy()
    for message in messages:
        data = message[1].encode()
        digest.update(b"%s\0%d\0" % (message[0].encode(), len(data)))
        digest.update(data)
        if isinstance(message, ToolMessage):
            _add(digest, b"calls", json.dumps(message[2:]).encode())
    for key in images:
        _add(digest, b"image", key)
    for tool in tools:
        _add(digest, b"offer", tool.text.encode())
    return digest.digest()


def scored_key(scored: Scored) -> bytes:
    """The 16-byte hash of both lists of ids, which never equals that of a conversation."""
    digest = _NOTHING_YET.copy()
    _add(digest, b"prompt_ids", scored.prompt)
    _add(digest, b"completion_ids", scored.completion)
    return digest.digest()


def _add(digest: "hashlib.blake2b", kind: bytes, data: bytes) -> None:
    """Hash a part that is not a message; no role has the name of such a kind."""
    digest.update(b"%s\0%d\0" % (kind, len(data)))
    digest.update(data)
