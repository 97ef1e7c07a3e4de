"""What passes between us and a teacher's endpoint: a request's bytes, and what comes of it. `http.py` sends it.

A reply is bytes with a status; whatever else can happen is either `NotSent` (the request did not leave) or `Lost` (the
teacher may have worked, and billed).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class NotSent(Exception):
    """No connection: the request was not sent. `certificate`: the other side's TLS certificate is not valid."""

    def __init__(self, message: str, *, certificate: bool = False) -> None:
        super().__init__(message)
        self.certificate = certificate


class Lost(Exception):
    """The request was sent, perhaps in part, and no whole reply came."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Transport(Protocol):
    """What sends a body to an endpoint and returns its reply."""

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """Send one request; see `HttpTransport.post`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
