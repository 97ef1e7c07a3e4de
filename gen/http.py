"""The one module that speaks HTTP: httpx's interface over aiohttp's connections.

A reply is bytes with a status; whatever else can happen is either `NotSent` (no byte of the request left) or `Lost`
(the teacher may have worked, and billed). Redirects are not followed: a 3xx is a reply. TLS is always verified.
"""

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

MAX_REPLY_BYTES = 64 * 2**20
"""The largest body that is read; more is `Lost`."""

CONNECT_TIMEOUT_S = 10.0


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


class HttpTransport:
    """Keeps connections to any number of hosts; one per event loop.

    The number of connections follows the caller's concurrency: there is no pool limit to queue behind, so no deadlock
    of slots and sockets. Requests go to httpx's transport without httpx.AsyncClient's layers (redirects, cookies,
    auth), which would cost as much again as the request itself.
    """

    def __init__(self) -> None:
        self._transport = AiohttpTransport(client=_session)

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """Send one POST and read its whole reply within `timeout_s` seconds in all.

        Raises:
            NotSent: no connection could be made.
            Lost: timed out, cut, too large or not decodable after it was sent.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(httpx.Request("POST", url, content=body, headers=headers))
        except TimeoutError:
            raise Lost(f"no whole reply within {timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _translated(error) from None
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise Lost(f"{type(error).__name__}: {error}") from None

    async def _exchange(self, request: httpx.Request) -> Reply:
        response = await self._transport.handle_async_request(request)
        try:
            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers.raw}
            encoded = headers.get("content-encoding", "identity") != "identity"
            parts: list[bytes] = []
            size = 0
            async for part in response.aiter_bytes() if encoded else response.stream:  # type: ignore[union-attr]
                parts.append(part)
                size += len(part)
                if size > MAX_REPLY_BYTES:
                    raise Lost(f"the reply is larger than {MAX_REPLY_BYTES >> 20} MiB")
            return Reply(response.status_code, headers, parts[0] if len(parts) == 1 else b"".join(parts))
        except httpx.DecodingError as error:
            raise Lost(f"the reply can't be decoded: {error}") from None
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=httpx.create_ssl_context())
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        trust_env=True,
        max_line_size=2**16,
        max_field_size=2**16,
    )


def _translated(error: httpx.TransportError) -> NotSent | Lost:
    """httpx-aiohttp names a cut connection ConnectTimeout, so what happened is read from aiohttp's own error."""
    cause = error.__cause__
    words = f"{type(cause or error).__name__}: {error}"
    if isinstance(cause, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)):
        return NotSent(words, certificate=True)
    if isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return NotSent(words)
    return Lost(words)
