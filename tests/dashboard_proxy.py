"""A proxy between a user and a dashboard: passes requests on, or does what a test asks for."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply that it gets."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Request, Callable[[], Reply]], Reply | None]
"""Is given the request, and what asks the dashboard; None breaks the connection off."""


@contextmanager
def dashboard_proxy(dashboard: str, answer: Answer) -> Iterator[str]:
    """Its address."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers), body)
            reply = answer(request, lambda: _asked(dashboard, request))
            if reply is None:
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _asked(dashboard: str, request: Request) -> Reply:
    upstream = http.client.HTTPConnection(dashboard.removeprefix("http://"), timeout=60)
    upstream.request(request.method, request.path, request.body, {**request.headers, "Connection": "close"})
    reply = upstream.getresponse()
    return Reply(reply.status, reply.read(), {"Content-Type": reply.headers["Content-Type"]})
