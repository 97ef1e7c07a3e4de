"""Keys are held as references and resolved here, in the process that sends; nothing else ever sees them."""

import os
import re
from pathlib import Path

from gen.errors import UsageError

_SECRET = re.compile(r"\b(sk-|AKIA|AIza|ghp_|hf_)[A-Za-z0-9_\-*.]{6,}|Bearer\s+\S+", re.ASCII)


def resolve(reference: str | None, *, teacher: str) -> str | None:
    """The key behind `env:NAME` or `file:/path`.

    Raises:
        UsageError: nothing is there on this node.
    """
    if reference is None:
        return None
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
        hint = f"set the environment variable {name} on every node that asks"
    else:
        try:
            value = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"teachers.{teacher}.api_key: {name} can't be read: {type(error).__name__}") from None
        hint = f"put the key into {name} on every node that asks"
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        raise UsageError(f"teachers.{teacher}.api_key: {reference} holds no usable key; {hint}")
    return value


def redacted(text: str, *, keys: tuple[str | None, ...] = ()) -> str:
    """The text without the keys, their ends that providers echo, and whatever looks like a key."""
    for key in keys:
        if key:
            text = text.replace(key, "[key]")
            if len(key) >= 16:
                text = text.replace(key[-8:], "[key]")
    return _SECRET.sub("[key]", text)
