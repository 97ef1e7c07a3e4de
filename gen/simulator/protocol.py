"""One HTTP/1.1 connection: requests are handed on one at a time, in order.

A client may pipeline; a body may have a length or come in chunks, and is bounded. A request that breaks the protocol is
handed on as broken, answered after those before it, and ends the connection.
"""

import asyncio
import socket
import struct
from collections import deque
from typing import Protocol, cast

import httptools

from stillhouse.gen.simulator.wire import Request

_MAX_HEADER_BYTES = 64 * 1024
_MAX_BODY_BYTES = 64 * 1024 * 1024
_MAX_WAITING = 64
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINGER_RST = struct.pack("ii", 1, 0)


class Exchange(Protocol):
    """A request that is being answered."""

    def drained(self) -> None:
        """All that was written has been handed to the kernel."""

    def lost(self) -> None:
        """The connection is gone; nothing can be written any more."""


class Site(Protocol):
    """The server that answers requests."""

    connections: "set[Connection]"

    def handle(self, request: Request, connection: "Connection") -> Exchange | None:
        """Begin to answer; None if the connection was told `finished` before this returns."""


class Connection(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Request] = deque()
        self._handling = False
        self._deaf = False
        self.on_message_begin()

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; with a high-water mark of 0, `drained` means that the kernel has everything."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._site.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; complete requests are handed on from here."""
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # our mistake, not the client's: asyncio reports it and ends the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break_off(400)

    def resume_writing(self) -> None:
        """The write buffer is empty."""
        if self._exchange is not None:
            self._exchange.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the current exchange; waiting ones were never served."""
        self._deaf = True
        self._site.connections.discard(self)
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.lost()

    # -- called by the parser

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count_header(len(name) + len(value))
        name = name.lower()
        self._headers[name] = value
        if name == b"content-length" and (len(value) > 18 or not value.isdigit() or int(value) > _MAX_BODY_BYTES):
            self._break_off(413)

    def on_headers_complete(self) -> None:
        """Let a client that asks first send its body."""
        expects = self._headers.get(b"expect", b"").lower() == b"100-continue"
        if expects and self._exchange is None and not self._deaf:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > _MAX_BODY_BYTES:
            self._break_off(413)
        elif not self._deaf:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        if self._deaf:
            return
        path, _, query = self._url.partition(b"?")
        self._waiting.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=path.decode("latin-1"),
                query=query.decode("latin-1"),
                headers=self._headers,
                body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
                keep_alive=self._parser.should_keep_alive(),
            )
        )
        self._advance()
        if len(self._waiting) > _MAX_WAITING:
            self._transport.pause_reading()

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._break_off(431)

    def _break_off(self, status: int) -> None:
        if not self._deaf:
            self._deaf = True
            self._waiting.append(Request("", "", {}, b"", keep_alive=False, broken=status))
            self._advance()

    def _advance(self) -> None:
        """Hand on the next request, unless one is being answered; a loop, because many may be answered at once."""
        if self._handling:
            return
        self._handling = True
        while self._waiting and self._exchange is None and not self._transport.is_closing():
            self._exchange = self._site.handle(self._waiting.popleft(), self)
        self._handling = False

    # -- called by an exchange

    def write(self, data: bytes) -> bool:
        """Send; True if the kernel has taken everything, else `Exchange.drained` or `lost` follows."""
        self._transport.write(data)
        return not self._transport.get_write_buffer_size() and not self._transport.is_closing()

    def finished(self, *, keep_alive: bool) -> None:
        """The exchange is over: continue with the next request, or close once everything is sent."""
        self._exchange = None
        if not keep_alive:
            self._transport.close()
            return
        if self._waiting:
            if len(self._waiting) <= _MAX_WAITING and not self._deaf and not self._transport.is_reading():
                self._transport.resume_reading()
            self._advance()

    def reset(self) -> None:
        """End the connection with an RST."""
        self._exchange = None
        sock = cast(socket.socket, self._transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
        self._transport.abort()

    def abort(self) -> None:
        """End the connection and the current exchange, now."""
        exchange, self._exchange = self._exchange, None
        self._transport.abort()
        if exchange is not None:
            exchange.lost()
