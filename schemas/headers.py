"""Headers and query parameters that a recipe adds to a teacher's requests, and references to secrets in them."""

import re
from typing import Annotated

from pydantic import AfterValidator

from stillhouse.schemas.secret_patterns import is_secret_header

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]{1,8000}")
_OURS = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "transfer-encoding", "accept-encoding"}
    | {"connection", "upgrade", "te", "expect", "trailer"}
)


def is_reference(value: str) -> bool:
    """True if the text refers to a secret: `env:NAME` or `file:/path`."""
    return _REFERENCE.fullmatch(value) is not None


def _checked(values: dict[str, str], kind: str) -> dict[str, str]:
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected {kind} named with letters, digits and dashes, got a name with other characters")
        if is_secret_header(name) and not is_reference(value):
            # The value may be a key, so the message does not repeat it.
            raise ValueError(
                f"{name}: expected a reference, `env:NAME` or `file:/absolute/path`, never the secret itself; "
                "put it into an environment variable or a file on the nodes"
            )
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{name}: expected a value of printable ASCII characters, got other or none")
    return values


def _headers(values: dict[str, str]) -> dict[str, str]:
    names = [name.lower() for name in values]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: given twice; the case of a header's name does not matter")
    if taken := _OURS.intersection(names):
        raise ValueError(f"{', '.join(sorted(taken))}: set by Stillhouse itself; leave it out of `headers`")
    return _checked(values, "headers")


def _query(values: dict[str, str]) -> dict[str, str]:
    return _checked(values, "query parameters")


Headers = Annotated[dict[str, str], AfterValidator(_headers)]
Query = Annotated[dict[str, str], AfterValidator(_query)]
