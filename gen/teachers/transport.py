"""What passes between us and a teacher's endpoint: a request, and its result. `http.py` sends it.

A reply is bytes with a status; anything else is either `NotSent` (the request did not leave) or `Lost` (the teacher may
have worked, and billed).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from stillhouse.gen.limits.shares import Ceiling, Resource

STALL_TIMEOUT_S = 300.0
"""How long a stream that has begun may go without an event. Models that hide their reasoning are silent for minutes in
the middle of a stream, except for pings."""


Take: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes the next bytes of a body; no more are read until it has."""


class HttpRequest(NamedTuple):
    """One request, whole: nothing is added on the way. A named tuple, for one is made per attempt."""

    method: str
    url: str
    headers: Mapping[str, str]
    """Names in lower case. Requests that share headers share the object, which is converted for the wire once."""
    body: bytes = b""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """Seconds that a streamed reply may go without an event, from its first one on."""

    def __repr__(self) -> str:
        bare = self.url.partition("?")[0]
        return f"HttpRequest({self.method} {bare}, {len(self.body)} bytes)"  # headers and query hold keys


class NotSent(Exception):
    """No connection: the request was not sent. `certificate`: the other side's TLS certificate is not valid."""

    def __init__(self, message: str, *, certificate: bool = False) -> None:
        super().__init__(message)
        self.certificate = certificate


LATE = "no complete reply within timeout_s"
"""How the message of a `Lost` begins whose `deadline` is true; Failures keep it, which is how they are counted."""


class Lost(Exception):
    """The request was sent, perhaps in part, and no complete reply came. `deadline`: because it took too long."""

    def __init__(self, message: str, *, deadline: bool = False) -> None:
        super().__init__(message)
        self.deadline = deadline
        self.cut: Reply | None = None
        """The part of a streamed reply that had arrived: it may be billed."""


class Reply(NamedTuple):
    """A whole response. A named tuple, for three are made per answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    latency_s: float = 0.0
    """Seconds from the request's first byte to the reply's last."""
    ceilings: Mapping[Resource, Ceiling] = MappingProxyType({})
    """What is left of the account's limits, according to its headers."""


class Transport(Protocol):
    """Sends a request and returns its reply."""

    def prepare(self, urls: Iterable[str]) -> None:
        """Settle how to reach the hosts of these URLs; see `HttpTransport.prepare`."""
        ...

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """Send one request; see `HttpTransport.send`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class DownloadingTransport(Transport, Protocol):
    """A transport that can also read replies too large to be held in memory."""

    async def receive(self, request: HttpRequest, *, stall_timeout_s: float, take: Take) -> Reply:
        """Send one request and pass its body on as it arrives; see `HttpTransport.receive`."""
        ...
