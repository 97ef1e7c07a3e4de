"""Access to a cluster's dashboard: its token, and the headers that a gateway in front of it requires.

No message repeats the value of a token or a header.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stillhouse.cluster.tokens import HEADER_VALUE, Token, named_token, no_token, refused_token
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert

HEADERS = "RAY_JOB_HEADERS"
_TOKEN_MISSING = "Missing authentication token"  # noqa: S105 - Ray's words with a 401 (2.54 to 2.60)
_TOKEN_INVALID = "Invalid authentication token"  # noqa: S105 - and with a 403
_EXAMPLE = '{"Authorization": "Bearer …"}'
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2
_TITLE = re.compile(r"<title[^>]*>(.{1,80}?)</title", re.ASCII | re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Access:
    """The credentials that every request to a dashboard carries."""

    gateway: Mapping[str, str] = field(repr=False)
    """The headers of RAY_JOB_HEADERS."""
    token: Token | None

    @property
    def headers(self) -> dict[str, str]:
        """The headers as they are sent. If the gateway uses Authorization itself, Ray has a second header for its
        token.
        """
        if self.token is None:
            return dict(self.gateway)
        name = "X-Ray-Authorization" if self._authorised else "Authorization"
        return {**self.gateway, name: f"Bearer {self.token.value}"}

    @property
    def _authorised(self) -> bool:
        return any(name.lower() == "authorization" for name in self.gateway)

    def refused(self, address: str, reply: str) -> UsageError:
        """The error for a 401 or 403 with this body."""
        if _TOKEN_MISSING in reply:
            return no_token(address)
        if _TOKEN_INVALID in reply:
            if self.token is None or self._authorised:
                return refused_token(address, f"the Authorization in {HEADERS}")
            return refused_token(address, self.token.origin)
        return self.stopped(address, f"refuses access ({_said(reply)}), and not in Ray's words")

    def stopped(self, address: str, what: str) -> UsageError:
        """The error for a reply that comes from something in front of the dashboard."""
        sent = f"the contents of {HEADERS} were not sufficient" if self.gateway else f"{HEADERS} is not set"
        return UsageError(
            f"{address} {what}, as a login in front of the dashboard does; set {HEADERS} to the headers that let "
            f"requests through, such as {_EXAMPLE} ({sent}), or give the dashboard's own address"
        )

    def check(self, address: str, *, status: int, headers: Mapping[str, str], body: str) -> None:
        """Recognise a login page that comes in place of the dashboard's reply.

        Raises:
            UsageError: it is a login page.
        """
        if 300 <= status < 400:
            target = inert(headers.get("Location", "").partition("?")[0])[:200]
            raise self.stopped(address, f"redirects (HTTP {status}) to {target or 'another address'}")
        if _is_page(headers, body):
            raise self.stopped(address, f"answers with a web page (HTTP {status}, {_said(body)})")


def _is_page(headers: Mapping[str, str], body: str) -> bool:
    kind = headers.get("Content-Type", "")
    return kind.startswith("text/html") or body.lstrip()[:14].lower().startswith(("<!doctype html", "<html"))


def _said(body: str) -> str:
    """The title of a page, or the start of a plain text."""
    if found := _TITLE.search(body):
        return repr(inert(" ".join(found[1].split())))
    return "no title" if "<" in body else repr(inert(" ".join(body.split())[:80]))


def access() -> Access:
    """The credentials in the environment.

    Raises:
        UsageError: they can't be read, or can't be sent.
    """
    return Access(_gateway_headers(), named_token())


def _gateway_headers() -> dict[str, str]:
    """The headers in RAY_JOB_HEADERS, as `ray job submit` reads it."""
    text = os.environ.get(HEADERS, "")
    if not text.strip():
        return {}
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise UsageError(f"{HEADERS}: expected a JSON object of headers, such as {_EXAMPLE}; got something else")
    for name, value in given.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or not HEADER_VALUE.fullmatch(value):
            raise UsageError(
                f"{HEADERS}: expected a name and one line of text for each header, such as {_EXAMPLE}; the header "
                f"{inert(name[:80])!r} is not valid"
            )
    return given
