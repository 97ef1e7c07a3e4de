"""Vertex's tokens, from a real google-auth and a token server of our own: fetched off the loop, renewed, hidden."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.errors import TeacherPaused, UsageError
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import credentials_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.teacher import Teacher

VERTEX = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1"


class TokenServer:
    """Counts what it gave; `life_s` of a token, or a `status` with which it refuses."""

    def __init__(self) -> None:
        self.given = 0
        self.life_s = 3600
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.given += 1
                body: dict[str, Any] = {"access_token": f"ya29.canary-{server.given}", "expires_in": server.life_s}
                if server.status != 200:
                    body = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
                data = json.dumps(body).encode()
                self.send_response(server.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/token"


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """A token server."""
    server = TokenServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def file(tmp_path: Path, tokens: TokenServer) -> Path:
    """A service account's key file whose token server is ours."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info = {"type": "service_account", "client_email": "a@p.iam.gserviceaccount.com", "private_key": pem}
    path = tmp_path / "account.json"
    path.write_text(json.dumps(info | {"token_uri": tokens.url, "project_id": "p"}, indent=2))
    return path


def vertex(**fields: Any) -> Teacher:
    """A teacher on Vertex."""
    terms = {"training_use": "by-authorisation", "authorisation": "a"}
    given = {"name": "t", "api": "gemini", "base_url": VERTEX, "model": "gemini-3-pro", "terms": terms}
    return Teacher.model_validate(given | fields)


class Nowhere:
    """A transport that is never used."""

    def prepare(self, urls: object) -> None:
        """Nothing to do."""

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """Nothing is sent here."""
        raise AssertionError

    async def close(self) -> None:
        """Nothing is open."""


class Later:
    """A clock that is `by` seconds ahead."""

    by = 0.0

    def time(self) -> float:
        """UTC."""
        return time.time() + self.by

    def monotonic(self) -> float:
        """That never jumps but here."""
        return time.monotonic() + self.by


def client_of(teacher: Teacher, clock: Clock = SYSTEM) -> TeacherClient:
    """Its client."""
    return TeacherClient(Interpreter(teacher, Ask()), transport=Nowhere(), account=Account(clock), clock=clock)


def change(file: Path, **fields: str) -> None:
    """Change the file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def secret_in(file: Path) -> str:
    """The file's private key."""
    return str(json.loads(file.read_text())["private_key"])


def authorization(client: TeacherClient) -> str:
    """What the next request is authorised with."""
    endpoint = client.endpoint(again=False)
    assert endpoint is not None
    return client.request(Request((("user", "hi"),)), endpoint, now=0.0).headers["authorization"]


async def test_a_token_is_fetched_once_and_outside_the_event_loop(file: Path, tokens: TokenServer) -> None:
    """A hundred callers at once share it; no message shows the token or the file's key."""
    client = client_of(vertex(api_key=f"file:{file}"))
    await asyncio.gather(*(client.usable() for _ in range(100)))
    assert (authorization(client), tokens.given) == ("Bearer ya29.canary-1", 1)
    secret = secret_in(file)
    said = [client.interpreter.redact(f"{secret} ya29.canary-1"), repr(client), repr(vars(client))]
    assert not any("canary-1" in text or secret[30:60] in text for text in said)


async def test_claude_on_vertex_uses_the_same_tokens(file: Path, tokens: TokenServer) -> None:
    """Its messages are Anthropic's, and its host is Google's."""
    client = client_of(vertex(api="anthropic", model="claude-opus-5", api_key=f"file:{file}"))
    await client.usable()
    assert (authorization(client), tokens.given) == ("Bearer ya29.canary-1", 1)


async def test_a_token_about_to_expire_is_replaced(file: Path, tokens: TokenServer) -> None:
    """Also when the server can't be reached for a while, as long as it lasts."""
    tokens.life_s, clock = 400, Later()
    client = client_of(vertex(api_key=f"file:{file}"), clock)
    await client.usable()
    clock.by = 90.0
    await client.usable()
    assert (authorization(client), tokens.given) == ("Bearer ya29.canary-1", 1)
    clock.by, tokens.status = 110.0, 503
    await client.usable()
    assert (authorization(client), tokens.given > 1) == ("Bearer ya29.canary-1", True)
    clock.by, tokens.status, tokens.given = 150.0, 200, 1
    await client.usable()
    assert (authorization(client), tokens.given) == ("Bearer ya29.canary-2", 2)


async def test_a_refused_token_is_replaced_once(file: Path, tokens: TokenServer) -> None:
    """It may have been withdrawn; a new one that is refused too is final."""
    clock = Later()
    client = client_of(vertex(api_key=f"file:{file}"), clock)
    await client.usable()
    assert not client.reload_key(sent_at=clock.monotonic())
    clock.by = 100.0
    assert client.reload_key(sent_at=clock.monotonic())
    await client.usable()
    assert (authorization(client), tokens.given) == ("Bearer ya29.canary-2", 2)
    assert not client.reload_key(sent_at=clock.monotonic())


async def test_refused_credentials_are_a_usage_error(file: Path, tokens: TokenServer) -> None:
    """With the field's name; an absent server pauses the run instead."""
    tokens.status = 400
    client = client_of(vertex(api_key=f"file:{file}"))
    with pytest.raises(UsageError, match=r"teachers\.t: Google refuses the credentials: .*invalid_grant"):
        await client.usable()
    change(file, token_uri="http://127.0.0.1:9/token")
    with pytest.raises(TeacherPaused, match="token server is out of reach"):
        await client_of(vertex(api_key=f"file:{file}")).usable()


async def test_the_machine_s_own_identity_needs_no_key(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """As google-auth finds it; if there is none, the message says what to provide."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    client = client_of(vertex())
    await client.usable()
    assert authorization(client) == "Bearer ya29.canary-1"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file.parent / "none.json"))
    with pytest.raises(UsageError, match="no usable Google Cloud credentials here"):
        await client_of(vertex()).usable()


async def test_a_different_kind_of_file_is_explained(file: Path) -> None:
    """The variable that google-auth reads may name one."""
    change(file, type="external_account")
    with pytest.raises(UsageError, match="expected a file of a service_account or an authorized_user, got external"):
        await client_of(vertex(api_key=f"file:{file}")).usable()


def test_a_credentials_file_is_only_for_vertex(file: Path) -> None:
    """AI Studio takes a key, and an express key of Vertex is one too."""
    studio = vertex(base_url="https://generativelanguage.googleapis.com", api_key=f"file:{file}")
    with pytest.raises(UsageError, match=r"teachers\.t\.api_key: .*holds a file of credentials"):
        credentials_of(studio)
    for key in ("AIzaExpress", "ya29.token", "AQ.express"):
        file.write_text(key)
        assert credentials_of(vertex(api_key=f"file:{file}")).key == key
    file.write_text("sk-ant-api03-xxxxxxxxxxxx")
    with pytest.raises(UsageError, match=r"holds a key of Anthropic .* takes a key of Google Cloud"):
        credentials_of(vertex(api="anthropic", model="claude-opus-5", api_key=f"file:{file}"))
