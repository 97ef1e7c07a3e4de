"""Tokens of Google Cloud for Vertex, by google-auth: from a file of credentials, or from the machine's identity.

google-auth blocks, and calls its token server over the network: run `fetch` in a thread.
"""

import importlib.util
import json
import threading
import time
from typing import Any, NamedTuple

from stillhouse.gen.errors import UsageError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LIFE_S = 3600.0
"""Lifetime assumed for a token that does not state its own."""
_SECRETS = ("private_key", "client_secret", "refresh_token")


class TokenAway(Exception):
    """The token server can't be reached now."""


class Token(NamedTuple):
    """A token and its expiry, in UTC seconds since 1970."""

    text: str
    ends_at: float

    def __repr__(self) -> str:
        return f"Token(ends_at={self.ends_at})"


def secrets_in(source: str) -> tuple[str, ...]:
    """Fields of a file of credentials that must never be shown."""
    try:
        document = json.loads(source)
    except ValueError:
        return ()
    found = document if isinstance(document, dict) else {}
    return tuple(value for name in _SECRETS if isinstance(value := found.get(name), str) and value)


def require_google_auth(field: str) -> None:
    """Check that google-auth is installed, without the second that importing it takes.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.auth") is None:
        raise UsageError(f"{field}: Vertex needs google-auth on every node: pip install 'stillhouse[vertex]'")


class GoogleTokens:
    """Fetches the tokens of one teacher."""

    def __init__(self, source: str, *, field: str) -> None:
        """`source`: the text of a file of credentials; empty: the machine's own. `field`: the recipe's field."""
        self._source = source
        self._field = field
        self._credentials: Any = None
        self._turn = threading.Lock()

    def fetch(self) -> Token:
        """A new token.

        Raises:
            UsageError: there are no credentials here, or Google refuses them.
            TokenAway: the token server does not answer.
        """
        require_google_auth(self._field)
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        with self._turn:
            try:
                if self._credentials is None:
                    self._credentials = self._load()
                self._credentials.refresh(Request())
            except exceptions.TransportError as error:
                raise TokenAway(f"{type(error).__name__}: {error}") from None
            except exceptions.RefreshError as error:
                if error.retryable:
                    raise TokenAway(f"{type(error).__name__}: {error}") from None
                raise UsageError(f"{self._field}: Google refuses the credentials: {error}") from None
            except (exceptions.GoogleAuthError, ValueError) as error:
                raise UsageError(
                    f"{self._field}: no usable Google Cloud credentials here ({error}); give "
                    "`api_key: file:/path/of/a/service-account.json`, or GOOGLE_APPLICATION_CREDENTIALS on every node"
                ) from None
            ends = self._credentials.expiry  # naive, in UTC
            ends_at = time.time() + _LIFE_S if ends is None else _utc(ends)
            return Token(str(self._credentials.token), ends_at)

    def _load(self) -> Any:
        import google.auth
        from google.oauth2 import credentials, service_account

        if not self._source:
            return google.auth.default(scopes=[SCOPE])[0]
        info = json.loads(self._source)
        match info.get("type"):
            case "service_account":
                return service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
            case "authorized_user":
                return credentials.Credentials.from_authorized_user_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
            case kind:
                raise ValueError(f"expected a file of a service_account or an authorized_user, got {str(kind)[:40]}")


def _utc(moment: Any) -> float:
    from datetime import UTC

    return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
