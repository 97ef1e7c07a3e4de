"""A cluster's token: where to find it, and the messages for a missing or wrong one.

A token that the environment names was put there on purpose. Ray creates the token in the user's home by itself (a local
run's Ray does so too), so we use that one only for clusters that require a token. No message repeats a token.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.gen.errors import UsageError

TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the variable's name
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
KEPT = "~/.ray/auth_token"
MODE = "RAY_AUTH_MODE"
HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?")
"""Characters that an HTTP header can carry: RFC 9110, 5.5."""


class NoToken(UsageError):
    """The cluster requires a token, and none was sent."""


@dataclass(frozen=True, slots=True)
class Token:
    """A cluster's token and where it was found."""

    value: str = field(repr=False)
    origin: str


def named_token() -> Token | None:
    """The token that the environment names, if any; None if RAY_AUTH_MODE rules tokens out.

    Raises:
        UsageError: it can't be read, or can't be sent.
    """
    if _mode() == "disabled":
        return None
    if value := os.environ.get(TOKEN, "").strip():
        return _token(value, TOKEN)
    if path := os.environ.get(TOKEN_PATH, ""):
        return _read_token(Path(path), f"{TOKEN_PATH}={path}")
    return kept_token() if _mode() == "token" else None


def kept_token() -> Token | None:
    """The token that Ray keeps for this user, if any; None if RAY_AUTH_MODE rules tokens out.

    Raises:
        UsageError: it can't be read, or can't be sent.
    """
    path = Path(os.path.expanduser(KEPT))  # noqa: PTH111 - pathlib's raises where there is no home
    if _mode() == "disabled" or not path.is_file():
        return None
    return _read_token(path, KEPT)


def no_token(address: str) -> NoToken:
    """The message for a cluster that requires a token."""
    return NoToken(
        f"no token given: {address} requires one; expected it in {TOKEN}, in the file that {TOKEN_PATH} names, or "
        f"in {KEPT}; on the head, `ray get-auth-token` prints it"
    )


def refused_token(address: str, origin: str) -> UsageError:
    """The message for a cluster that has another token."""
    return UsageError(
        f"token refused: {address} does not accept {origin}; on the head, `ray get-auth-token` prints the cluster's "
        f"token; put it into {TOKEN}"
    )


def _mode() -> str:
    return os.environ.get(MODE, "").lower()


def _read_token(path: Path, origin: str) -> Token | None:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a text"
        raise UsageError(f"{origin}: expected a file that holds the cluster's token ({why})") from None
    return _token(value, origin) if value else None


def _token(value: str, origin: str) -> Token:
    if not HEADER_VALUE.fullmatch(value):
        raise UsageError(f"{origin}: expected a token, which is one line of printable characters")
    return Token(value, origin)
