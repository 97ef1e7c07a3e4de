"""HTTP/1.1 as values: a request as it was read, a response as it will be written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

_REASONS = {status.value: status.phrase for status in HTTPStatus}
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request, or what could be read of one that broke the protocol."""

    method: str
    path: str
    """The URL's path, without the query."""
    headers: Mapping[bytes, bytes]
    """Names in lower case; if a name comes twice, the last value."""
    body: bytes
    keep_alive: bool
    query: str = ""
    broken: int | None = None
    """The status to answer with if the protocol or a bound was broken; the connection ends after it."""


@dataclass(frozen=True, slots=True)
class Response:
    """Status line and headers as `head`, up to and including the empty line; and the body as it is sent."""

    status: int
    head: bytes
    body: bytes
    events: tuple[bytes, ...] = ()
    """The body in the pieces in which it is streamed; none: all at once."""


def response(
    status: int, body: bytes, *, headers: Mapping[str, str], content_type: str = JSON, keep_alive: bool = True
) -> Response:
    """A response with a Content-Length; `headers` override what is set here."""
    fields = {"content-type": content_type, "content-length": str(len(body))}
    return Response(status, _head(status, fields, headers, keep_alive=keep_alive), body)


def chunked(
    status: int, pieces: Iterable[bytes], *, headers: Mapping[str, str], content_type: str, keep_alive: bool
) -> Response:
    """A streamed response, with one event per chunk."""
    events = (*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n")
    fields = {"content-type": content_type, "transfer-encoding": "chunked", "cache-control": "no-cache"}
    return Response(status, _head(status, fields, headers, keep_alive=keep_alive), b"".join(events), events)


def _head(status: int, fields: dict[str, str], headers: Mapping[str, str], *, keep_alive: bool) -> bytes:
    for name, value in headers.items():
        fields[name.lower()] = value
    if not keep_alive:
        fields["connection"] = "close"
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


def sniff(body: bytes) -> str:
    """The content type that an error's body looks like."""
    match body.lstrip()[:1]:
        case b"{" | b"[":
            return JSON
        case b"<":
            return "text/html"
        case _:
            return "text/plain; charset=utf-8"
