"""POSTs of bodies in memory, straight over aiohttp's connections.

For each request, aiohttp's own client makes a request, a writer, a task that writes, a parser and a response, which
take longer than everything else between the body and its reply. Here only the connection, its parser and the reply's
stream are aiohttp's. A connection that waits for its next request keeps its parser, so it stays here instead of going
back to aiohttp's pool, which makes a new one for each request.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from yarl import URL

from stillhouse.gen.teachers.transport import Lost, NotSent

MAX_LINE_BYTES = 2**16
"""The longest header of a reply."""

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that would end a header early."""


@dataclass(slots=True)
class Response:
    """A reply whose body is still to be read: what is used of `aiohttp.ClientResponse`."""

    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    content: aiohttp.StreamReader
    _connection: Connection
    _posts: "Posts"

    @property
    def connection(self) -> Connection | None:
        """The request's connection; None once all of the reply has arrived."""
        return None if self.content.is_eof() else self._connection

    def release(self) -> None:
        """Keep the connection for other requests, or close it if not all was read, or not all of the body was sent."""
        self._posts.release(self._connection)


class Posts:
    """The POSTs to one URL that is reached without a proxy."""

    def __init__(
        self, url: URL, connector: aiohttp.BaseConnector, *, timeout: aiohttp.ClientTimeout, keep_alive_s: float
    ) -> None:
        """`connector`: makes the connections. `timeout`: for making one. `keep_alive_s`: how long one is kept idle."""
        self._keep_alive_s = keep_alive_s
        self._connector = connector
        self._timeout = timeout
        self._target = aiohttp.ClientRequest("POST", url, loop=asyncio.get_running_loop())
        """A request as the connector sees it, which is the same for all."""
        self._last: tuple[Mapping[str, str] | None, bytes] = None, b""
        """(headers, the head that they make without the body's length) of the last one."""
        self._idle: deque[tuple[Connection, float]] = deque()
        """Connections that wait for a request, each with the loop's time since when; the one that waits longest is the
        first."""
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, headers: Mapping[str, str], body: bytes) -> Response:
        """Send one; returns once the reply's headers are there.

        Raises:
            NotSent: the connection was closed before anything was written.
            Lost: what came is not HTTP.
            aiohttp.ClientError, OSError, ValueError: as `aiohttp.ClientSession.request` does.
        """
        if self._last[0] is not headers:
            self._last = headers, self._head_of(headers)
        _, head = self._last
        connection = self._idle_one() or await self._new_one()
        try:
            return await self._answered(connection, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        except BaseException:
            connection.close()
            raise

    def _idle_one(self) -> Connection | None:
        """A connection that can be used again, if there is one."""
        used_after = asyncio.get_running_loop().time() - self._keep_alive_s
        while self._idle:
            connection, since = self._idle.popleft()
            protocol = connection.protocol
            if since >= used_after and protocol is not None and protocol.is_connected() and not protocol.should_close:
                return connection
            connection.close()
        return None

    async def _new_one(self) -> Connection:
        try:
            connection = await self._connector.connect(self._target, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self._target.url}") from error
        assert connection.protocol is not None
        connection.protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        return connection

    def release(self, connection: Connection) -> None:
        """Keep the connection for other requests, or close it if not all was read, or not all of the body was sent."""
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or protocol.should_close or transport.get_write_buffer_size():
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._sweep is None:
            self._sweep = loop.call_later(self._keep_alive_s, self._close_old)

    def _close_old(self) -> None:
        """Close what was idle for too long, and look again later."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][1] + self._keep_alive_s <= loop.time():
            self._idle.popleft()[0].close()
        self._sweep = loop.call_at(self._idle[0][1] + self._keep_alive_s, self._close_old) if self._idle else None

    def close(self) -> None:
        """Close all connections that wait."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._idle.popleft()[0].close()

    def _head_of(self, given: Mapping[str, str]) -> bytes:
        """The request line and the headers: ours, and aiohttp's where we have none of that name."""
        usual = {**self._target.headers, "Content-Type": "application/octet-stream"}
        del usual["Content-Length"]
        headers = {name: value for name, value in usual.items() if name.lower() not in given} | dict(given)
        if any(_CONTROLS.search(text) for header in headers.items() for text in header):
            raise ValueError("a header has a control character")
        lines = [f"POST {self._target.url.raw_path_qs} HTTP/1.1", *map(": ".join, headers.items()), ""]
        return "\r\n".join(lines).encode()

    async def _answered(self, connection: Connection, request: bytes) -> Response:
        """Write the request; the reply, once its headers are there."""
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise NotSent("the connection was closed before it was used")
        transport.write(request)
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != HTTPStatus.SWITCHING_PROTOCOLS:  # the reply follows
                message, content = await protocol.read()
        except HttpProcessingError as error:
            raise Lost(f"the reply is not valid HTTP: {' '.join(error.message.split())}") from None
        return Response(message.code, message.raw_headers, content, connection, self)
