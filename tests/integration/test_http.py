"""HttpTransport against real sockets: whatever a server does results in a Reply, NotSent or Lost, in time."""

import asyncio
import base64
import gzip
import ipaddress
import os
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse.gen.simulator import serve
from stillhouse.gen.teachers.http import LARGE_BYTES, MAX_REPLY_BYTES, HttpTransport
from stillhouse.gen.teachers.transport import HttpRequest, Lost, NotSent, Reply
from stillhouse.schemas.simulator import SimulatorSettings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHAT = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def http() -> AsyncIterator[HttpTransport]:
    """A transport that is closed after the test."""
    transport = HttpTransport()
    yield transport
    await transport.close()


@asynccontextmanager
async def listening(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on loopback; the handler has each connection, which is closed when it returns."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except OSError:
            pass  # the client went away, as some tests mean it to
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
    finally:
        server.close()


@asynccontextmanager
async def simulator(**settings: Any) -> AsyncIterator[str]:
    """The chat URL of a simulator with these settings."""
    async with await serve(SimulatorSettings.model_validate(settings)) as server:
        yield server.url + "/chat/completions"


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(head, body) of a request, of which one without a body may have no Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = (int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:"))
    length = next(lengths, 0)
    return head, await reader.readexactly(length)


def answering(response: bytes) -> Handler:
    """Reads a request, sends these bytes and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response)
        await writer.drain()

    return handler


async def post(http: HttpTransport, url: str, *, body: bytes = CHAT, timeout_s: float = 10.0, **headers: str) -> Reply:
    """One POST."""
    return await http.send(HttpRequest("POST", url, headers, body), timeout_s=timeout_s)


def chunked(data: bytes, headers: bytes = b"") -> bytes:
    """A whole chunked response."""
    return b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (headers, len(data), data)


# --- replies


async def test_a_reply_has_status_headers_and_body(http: HttpTransport) -> None:
    """An error status is a reply like any other; header names come in lower case."""
    response = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nX-Note: caf\xe9\r\nContent-Length: 4\r\n\r\nslow"
    async with listening(answering(response)) as url:
        reply = await post(http, url)
    assert (reply.status, reply.body) == (429, b"slow")
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-note"] == "café"


async def test_the_request_is_sent_as_given(http: HttpTransport) -> None:
    """The body and the headers arrive as they are, with host and length, and no cookies."""
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async with listening(handler) as url:
        await post(http, url + "/chat", body=b"\x00\xff", authorization="Bearer k")
    head, body = seen[0]
    assert head.startswith(b"POST /v1/chat HTTP/1.1\r\n")
    assert b"authorization: bearer k\r\n" in head.lower()
    assert b"cookie" not in head.lower()
    assert body == b"\x00\xff"


async def test_each_request_has_its_own_method_and_headers(http: HttpTransport) -> None:
    """On one connection, as signed requests and looks at a batch need it; requests may overlap."""
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(4):
            seen.append((await read_request(reader))[0].lower())
            writer.write(OK)

    async with listening(handler) as url:
        for n in range(3):
            await http.send(HttpRequest("GET", url + "/batches/1", {"x-signature": f"s{n}"}), timeout_s=10)
        await http.send(HttpRequest("DELETE", url + "/batches/1", {}), timeout_s=10)
    assert [b"x-signature: s%d\r\n" % n in head for n, head in enumerate(seen)] == [True, True, True, False]
    assert [head.partition(b" ")[0] for head in seen] == [b"get", b"get", b"get", b"delete"]


async def test_overlapping_posts_keep_their_own_headers(http: HttpTransport) -> None:
    """Each signed request has its own signature, also while connections are made."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head, body = await read_request(reader)
            except asyncio.IncompleteReadError:
                return
            said = b"x-signature: %b\r\n" % body in head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b" true" if said else b"false"))

    async with listening(handler) as url:
        for _ in range(2):  # with new connections, then with those
            asked = (HttpRequest("POST", url, {"x-signature": f"s{n}"}, b"s%d" % n) for n in range(20))
            replies = await asyncio.gather(*(http.send(each, timeout_s=10) for each in asked))
            assert {reply.body for reply in replies} == {b" true"}
        await http.close()


async def test_small_and_large_bodies_have_the_same_headers(http: HttpTransport) -> None:
    """Small ones are written without aiohttp's client: nothing that it adds is missing, and ours replaces it."""
    seen: list[dict[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        pairs = (line.split(b": ", 1) for line in head.splitlines()[1:-1])
        seen.append({name.lower(): value for name, value in pairs if name.lower() != b"content-length"})
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    given: list[dict[str, str]] = [{}, {"content-type": "application/json", "user-agent": "ours", "x-note": "café"}]
    async with listening(handler) as url:
        for headers in given:
            for size in (10, LARGE_BYTES):
                await http.send(HttpRequest("POST", url, headers, bytes(size)), timeout_s=10)
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[3][b"user-agent"] == b"ours"


@pytest.mark.parametrize("body", [b"", CHAT], ids=["empty", "small"])
async def test_a_header_with_a_line_break_is_not_sent(http: HttpTransport, body: bytes) -> None:
    """A line break in a secret must not become a header of its own."""
    async with listening(answering(OK)) as url:
        with pytest.raises(NotSent):
            await post(http, url, body=body, authorization="Bearer k\r\nx-other: 1")


async def test_interim_replies_are_skipped(http: HttpTransport) -> None:
    """Only the last one is the reply."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with listening(answering(interim + OK)) as url:
        reply = await post(http, url)
    assert (reply.status, reply.body) == (200, b"{}")


@pytest.mark.parametrize("body", [b"", b"\n\n\n{}", b"x" * 200_000])
async def test_bodies_of_all_framings_arrive_whole(http: HttpTransport, body: bytes) -> None:
    """By Content-Length, chunked, or until the connection closes."""
    for response in (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
        chunked(body) if body else chunked(b"")[: -len(b"0\r\n\r\n")],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body,
    ):
        async with listening(answering(response)) as url:
            assert (await post(http, url)).body == body


async def test_a_connection_serves_one_request_after_another(http: HttpTransport) -> None:
    """Keep-alive: twenty requests in a row use one connection."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while not reader.at_eof():
            try:
                await read_request(reader)
            except asyncio.IncompleteReadError:
                return
            writer.write(OK)

    async with listening(handler) as url:
        for _ in range(20):
            assert (await post(http, url)).status == 200
        await http.close()
    assert connections == 1


async def test_a_thousand_requests_at_once(http: HttpTransport) -> None:
    """There is no pool to queue behind: a thousand are in flight at one moment, and all are answered."""
    async with simulator(latency_s=0.5) as url:
        start = time.monotonic()
        replies = await asyncio.gather(*(post(http, url, timeout_s=200) for _ in range(1000)))
    assert {reply.status for reply in replies} == {200}
    assert time.monotonic() - start < 200  # by hundreds it would be 5 s more, by ones 500 s


async def test_a_redirect_is_returned_and_not_followed(http: HttpTransport) -> None:
    """Neither prompt nor key is sent where a 307 points."""
    visits: list[int] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(1)

    async with listening(elsewhere) as other:
        location = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % other.encode()
        async with listening(answering(location)) as url:
            reply = await post(http, url, authorization="Bearer canary")
    assert reply.status == 307
    assert visits == []


@pytest.mark.parametrize("large_bytes", [LARGE_BYTES, 2**30], ids=["in pieces", "at once"])
async def test_an_early_refusal_of_a_long_body_is_a_reply(
    http: HttpTransport, large_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 413 sent before the request is read, on a connection that stays open, comes through at once.

    What is still to be written on that connection holds up no other request.
    """
    monkeypatch.setattr("stillhouse.gen.teachers.http.LARGE_BYTES", large_bytes)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.Event().wait()

    async with listening(handler) as url:
        start = time.monotonic()
        for body in (bytes(30_000_000), CHAT):
            reply = await post(http, url, body=body, timeout_s=200)
            assert (reply.status, reply.body) == (413, b"big")
    assert time.monotonic() - start < 60


# --- encodings


def _brotli(data: bytes) -> bytes:
    return bytes(pa.Codec("brotli").compress(data, asbytes=True))


def _zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        (b"gzip", gzip.compress),
        (b"GZIP", gzip.compress),
        (b"gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        (b"deflate", zlib.compress),
        (b"deflate", lambda data: zlib.compress(data)[2:-4]),
        (b"br", _brotli),
        (b"zstd", _zstd),
        (b"none", bytes),
        (b"", bytes),
        (b"UTF-8", bytes),
        (b"gzip", bytes),  # decoded on the way, the header left as it was
        (b"br", gzip.compress),  # the bytes say what it is
    ],
)
async def test_a_compressed_reply_is_decoded(
    http: HttpTransport, encoding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """Some proxies compress although `identity` was requested, or state the wrong encoding."""
    async with listening(answering(chunked(encode(b'{"a": 1}'), b"Content-Encoding: %b\r\n" % encoding))) as url:
        assert (await post(http, url)).body == b'{"a": 1}'


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"made-up"])
async def test_an_undecodable_body_is_returned_as_it_came(http: HttpTransport, encoding: bytes) -> None:
    """A body that arrived is kept, whatever it is."""
    async with listening(answering(chunked(b"\xff no such thing", b"Content-Encoding: %b\r\n" % encoding))) as url:
        assert (await post(http, url)).body == b"\xff no such thing"


async def test_a_gzip_bomb_is_cut_off_at_the_size_limit(http: HttpTransport) -> None:
    """A gigabyte of zeros in a megabyte: given up at 64 MiB."""
    pack = zlib.compressobj(wbits=31)
    bomb = b"".join(pack.compress(bytes(2**20)) for _ in range(1024)) + pack.flush()
    async with listening(answering(chunked(bomb, b"Content-Encoding: gzip\r\n"))) as url:
        with pytest.raises(Lost, match="64 MiB"):
            await post(http, url, timeout_s=60)


async def test_an_endless_body_is_cut_off_at_the_size_limit(http: HttpTransport) -> None:
    """Only 64 MiB, and what the sockets hold, are read from a server that never stops."""
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(2**18))
            await writer.drain()
            sent += 2**18

    async with listening(handler) as url:
        with pytest.raises(Lost, match="64 MiB"):
            await post(http, url, timeout_s=60)
    assert sent < MAX_REPLY_BYTES + 32 * 2**20


# --- cut, late, broken


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset", "when": "before"},
        {"kind": "reset", "when": "headers"},
        {"kind": "reset", "when": "body"},
        {"kind": "truncate"},
    ],
    ids=str,
)
async def test_a_cut_connection_is_lost(http: HttpTransport, fault: dict[str, Any]) -> None:
    """Wherever it is cut after the request left, the teacher may have billed."""
    async with simulator(faults=[fault]) as url:
        with pytest.raises(Lost):
            await post(http, url)


@pytest.mark.parametrize("fault", [{"kind": "hang"}, {"kind": "trickle", "over_s": 60.0}], ids=str)
async def test_the_deadline_covers_the_whole_exchange(http: HttpTransport, fault: dict[str, Any]) -> None:
    """Both silence and a trickle end after timeout_s."""
    async with simulator(faults=[fault], output_tokens=(5000, 5000)) as url:
        start = time.monotonic()
        with pytest.raises(Lost, match=r"within timeout_s \(0\.8 s\); raise it"):
            await post(http, url, timeout_s=0.8)
    assert time.monotonic() - start < 30  # without a deadline a minute, or for ever


async def test_keep_alive_newlines_do_not_defeat_the_deadline(http: HttpTransport) -> None:
    """Bytes that keep coming (DeepSeek, while it queues) are not progress."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with listening(handler) as url:
        with pytest.raises(Lost, match="within"):
            await post(http, url, timeout_s=0.8)


async def test_a_server_that_does_not_read_hits_the_deadline(http: HttpTransport) -> None:
    """A body that can't be sent does not escape the deadline, even if the reply has begun."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.Event().wait()

    async with listening(handler) as url:
        start = time.monotonic()
        with pytest.raises(Lost, match="within"):
            await post(http, url, body=bytes(30_000_000), timeout_s=0.5)
    assert time.monotonic() - start < 60  # without a deadline for ever


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from(
        [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", OK[:38], b"\x16\x03"]
    ),
    tail=st.binary(max_size=200),
)
def test_any_bytes_are_a_reply_or_lost(head: bytes, tail: bytes) -> None:
    """`post` never raises anything else, whatever the server sends."""

    async def ask() -> Reply | Lost:
        http = HttpTransport()
        async with listening(answering(head + tail)) as url:
            try:
                return await post(http, url, timeout_s=5)
            except Lost as error:
                return error
            finally:
                await http.close()

    assert isinstance(asyncio.run(ask()), Reply | Lost)


async def test_endless_headers_are_cut_off(http: HttpTransport) -> None:
    """A header of a megabyte is refused, not stored."""
    async with listening(answering(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2**20 + b"\r\n\r\n")) as url:
        with pytest.raises(Lost):
            await post(http, url)


async def test_a_connection_closed_between_requests_costs_nothing(http: HttpTransport) -> None:
    """A server may close an idle connection; the next request finds out before it is written and takes a new one."""
    closed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)  # promises keep-alive
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with listening(handler) as url, simulator() as other:
        for _ in range(5):
            assert (await post(http, url)).status == 200
            await closed.wait()
            closed.clear()
            await post(http, other)  # a turn of the event loop, in which the end of the first connection is seen


async def test_an_idle_connection_is_closed(http: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server does so itself; the next request takes another one."""
    monkeypatch.setattr("stillhouse.gen.teachers.http.KEEP_ALIVE_S", 0.05)
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        assert await reader.read() == b""
        gone.set()

    async with listening(handler) as url:
        for _ in range(2):
            assert (await post(http, url)).status == 200
            async with asyncio.timeout(60):
                await gone.wait()
            gone.clear()


async def test_an_unrequested_reply_answers_nothing(http: HttpTransport) -> None:
    """Servers that give up on an idle connection may send a 408 first; the next request takes another connection."""
    idle, connections = asyncio.Event(), 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(OK)
        await idle.wait()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        assert await reader.read() == b""

    async with listening(handler) as url, simulator() as other:
        assert (await post(http, url)).status == 200
        idle.set()
        await post(http, other)  # turns of the event loop, in which the 408 arrives
        assert (await post(http, url)).status == 200
        await http.close()
    assert connections == 2


async def test_a_connection_closed_under_a_request_is_lost(http: HttpTransport) -> None:
    """On a reused connection that closes with the request on its way: it may have been served, so there is no retry."""
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for answer in (OK, b""):
            await read_request(reader)
            requests += 1
            writer.write(answer)

    async with listening(handler) as url:
        assert (await post(http, url)).status == 200
        with pytest.raises(Lost, match="ServerDisconnected"):
            await post(http, url)
    assert requests == 2


async def test_a_request_reported_as_unsent_never_reached_the_server(http: HttpTransport) -> None:
    """Requests race with their connection's closing: none that the server read is reported as not sent."""
    seen = unsent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await read_request(reader)
        seen += 1
        writer.write(OK)

    async with listening(handler) as url:
        for _ in range(200):
            try:
                await post(http, url)
            except NotSent:
                unsent += 1
            except Lost:
                pass
    assert seen + unsent <= 200
    assert seen >= 100


async def test_a_cancelled_post_closes_its_connection(http: HttpTransport) -> None:
    """The server sees the connection end, and so can stop working on the answer."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        assert await reader.read() == b""
        gone.set()

    async with listening(handler) as url:
        task = asyncio.create_task(post(http, url))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(60):
            await gone.wait()


# --- not sent


async def test_a_refused_connection_counts_as_not_sent(http: HttpTransport) -> None:
    """Nobody listens: nothing was sent and nothing is billed."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(NotSent) as caught:
            await post(http, f"http://127.0.0.1:{held.getsockname()[1]}/v1")
    assert not caught.value.certificate


async def test_an_unknown_host_name_counts_as_not_sent(http: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's failure is not a failure of the request."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NotSent, match=r"can't connect to .* \(Name or service not known\)"):
        await post(http, "http://teacher.test/v1")


async def test_a_connection_that_times_out_counts_as_not_sent() -> None:
    """The bound for connecting covers TLS: a listener that never shakes hands."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    http = HttpTransport(connect_timeout_s=0.2)
    async with listening(silent) as url:
        with pytest.raises(NotSent, match="timeout"):
            await post(http, url.replace("http:", "https:"))
        with pytest.raises(NotSent, match="timeout"):
            await post(http, url.replace("http:", "https:"), timeout_s=0.1)
    await http.close()


# --- TLS


def certificate(folder: Path, *, host: str = "127.0.0.1", days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """(a server's context, its certificate's file); with negative `days`, it expired that long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a teacher")])
    names: list[x509.GeneralName] = (
        [x509.IPAddress(ipaddress.ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    key_file, cert_file = folder / "key.pem", folder / "cert.pem"
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file


async def test_a_trusted_certificate_is_accepted(
    http: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's own authority is named by SSL_CERT_FILE."""
    context, file = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with listening(answering(OK), tls=context) as url:
        assert (await post(http, url)).status == 200


async def test_a_self_signed_certificate_counts_as_not_sent(http: HttpTransport, tmp_path: Path) -> None:
    """Neither key nor prompt is sent to a server with an unknown certificate."""
    context, _ = certificate(tmp_path)
    async with listening(answering(OK), tls=context) as url:
        with pytest.raises(NotSent) as caught:
            await post(http, url)
    assert caught.value.certificate


@pytest.mark.parametrize("wrong", [{"days": -2}, {"host": "other.test"}], ids=str)
async def test_an_expired_or_foreign_certificate_counts_as_not_sent(
    http: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    """It was trusted once, or is for another host."""
    context, file = certificate(tmp_path, **wrong)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with listening(answering(OK), tls=context) as url:
        with pytest.raises(NotSent) as caught:
            await post(http, url)
    assert caught.value.certificate


async def test_a_broken_handshake_is_not_blamed_on_the_certificate(http: HttpTransport) -> None:
    """A load balancer that cuts handshakes under load is away for a moment, not permanently wrong."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async with listening(cut) as url:
        with pytest.raises(NotSent) as caught:
            await post(http, url.replace("http:", "https:"))
    assert not caught.value.certificate


# --- the environment


async def test_the_proxy_from_the_environment_is_used(http: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its password; NO_PROXY names what goes direct."""
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await read_request(reader))[0])
        writer.write(OK)

    async with listening(proxy) as url, simulator() as direct:
        monkeypatch.setenv("http_proxy", url.replace("http://", "http://me:secret@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (await post(http, "http://teacher.test/v1")).status == 200
        assert (await post(http, direct)).status == 200
    assert len(seen) == 1
    assert seen[0].startswith(b"POST http://teacher.test/v1 ")
    assert b"Basic " + base64.b64encode(b"me:secret") in seen[0]


async def test_a_refused_proxy_tunnel_counts_as_not_sent(http: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher never received the request."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with listening(proxy) as url:
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(NotSent):
            await post(http, "https://teacher.test/v1")


async def test_passwords_from_netrc_are_not_sent(
    http: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes only from the recipe's reference."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            heads.append((await read_request(reader))[0])
            writer.write(OK)

    async with listening(handler) as url:
        await post(http, url)
        await post(http, url, authorization="Bearer k")
    assert b"authorization" not in heads[0].lower()
    assert b"bearer k" in heads[1].lower()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sockets are found in Linux's /proc")
async def test_an_unacknowledged_connection_is_given_up(http: HttpTransport) -> None:
    """The kernel is set up for this (tests/hosts cuts a real link), and probes each: a NAT drops silent ones."""
    found: list[tuple[int, int, int]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        found.append(tcp_options(writer.get_extra_info("peername")))
        writer.write(OK)

    async with listening(handler) as url:
        await http.send(HttpRequest("POST", url, {}, CHAT), timeout_s=5)
    assert found == [(20_000, 1, 20)]


def tcp_options(local: tuple[str, int]) -> tuple[int, int, int]:
    """TCP_USER_TIMEOUT, SO_KEEPALIVE and TCP_KEEPIDLE of this process's socket at an address."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(entry.name))) as ours:
                if ours.getsockname() == local:
                    return (
                        ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                        ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                        ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                    )
        except OSError:
            continue  # no socket, or gone meanwhile
    raise AssertionError(f"no socket at {local}")
