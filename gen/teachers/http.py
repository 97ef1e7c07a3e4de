"""Speaks HTTP to teachers: a `Transport` over aiohttp's connections, with httpx's TLS settings.

Redirects are not followed: a 3xx is a reply. TLS is always verified. Proxies and TLS are settled by `prepare`, before
the first request; after that every exception is NotSent or Lost.
"""

import asyncio
import errno
import functools
import io
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import httpx
from yarl import URL

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.deadlines import Deadlines
from stillhouse.gen.teachers.decoding import TooLarge, decoded, is_plain
from stillhouse.gen.teachers.http_post import MAX_LINE_BYTES, Posts, Response
from stillhouse.gen.teachers.http_stream import is_stream, streamed_body
from stillhouse.gen.teachers.proxies import proxy_for
from stillhouse.gen.teachers.transport import LATE, HttpRequest, Lost, NotSent, Reply, Take

MAX_REPLY_BYTES = 64 * 2**20
"""The largest body that is read; a larger one is `Lost`."""

LARGE_BYTES = 2**20
"""The size from which a request's body is written in pieces."""

LARGE_ENCODED_BYTES = 2**17
"""From this size on, an encoded body is decoded in a thread: it may become a thousand times as large."""

CONNECT_TIMEOUT_S = 10.0
"""For name lookup, connection and TLS together."""

KEEP_ALIVE_S = 4.0
"""Idle connections are closed before the server closes them, usually after 5 s (uvicorn, Node): a POST written while
the server closes is lost, and nobody can tell whether it was served."""

UNACKNOWLEDGED_S = 20
"""A connection with unacknowledged data for this long is closed. The kernel would retry for a quarter of an hour and
deliver a request long after its sample was asked elsewhere; with the 3 s for which a last retransmission waits for a
neighbour's address, this is less than a lease's 30 s, so that can't happen. An answer may take as long as it likes:
while we wait for it, only probes can be unacknowledged."""

PROBE_AFTER_S, PROBE_EVERY_S = 20, 5
"""TCP keep-alive probes while nothing else is sent; they also keep idle connections in routers' tables (NAT: 60 s)."""

CLOSES_WITHIN_S = 0.02
"""How long the first stream from a URL is watched to see whether the server closes the connection after it: the next
request on it could be lost."""

MOST_ROUTES = 1_000
"""URLs whose routes are remembered: a teacher has one per endpoint, but each batch is looked at under its own."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables httpx reads its certificates from, if set."""


class HttpTransport:
    """Keeps connections to any number of hosts; one per event loop.

    The number of connections follows the caller's concurrency: there is no pool limit to queue behind, so slots and
    sockets can't deadlock. httpx's own pool costs O(connections) per request, and its layers, even over aiohttp's pool,
    a tenth of a request's CPU. The environment's proxies are honoured and looked up once per host: aiohttp's
    `trust_env` would do so in a thread for every request, and take passwords from ~/.netrc.
    """

    def __init__(self, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._proxies: dict[str, str | None] = {}
        self._routes: dict[tuple[str, float], _Route] = {}
        """By URL and timeout."""
        self._tls: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None

    def prepare(self, urls: Iterable[str]) -> None:
        """Resolve how to reach the hosts of these URLs, so that problems surface before anything is asked.

        Raises:
            UsageError: the environment's proxy or certificates can't be used; names the variable.
        """
        for url in urls:
            self._proxies[_origin(url)] = proxy_for(url)
        self._tls = self._tls or _tls()

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """Send one request and read its whole reply within `timeout_s` seconds.

        A stream is read as it arrives and returned raw; a silence between its events may last at most the request's
        `stall_timeout_s`.

        Raises:
            NotSent: no connection could be made.
            Lost: timed out, stalled, cut or too large after it was sent; contains what had arrived of a stream.
            UsageError: see `prepare`, if it was not called for the host.
        """
        begun: list[_Stream] = []
        try:
            session, route = self._route(request.url, timeout_s)
            return await route.deadlines.limited(_exchange(session, route, request, begun))
        except Exception as error:  # noqa: BLE001 - any belongs to this request; none may end a worker
            late = f"{LATE} ({timeout_s:g} s); raise it"
            failure = _failure(error, request.url, late=late)
            if isinstance(failure, Lost):
                failure.cut = begun[0].so_far() if begun else None
            raise failure from None

    async def receive(self, request: HttpRequest, *, stall_timeout_s: float, take: Take) -> Reply:
        """Send one request and pass the body of a 2xx reply to `take` as it arrives, of any length.

        That reply is returned without its body, any other reply complete. `take` must not raise.

        Raises:
            NotSent: no connection could be made.
            Lost: it was cut, or nothing came for `stall_timeout_s` seconds; `take` may have received a part.
            UsageError: see `prepare`, if it was not called for the host.
        """
        try:
            session, route = self._route(request.url, stall_timeout_s)
            async with asyncio.timeout(stall_timeout_s) as stall:
                response = await _begin(session, route, request)
                try:
                    headers = _headers(response)
                    if not 200 <= response.status < 300:
                        return Reply(response.status, headers, await _body(response.content))
                    if not is_plain(headers.get("content-encoding", "")):
                        raise Lost("the reply is compressed, although an uncompressed one was requested")
                    while part := await response.content.readany():
                        stall.reschedule(None)  # only silence of the server counts
                        await take(part)
                        stall.reschedule(asyncio.get_running_loop().time() + stall_timeout_s)
                    return Reply(response.status, headers, b"")
                finally:
                    response.release()
        except Exception as error:  # noqa: BLE001 - as in `send`
            raise _failure(error, request.url, late=f"nothing came for {stall_timeout_s:g} s") from None

    def _route(self, url: str, timeout_s: float) -> "tuple[aiohttp.ClientSession, _Route]":
        route = self._routes.get((url, timeout_s))
        if route is None and _origin(url) not in self._proxies:
            self.prepare([url])
        if self._session is None:
            assert self._tls is not None
            self._session = _session(self._tls)
        if route is None:
            route = self._new_route(self._session, url, timeout_s)
        return self._session, route

    def _new_route(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> "_Route":
        # `connect` covers all of name lookup, connection and TLS; the caller sets the overall deadline.
        connecting = aiohttp.ClientTimeout(connect=min(self._connect_timeout_s, timeout_s / 2))
        proxy = self._proxies[_origin(url)]
        if len(self._routes) >= MOST_ROUTES:
            self._forget_routes()
        # A path with encoded characters is sent unchanged: yarl decodes those that need no code, and a signature
        # breaks.
        target = URL(url, encoded="%" in url)
        route = _Route(target, connecting, None if proxy is None else URL(proxy), Deadlines(timeout_s))
        if proxy is None and session.connector is not None:
            route.posts = Posts(target, session.connector, timeout=connecting, keep_alive_s=KEEP_ALIVE_S)
        self._routes[url, timeout_s] = route
        return route

    def _forget_routes(self) -> None:
        for route in self._routes.values():
            if route.posts is not None:
                route.posts.close()
        self._routes.clear()

    async def close(self) -> None:
        """Close all connections."""
        self._forget_routes()
        if self._session is not None:
            await self._session.close()


@dataclass(slots=True)
class _Route:
    """How to reach a URL; shared by all requests to it that may take equally long."""

    url: URL
    connecting: aiohttp.ClientTimeout
    proxy: URL | None
    deadlines: Deadlines
    posts: Posts | None = None
    """None behind a proxy."""
    closes_after_stream: bool | None = None
    """True if its server closes connections after a stream, whatever it says (llama.cpp's does); None: unknown."""


@dataclass(slots=True)
class _Stream:
    """A streamed reply while it arrives."""

    status: int
    headers: Mapping[str, str]
    parts: list[bytes] = field(default_factory=list)

    def so_far(self) -> Reply | None:
        """What has arrived of it; None if nothing has, or nothing readable: its rest would be needed."""
        if not self.parts or not is_plain(self.headers.get("content-encoding", "")):
            return None
        return Reply(self.status, self.headers, b"".join(self.parts))


def _origin(url: str) -> str:
    """Scheme, host and port, which are all that decides about proxies."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _payload(body: bytes) -> aiohttp.BytesPayload | io.BytesIO | None:
    if len(body) < LARGE_BYTES:
        # created here, so it need not be found in aiohttp's registry
        return aiohttp.BytesPayload(body) if body else None
    return io.BytesIO(body)  # aiohttp writes a file's content in pieces, but bytes at once, which blocks the loop


async def _begin(
    session: aiohttp.ClientSession, route: _Route, request: HttpRequest
) -> aiohttp.ClientResponse | Response:
    if route.posts is not None and request.method == "POST" and 0 < len(request.body) < LARGE_BYTES:
        return await route.posts.send(request.headers, request.body)
    return await session.request(
        request.method,
        route.url,
        headers=request.headers,
        data=_payload(request.body),
        allow_redirects=False,
        auto_decompress=False,
        compress=False,
        timeout=route.connecting,
        proxy=route.proxy,
    )


async def _exchange(session: aiohttp.ClientSession, route: _Route, request: HttpRequest, begun: list[_Stream]) -> Reply:
    """Send the request and read the reply; one that is streamed is added to `begun` while it arrives."""
    response = await _begin(session, route, request)
    try:
        headers = _headers(response)
        if is_stream(headers):
            begun.append(stream := _Stream(response.status, headers))
            body = await _streamed(response, stream, route, stall_timeout_s=request.stall_timeout_s)
        else:
            body = await _body(response.content)
        encoding = headers.get("content-encoding")
        if encoding is not None and not is_plain(encoding):
            decode = functools.partial(decoded, body, encoding, max_bytes=MAX_REPLY_BYTES)
            body = decode() if len(body) < LARGE_ENCODED_BYTES else await reply_threads.keep(decode)
        return Reply(response.status, headers, body)
    except TooLarge:
        begun.clear()
        raise Lost(_TOO_LARGE) from None
    finally:
        response.release()  # closes the connection unless the whole reply was read


async def _body(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        part = await content.readany()
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY_BYTES:
            raise TooLarge
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _streamed(
    response: aiohttp.ClientResponse | Response, stream: _Stream, route: _Route, *, stall_timeout_s: float
) -> bytes:
    async def packet() -> bytes:
        try:
            return await response.content.readany()
        except aiohttp.ClientError as error:
            raise _translated(error) from None

    def socket() -> asyncio.Transport | None:
        return None if response.connection is None else response.connection.transport

    transport = socket()
    if route.closes_after_stream and response.connection is not None and response.connection.protocol is not None:
        response.connection.protocol.force_close()
    body = await streamed_body(
        packet,
        stream.headers,
        socket=socket,
        stall_timeout_s=stall_timeout_s,
        max_bytes=MAX_REPLY_BYTES,
        parts=stream.parts,
    )
    if transport is not None and not route.closes_after_stream:
        if route.closes_after_stream is None:
            await asyncio.sleep(CLOSES_WITHIN_S)
        route.closes_after_stream = transport.is_closing()
    return body


def _headers(response: aiohttp.ClientResponse | Response) -> dict[str, str]:
    return {_name(name): value.decode("latin-1") for name, value in response.raw_headers}


@functools.lru_cache(maxsize=1000)
def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


_TOO_LARGE = f"the reply is larger than {MAX_REPLY_BYTES >> 20} MiB"


def _tls() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError, ValueError) as error:
        named = next((name for name in _TLS_VARIABLES if os.environ.get(name)), None)
        if named is None:
            raise UsageError(f"TLS can't be set up: {error}") from None
        raise UsageError(
            f"the environment variable {named} names no usable certificates ({error}); correct it or unset it"
        ) from None


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, ttl_dns_cache=60, keepalive_timeout=KEEP_ALIVE_S, ssl=tls, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:  # macOS lacks some
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


_TCP_OPTIONS = {
    "TCP_USER_TIMEOUT": 1000 * UNACKNOWLEDGED_S,
    "TCP_KEEPIDLE": PROBE_AFTER_S,
    "TCP_KEEPINTVL": PROBE_EVERY_S,
    "TCP_KEEPCNT": UNACKNOWLEDGED_S // PROBE_EVERY_S,
}

_NO_CONNECTION = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


def _failure(error: Exception, url: str, *, late: str) -> Exception:
    """What an exception of a request means; `late`: the message for one that took too long."""
    if isinstance(error, (NotSent, Lost, UsageError)):
        return error
    if isinstance(error, aiohttp.ClientError):  # its own timeouts are TimeoutErrors too
        return _translated(error)
    if isinstance(error, TimeoutError):
        return Lost(late, deadline=True)
    if isinstance(error, OSError):
        return _translated(error)
    if isinstance(error, ValueError):  # no name to look up (UnicodeError), no URL to connect to
        return NotSent(f"can't connect to {url}: {type(error).__name__}: {error}")
    return Lost(f"{type(error).__name__}: {error}")


def _translated(error: Exception) -> NotSent | Lost:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientConnectorSSLError):
        words = f"can't connect to {error.host}:{error.port} ({_system_words(error.os_error)})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NotSent(words, certificate=True)
    if isinstance(error, _NO_CONNECTION):
        return NotSent(words)
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return NotSent(f"no file descriptor is left for a connection ({os.strerror(error.errno)})")
    if isinstance(error.__cause__, aiohttp.ClientConnectionResetError):
        # Raised before the first write to a connection that the other side has closed since its last use.
        return NotSent(f"{words}: the connection was closed before")
    return Lost(words)


def _system_words(error: OSError) -> str:
    """The system's message for its number; asyncio puts the address there instead."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
