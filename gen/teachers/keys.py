"""Keys are held as references and resolved here, in the process that sends; nothing else ever sees them."""

import base64
import functools
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys
from stillhouse.gen.teachers.google_tokens import require_google_auth, secrets_in
from stillhouse.gen.teachers.in_pieces import replaced, search
from stillhouse.gen.teachers.key_kinds import wrong_kind
from stillhouse.schemas.aws import Aws
from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.headers import is_reference
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.secret_patterns import without_likely_keys
from stillhouse.schemas.teacher import Teacher

_LEAST_SECRET = 16
"""From this length on, a key, or a part of one, is not an ordinary word."""

_CONTROLS = "bfnrtu"
"""After a backslash, these characters mean something else in JSON."""

_ESCAPE_BYTES = len(rb"\u0041")

_REST = r"[A-Za-z0-9_\-*.…]{0,200}"
"""For a key that is cut short, or whose middle is masked."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What authorises a request, as resolved in the process that sends it."""

    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The recipe's own headers, names in lower case, secrets filled in."""
    query: str = field(default="", repr=False)
    """The recipe's own query parameters, encoded."""
    google: str | None = field(default=None, repr=False)
    """For Vertex: what `key` is made from, see `GoogleTokens`; empty: the machine's own identity."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Everything that must never be shown: the key, and the secrets in headers and query."""
    aws: AwsChain | None = field(default=None, repr=False)
    """What signs requests, if there is no key."""


def credentials_of(teacher: Teacher) -> Credentials:
    """The teacher's key, headers and query, with their references resolved on this node.

    Raises:
        UsageError: a reference leads to nothing here, or to a key that the teacher's hosts can't accept.
    """
    field = f"teachers.{teacher.name}"
    secrets: list[str] = []

    def value(text: str, name: str) -> str:
        if not is_reference(text):
            return text
        secrets.append(resolve(text, field=f"{field}.{name}"))
        return secrets[-1]

    key = value(teacher.api_key, "api_key") if teacher.api_key else None
    google = None
    if (
        teacher.api in ("gemini", "anthropic")
        and any(map(is_vertex, teacher.urls))
        and (key is None or key.startswith("{"))
    ):
        require_google_auth(field)
        key, google, secrets = None, key or "", [*secrets_in(key or "")]
    elif key is not None and (why := wrong_kind(key, urls=teacher.urls)) is not None:
        raise UsageError(f"{field}.api_key: {teacher.api_key} {why}")
    headers = {name.lower(): value(text, f"headers.{name}") for name, text in teacher.headers.items()}
    query = {name: value(text, f"query.{name}") for name, text in teacher.query.items()}
    encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="")
    if teacher.api != "bedrock" or key is not None:
        return Credentials(key, headers, encoded, google, tuple(secrets))
    signing = _aws_of(teacher, field)
    if isinstance(signing, str):
        return Credentials(signing, headers, encoded, secrets=(*secrets, signing))
    hidden = tuple(filter(None, (signing.keys.secret_key, signing.keys.token)))
    return Credentials(None, headers, encoded, secrets=(*secrets, *hidden), aws=signing)


def _aws_of(teacher: Teacher, field: str) -> AwsChain | str:
    """AWS's keys, from the recipe or AWS's chain; or Bedrock's own key, which also has priority in boto3."""
    aws = teacher.aws or Aws()
    if aws.access_key_id and aws.secret_access_key:
        return AwsChain(
            AwsKeys(
                resolve(aws.access_key_id, field=f"{field}.aws.access_key_id"),
                resolve(aws.secret_access_key, field=f"{field}.aws.secret_access_key"),
                resolve(aws.session_token, field=f"{field}.aws.session_token") if aws.session_token else None,
            )
        )
    bearer = os.environ.get("AWS_BEARER_TOKEN_BEDROCK", "").strip()
    if bearer and not aws.signs:
        return bearer
    from stillhouse.gen.teachers.aws import chain

    return chain(aws.profile, field=field)


def resolve(reference: str, *, field: str) -> str:
    """The secret behind `env:NAME` or `file:/path`; `field`: the recipe's field, for messages.

    Raises:
        UsageError: nothing is there on this node.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
        hint = f"set the environment variable {name} on every node that sends requests"
    else:
        try:
            value = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{field}: {name} can't be read: {type(error).__name__}") from None
        hint = f"put the key into {name} on every node that sends requests"
    value = value.strip()
    if not value or not value.isascii() or not (value.isprintable() or value.startswith("{")):
        raise UsageError(f"{field}: {reference} holds no usable key; {hint}")
    return value


def has_secrets(teacher: Teacher) -> bool:
    """True if its requests carry something that can only be found on a node."""
    given = [*teacher.headers.values(), *teacher.query.values()]
    return teacher.api_key is not None or teacher.api == "bedrock" or any(map(is_reference, given))


def resolve_all(recipe: Recipe) -> None:
    """Check that every teacher's key and other secrets exist.

    Raises:
        UsageError: one does not; see `credentials_of`.
    """
    for teacher in recipe.teachers:
        credentials_of(teacher)


def without_keys(body: bytes, *, keys: tuple[str, ...]) -> bytes:
    """An answer's body without the keys, otherwise unchanged.

    Only whole keys of some length are removed: an answer is data, in which a short word such as `EMPTY`, the key of
    many servers that need none, means itself.
    """
    for key in keys:
        if len(key) >= _LEAST_SECRET:
            if key.encode() in body:
                body = body.replace(key.encode(), b"[key]")
            if b"\\" in body and search(_escapes(key), body) is not None:
                body = replaced(_escaped(key), b"[key]", body, longest=_ESCAPE_BYTES * len(key))
    return body


@functools.cache
def _escapes(key: str) -> re.Pattern[bytes]:
    """An escape of one of the key's characters: few bodies have any, and searching for them first is far faster."""
    codes = "|".join(f"{ord(char):04x}" for char in sorted(set(key)))
    as_it_is = "".join(re.escape(char) for char in sorted(set(key) - set(_CONTROLS)))
    return re.compile((rf"\\(?:[{as_it_is}]|u(?i:{codes}))" if as_it_is else rf"\\u(?i:{codes})").encode())


@functools.cache
def _escaped(key: str) -> re.Pattern[bytes]:
    """The key in JSON, each of its characters plain or escaped."""
    forms = (rf"(?:\\?{re.escape(char)}|\\u(?i:{ord(char):04x}))" for char in key)
    return re.compile("".join(forms).encode())


def redacted(text: str, *, keys: tuple[str, ...] = ()) -> str:
    """The text without the keys, the parts of them that providers echo, and anything that looks like a key."""
    for key in keys:
        text = _forms(key).sub("[key]", text)
    return without_likely_keys(text)


@functools.cache
def _forms(key: str) -> re.Pattern[str]:
    """The key as it is, in a URL, in base64; and its head or end, with whatever replaces the rest of it."""
    whole = {key, urllib.parse.quote(key, safe=""), base64.b64encode(key.encode()).decode()}
    forms = [re.escape(form) for form in sorted(whole, key=len, reverse=True)]
    if len(key) >= _LEAST_SECRET:
        forms += [re.escape(key[:8]) + _REST, _REST + re.escape(key[-8:])]
    return re.compile("|".join(forms))
