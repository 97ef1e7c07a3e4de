"""The HTTP client of a cluster's dashboard: Ray's own, with time-outs, and errors in one line each."""

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
from stillhouse.cluster.ray_internals import JobClient
from stillhouse.cluster.tokens import TOKEN, NoToken, kept_token, no_token
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = {"GET": 15, "POST": 60, "PUT": 120}
"""By method, to wait for a reply: a GET asks for what is known, a PUT brings a package."""
POLL_S = 0.5


def _broke_off(error: BaseException) -> bool:
    """True if it took the request and closed the connection before its reply, as a busy dashboard does."""
    return isinstance(error, OSError) and "Connection aborted" in str(error)


class DashboardClient(JobClient):
    """Ray's client, which by itself waits for ever for a host that does not answer, asks once, and follows redirects.

    Following one would take a gateway's login page for the dashboard, and our headers to another host.
    """

    def __init__(self, address: str, opens: Access) -> None:
        self._opens = opens
        with _without_settings():
            try:
                super().__init__(address, headers=opens.headers)
            except AuthenticationError:  # RAY_AUTH_MODE=token, and no token anywhere: it sends nothing
                raise no_token(address) from None

    @retry(retry=retry_if_exception(_broke_off), stop=stop_after_attempt(3), wait=wait_fixed(POLL_S), reraise=True)
    def send(self, method: str, endpoint: str, **options: Any) -> Any:
        """One request, again where the dashboard closed the connection before its reply."""
        limits = {"timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S.get(method, 60)), "allow_redirects": False}
        address = self.get_address()
        try:
            reply = self.exchange(method, endpoint, headers=self._opens.headers, **limits, **options)
        except AuthenticationError as error:
            body = str(error).partition(": ")[2].rpartition("\n\n")[0]  # Ray's own words stand before and after it
            raise self._opens.refused(address, body) from None
        self._opens.check(address, status=reply.status_code, headers=reply.headers, body=reply.text)
        return reply


def connected(address: str) -> DashboardClient:
    """One that the dashboard at the address lets in."""
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
    """Ray's own would win over the address that it is given."""
    before = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def checked(address: str) -> str:
    """The address without a slash at its end; raises UsageError unless it is an http address without credentials."""
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
            f"expected an address without credentials; Ray's token goes into {TOKEN}, a gateway's into {HEADERS}"
        )
    return address.rstrip("/")


def first_line(error: BaseException) -> str:
    """What a user can use of an error: the system's words in those of `requests`, the last line of a traceback."""
    text = str(error).strip()
    if found := _SYSTEM.search(text):
        return found[0]
    first, *more = text.splitlines() or [type(error).__name__]
    if "Traceback" in first and more:
        first = f"{first.partition('Traceback')[0]}{more[-1]}"
    return inert(first[:300])
