"""Stands between a run and a server: passes requests on, and holds the one at which everything is to be killed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from s3_server import passed_on


@dataclass(frozen=True, slots=True)
class Stop:
    """One request of a run."""

    when: Literal["before", "during", "after", "answered"]
    """Held before the server has it, in the middle of its reply, or before its reply; or not held at all."""
    matches: Callable[[str, str], bool]
    """Called with each request's method and path."""
    number: int = 1
    """Which of the matching requests it is."""


@dataclass(slots=True)
class Between:
    """Everything between a run and its server."""

    url: str
    """Its own root."""
    stop: Stop | None
    reached: threading.Event = field(default_factory=threading.Event)
    """Set once the request is held, or answered."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """The method and path of each request so far."""
    _matched: int = 0
    _released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        """Drop what is held; hold nothing more."""
        self._released.set()

    def comes_to(self, when: str, method: str, path: str) -> bool:
        """Hold the request if it is the one; True if its connection is to be dropped now."""
        if self.stop is None or self.stop.when != when or self._released.is_set():
            return False
        if not self.stop.matches(method, path):
            return False
        with self._lock:
            self._matched += 1
            if self._matched != self.stop.number:
                return False
        self.reached.set()
        return when != "answered" and self._released.wait()


@contextmanager
def standing_before(server: str, stop: Stop | None = None) -> Iterator[Between]:
    """Everything sent to its URL reaches the server at this one, with the headers that it had."""
    upstream = urlsplit(server).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            between.seen.append((self.command, self.path))
            self.close_connection = not self._passed(body)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names http.server looks for

        def _passed(self, body: bytes) -> bool:
            here = self.command, self.path
            if between.comes_to("before", *here):
                return False
            connection = HTTPConnection(upstream, timeout=60)
            try:
                reply = passed_on(self, connection, body)
                content = reply.read()
            except (HTTPException, OSError):
                return False
            finally:
                connection.close()
            if between.comes_to("after", *here):
                return False
            with suppress(OSError):  # it was killed
                self._answer(reply, content)
            between.comes_to("answered", *here)
            return True

        def _answer(self, reply: HTTPResponse, content: bytes) -> None:
            self.send_response_only(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            length = reply.getheader("content-length") if self.command == "HEAD" else None
            if reply.status != 204:
                self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            between.comes_to("during", self.command, self.path)
            self.wfile.write(content[half:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _Listener(("127.0.0.1", 0), Handler) as listener:
        between = Between(f"http://127.0.0.1:{listener.server_port}", stop)
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield between
        finally:
            between.release()
            listener.shutdown()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is not the server's fault."""
