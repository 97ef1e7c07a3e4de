"""Keys are held as references and resolved here, in the process that sends; nothing else ever sees them."""

import base64
import functools
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.gen.errors import UsageError
from stillhouse.schemas.recipe import Recipe

_SECRET = re.compile(r"\b(sk-|AKIA|AIza|ghp_|hf_)[A-Za-z0-9_\-*.]{6,}|Bearer\s+\S+", re.ASCII)

_LEAST_SECRET = 16
"""Characters from which on a key, or a part of one, is no word."""

_REST = r"[A-Za-z0-9_\-*.…]{0,200}"
"""Of a key cut short, or with its middle blotted out."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request is authorised with, as resolved in the process that sends it."""

    key: str | None = field(default=None, repr=False)


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


def resolve_all(recipe: Recipe) -> None:
    """Check that every teacher's key is there.

    Raises:
        UsageError: one is not; see `resolve`.
    """
    for teacher in recipe.teachers:
        resolve(teacher.api_key, teacher=teacher.name)


def without_keys(body: bytes, *, keys: tuple[str | None, ...]) -> bytes:
    """An answer's body without the keys, all else as it came.

    Only whole keys of some length: an answer is data, in which a short word such as `EMPTY`, the key of many a server
    that wants none, means itself.
    """
    for key in keys:
        if key and len(key) >= _LEAST_SECRET:
            if key.encode() in body:
                body = body.replace(key.encode(), b"[key]")
            if b"\\" in body:
                body = _escaped(key).sub(b"[key]", body)
    return body


@functools.cache
def _escaped(key: str) -> re.Pattern[bytes]:
    """The key in JSON, each of its characters as it is or escaped."""
    forms = (rf"(?:\\?{re.escape(char)}|\\u(?i:{ord(char):04x}))" for char in key)
    return re.compile("".join(forms).encode())


def redacted(text: str, *, keys: tuple[str | None, ...] = ()) -> str:
    """The text without the keys, the parts of them that providers echo, and whatever looks like a key."""
    for key in keys:
        if key:
            text = _forms(key).sub("[key]", text)
    return _SECRET.sub("[key]", text)


@functools.cache
def _forms(key: str) -> re.Pattern[str]:
    """The key as it is, in a URL, in base64; and its head or end, with whatever stands in for the rest of it."""
    whole = {key, urllib.parse.quote(key, safe=""), base64.b64encode(key.encode()).decode()}
    forms = [re.escape(form) for form in sorted(whole, key=len, reverse=True)]
    if len(key) >= _LEAST_SECRET:
        forms += [re.escape(key[:8]) + _REST, _REST + re.escape(key[-8:])]
    return re.compile("|".join(forms))
