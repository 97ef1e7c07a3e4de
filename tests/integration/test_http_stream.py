"""Streamed replies against real sockets: whole and raw whatever packets they come in, and lost where they stall."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.teachers.decoding import TooLarge
from stillhouse.gen.teachers.http import MAX_REPLY_BYTES, HttpTransport
from stillhouse.gen.teachers.http_stream import streamed_body
from stillhouse.gen.teachers.transport import HttpRequest, Lost, Reply

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
EVENT = 'data: {"choices": [{"index": 0, "delta": {"content": "é"}}]}\n\n'.encode()
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"

Script = Sequence[bytes | float]
"""What a server writes, and how long it waits in between, in seconds; it closes the connection behind it."""


@pytest.fixture
async def http() -> AsyncIterator[HttpTransport]:
    """A transport that is closed after the test."""
    transport = HttpTransport()
    yield transport
    await transport.close()


@asynccontextmanager
async def serving(script: Script, *, keeps: bool = False) -> AsyncIterator[tuple[str, list[int]]]:
    """(a URL that answers each request with the script, the ports that requests came from)."""
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                ports.append(writer.get_extra_info("peername")[1])
                for step in script:
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    else:
                        await asyncio.sleep(step)
                if not keeps:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", ports
    finally:
        server.close()


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def get(http: HttpTransport, url: str, *, timeout_s: float = 10.0, stall_timeout_s: float = 10.0) -> Reply:
    """One request."""
    return await http.send(HttpRequest("GET", url, {}, stall_timeout_s=stall_timeout_s), timeout_s=timeout_s)


async def test_a_stream_is_returned_raw_and_whole_and_its_connection_is_reused(http: HttpTransport) -> None:
    """An event in two packets, cut within a character; two in one; comments; the connection is used again."""
    at = EVENT.index("é".encode()) + 1
    script: list[bytes | float] = [
        HEAD,
        chunk(EVENT[:at]),
        0.02,
        chunk(EVENT[at:]),
        chunk(PING),
        chunk(EVENT + EVENT),
        chunk(DONE),
        LAST,
    ]
    async with serving(script, keeps=True) as (url, ports):
        for _ in range(2):
            reply = await get(http, url)
            assert (reply.status, reply.body) == (200, EVENT + PING + 2 * EVENT + DONE)
        assert len(set(ports)) == 1


async def test_many_packets_are_joined_without_loss(http: HttpTransport) -> None:
    """Two thousand events, each in its own packet."""
    script: list[bytes | float] = [HEAD]
    for number in range(2000):
        script += [chunk(b"data: %d\n\n" % number), *([0.001] if number % 10 == 0 else [])]
    async with serving([*script, LAST]) as (url, _):
        reply = await get(http, url)
    assert reply.body == b"".join(b"data: %d\n\n" % number for number in range(2000))


async def test_a_stream_of_only_pings_has_stalled(http: HttpTransport) -> None:
    """It times out long before the deadline; the message names the setting."""
    pings: list[bytes | float] = [chunk(PING), 0.05]
    async with serving([HEAD, chunk(EVENT), *pings * 400]) as (url, _):
        began = time.monotonic()
        with pytest.raises(Lost, match=r"stall_timeout_s \(0\.3 s\)") as lost:
            await get(http, url, stall_timeout_s=0.3)
    assert not lost.value.deadline
    assert time.monotonic() - began < 15.0  # the pings last 20 s


async def test_slow_events_do_not_count_as_a_stall(http: HttpTransport) -> None:
    """The time before the first event doesn't count either: a model may think, a server may queue."""
    events: list[bytes | float] = [chunk(EVENT), 0.3]
    script = [HEAD, 1.6, chunk(PING), *events * 5, chunk(DONE), LAST]
    async with serving(script) as (url, _):
        assert (await get(http, url, stall_timeout_s=1.2)).body == PING + 5 * EVENT + DONE


async def test_the_deadline_covers_the_whole_stream(http: HttpTransport) -> None:
    """However active the stream is."""
    events: list[bytes | float] = [chunk(EVENT), 0.02]
    async with serving([HEAD, *events * 500]) as (url, _):
        with pytest.raises(Lost, match="timeout_s") as lost:
            await get(http, url, timeout_s=0.4)
    assert lost.value.deadline


@pytest.mark.parametrize(
    "script",
    [
        [HEAD, chunk(EVENT)],
        [HEAD, chunk(EVENT), b"40\r\ndata: {"],
        [HEAD.replace(b"transfer-encoding: chunked", b"content-length: 5000"), EVENT, DONE[:-4]],
    ],
    ids=["no last chunk", "within a chunk", "shorter than it says"],
)
async def test_a_cut_stream_is_lost(http: HttpTransport, script: Script) -> None:
    """It may have been billed."""
    async with serving(script) as (url, _):
        with pytest.raises(Lost):
            await get(http, url)


@pytest.mark.parametrize(
    "script",
    [
        [HEAD, chunk(EVENT), chunk(DONE)],
        [HEAD, chunk(EVENT), chunk(DONE), 30.0],
        [HEAD, chunk(EVENT), chunk(DONE), *[chunk(PING), 0.1] * 300],
        [PLAIN_HEAD, EVENT, DONE],
    ],
    ids=["no last chunk", "silence", "pings for ever", "ended by its close"],
)
async def test_everything_behind_the_end_marker_is_read(http: HttpTransport, script: Script) -> None:
    """A server that never ends the body, or cuts it after the marker, has still answered."""
    async with serving(script) as (url, _):
        began = time.monotonic()
        assert (await get(http, url)).body.startswith(EVENT + DONE)
        assert time.monotonic() - began < 15.0  # there would be more for 30 s


@pytest.mark.parametrize(
    ("script", "timeout_s"),
    [([EVENT[:30]], 10.0), ([EVENT[:30], 30.0], 10.0), ([EVENT[:30], *[PING, 0.05] * 300], 2.0)],
    ids=["cut", "stalled", "too late"],
)
async def test_the_part_of_a_cut_stream_that_arrived_is_kept(
    http: HttpTransport, script: list[bytes | float], timeout_s: float
) -> None:
    """However it ended; nothing is kept of a reply that is not a stream."""
    pieces = [chunk(step) if isinstance(step, bytes) else step for step in script]
    for head, came in ((HEAD, EVENT[:30]), (HEAD.replace(b"text/event-stream", b"application/json"), None)):
        async with serving([head, *pieces]) as (url, _):
            with pytest.raises(Lost) as lost:
                await get(http, url, timeout_s=min(timeout_s, 3.0), stall_timeout_s=0.3 if timeout_s > 2 else 10.0)
        cut = lost.value.cut
        assert (cut and (cut.status, cut.body.replace(PING, b""))) == (came and (200, came))


async def test_an_endless_stream_is_cut_off_at_the_size_limit(http: HttpTransport) -> None:
    """At 64 MiB; the server is slowed down meanwhile."""
    piece = chunk(EVENT * 4000)
    async with serving([HEAD, *[piece] * (2 + MAX_REPLY_BYTES // len(piece))]) as (url, _):
        with pytest.raises(Lost, match="larger than 64 MiB"):
            await get(http, url)


async def test_a_compressed_stream_is_decoded(http: HttpTransport) -> None:
    """Although none of it can be read along the way."""
    body = gzip.compress(EVENT + DONE)
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    async with serving([head, chunk(body[:20]), 0.05, chunk(body[20:]), LAST]) as (url, _):
        assert (await get(http, url)).body == EVENT + DONE


async def read_in(packets: list[bytes]) -> bytes:
    """The body of a stream that comes in these packets."""
    waiting = iter([*packets, b""])

    async def packet() -> bytes:
        return next(waiting)

    kind = {"content-type": "text/event-stream"}
    return await streamed_body(packet, kind, socket=lambda: None, stall_timeout_s=5.0, max_bytes=4096, parts=[])


@settings(max_examples=50)
@given(st.lists(st.sampled_from([EVENT, PING, DONE, b"\n", b"data: 1\r\n\r\n"]), max_size=10), st.data())
def test_the_body_does_not_depend_on_packet_boundaries(pieces: list[bytes], data: st.DataObject) -> None:
    """Each byte once, in order."""
    body = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    packets = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if end > start]
    assert asyncio.run(read_in(packets)) == body


async def test_the_size_limit_bounds_memory() -> None:
    """It applies at the packet that exceeds it."""
    with pytest.raises(TooLarge):
        await read_in([b"x" * 4000, b"x" * 97])


async def test_a_server_that_closes_after_each_stream_loses_no_request(http: HttpTransport) -> None:
    """As llama.cpp's does, although its headers say otherwise: each stream gets a connection of its own."""
    async with serving([HEAD, chunk(EVENT), chunk(DONE), LAST]) as (url, ports):
        for _ in range(20):
            assert (await get(http, url)).body == EVENT + DONE
        assert len(set(ports)) == 20
