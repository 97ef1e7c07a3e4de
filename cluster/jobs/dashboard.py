"""The HTTP client of a cluster's dashboard: Ray's own, with timeouts and one-line errors."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from stillhouse.cluster.jobs.access import HEADERS, Access, access
from stillhouse.cluster.jobs.job_client import JobClient
from stillhouse.cluster.tokens import TOKEN, NoToken, kept_token, no_token
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = {"GET": 15, "POST": 60, "PUT": 120}
"""Reply timeout per method: a GET reads what is known, a PUT uploads a package."""
POLL_S = 0.5


def _broke_off(error: BaseException) -> bool:
    """True if the server took the request and closed the connection before its reply, as a busy dashboard does."""
    return isinstance(error, OSError) and "Connection aborted" in str(error)


class DashboardClient(JobClient):
    """Ray's client waits for ever for a host that does not answer, never retries, and follows redirects; this one does
    not.

    Following a redirect would take a gateway's login page for the dashboard, and send our headers to another host.
    """

    def __init__(self, address: str, opens: Access) -> None:
        self._opens = opens
        with _without_settings():
            try:
                super().__init__(address, headers=opens.headers)
            except AuthenticationError:  # RAY_AUTH_MODE=token without a token anywhere: nothing was sent
                raise no_token(address) from None

    @retry(retry=retry_if_exception(_broke_off), stop=stop_after_attempt(3), wait=wait_fixed(POLL_S), reraise=True)
    def send(self, method: str, endpoint: str, **options: Any) -> Any:
        """Send one request, and again if the dashboard closed the connection before its reply."""
        limits = {"timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S.get(method, 60)), "allow_redirects": False}
        address = self.get_address()
        try:
            reply = self.exchange(method, endpoint, headers=self._opens.headers, **limits, **options)
        except AuthenticationError as error:
            body = str(error).partition(": ")[2].rpartition("\n\n")[0]  # the server's text is surrounded by Ray's own
            raise self._opens.refused(address, body) from None
        self._opens.check(address, status=reply.status_code, headers=reply.headers, body=reply.text)
        return reply


def connected(address: str) -> DashboardClient:
    """A client for the dashboard at the address, with checked access."""
    opens = access()
    try:
        return DashboardClient(address, opens)
    except NoToken:
        if (kept := kept_token()) is None:
            raise
        return DashboardClient(address, replace(opens, token=kept))


_SYSTEM = re.compile(r"\[Errno -?\d+\] [\w' -]+|Read timed out|timed out", re.ASCII)


@contextmanager
def _without_settings() -> Iterator[None]:
    """Ray's own setting would take precedence over the address that it is given."""
    before = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def checked(address: str) -> str:
    """The address without a trailing slash; raises UsageError unless it is an http address without credentials."""
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"expected the http address of the cluster's dashboard, such as http://head:8265, got {address!r}"
        )
    if parts.username or parts.password:
        raise UsageError(
            f"expected an address without credentials; put Ray's token into {TOKEN}, and a gateway's into {HEADERS}"
        )
    return address.rstrip("/")


def first_line(error: BaseException) -> str:
    """The useful part of an error: the system's message in those of `requests`, the last line of a traceback."""
    text = str(error).strip()
    if found := _SYSTEM.search(text):
        return found[0]
    first, *more = text.splitlines() or [type(error).__name__]
    if "Traceback" in first and more:
        first = f"{first.partition('Traceback')[0]}{more[-1]}"
    return inert(first[:300])
