"""A Prompt: one input, and the key that says when two are the same.

`prompt_key` hashes all that is sent for a row, system message and images included, and nothing else: not the id, nor
the kept columns.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from stillhouse.schemas.image import Image

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(get_args(Role))

Message: TypeAlias = tuple[str, str]
"""(role, content)."""

KEY_BYTES = 16
"""Length of a prompt key; its text form is 32 hex digits."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One input, as it is asked."""

    id: str
    """The user's id, or the key's hex digits."""
    key: bytes
    """16 bytes."""
    messages: tuple[Message, ...]
    kept: tuple[Any, ...]
    """The values of the recipe's `keep` columns, in their order."""
    references: tuple[str | tuple[str, ...] | None, ...] = ()
    """What the recipe's checks compare answers with, in the order of `schemas.checks.references_of`; None where a
    planned row has no such value, as in a dataset that was made without the check."""
    images: tuple[Image, ...] = ()
    """Those sent at the head of the first user message, in their order."""

    @property
    def chars(self) -> int:
        """Characters of all messages."""
        return sum([len(content) for _, content in self.messages])


def prompt_key(messages: tuple[Message, ...], images: Iterable[bytes] = ()) -> bytes:
    """The 16-byte BLAKE2b hash of the messages; lengths are hashed too, so that no two lists run together.

    `images`: the keys of the images, in their order.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"stillhouse-1")
    for role, content in messages:
        data = content.encode()
        digest.update(b"%s\0%d\0" % (role.encode(), len(data)))
        digest.update(data)
    for key in images:  # no message has this role
        digest.update(b"image\0%d\0" % len(key))
        digest.update(key)
    return digest.digest()
