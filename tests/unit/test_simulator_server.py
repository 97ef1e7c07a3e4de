"""The simulator over real sockets: HTTP, faults, limits and the log."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from stillhouse.gen.simulator import serve
from stillhouse.schemas.prompt import prompt_key
from stillhouse.schemas.simulator import SimulatorSettings

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def client(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a simulator with these settings."""
    async with (
        await serve(SimulatorSettings.model_validate(settings)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        yield http


async def talk(http: httpx.AsyncClient, data: bytes) -> bytes:
    """Send bytes over a connection of its own and read until the server closes it."""
    reader, writer = await dial(http)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def dial(http: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to the client's server."""
    return await asyncio.open_connection(http.base_url.host, http.base_url.port)


def raw(body: bytes, *, close: bool = False) -> bytes:
    """A chat request as bytes."""
    last = b"Connection: close\r\n" if close else b""
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), last, body)


async def stats(http: httpx.AsyncClient) -> dict[str, Any]:
    """The simulator's counters."""
    answer = await http.get(str(http.base_url).replace("/v1/", "/_stats"))
    found: dict[str, Any] = answer.json()
    return found


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The log's lines."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


# -- HTTP


async def test_a_completion_is_complete() -> None:
    """Body, usage and headers as the provider sends them."""
    async with client() as http:
        answer = await http.post("chat/completions", json=HELLO)
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-request-id"] == "req_0"
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-0", "chat.completion", "m")
    choice = body["choices"][0]
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["prompt_tokens"] == 2
    assert usage["completion_tokens"] == -(-len(choice["message"]["content"]) // 4)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": ["hi"]}', "messages[0]"),
        (b'{"model": "m", "messages": [{"role": "user", "content": 1}]}', "messages[0].content"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "n": 0}', "n"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": "9"}', "max_tokens"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 3}', "top_logprobs"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 21}',
         "top_logprobs"),
    ],
)  # fmt: skip
async def test_bad_bodies_get_400(body: bytes, param: str | None) -> None:
    """With the provider's error object, and the connection lives on."""
    async with client() as http:
        answer = await http.post("chat/completions", content=body)
        assert (await http.post("chat/completions", json=HELLO)).status_code == 200
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_wrong_paths_and_methods_are_refused() -> None:
    """Models, health, and JSON errors for what isn't there."""
    async with client(model="sim-1") as http:
        assert (await http.get("models")).json()["data"][0]["id"] == "sim-1"
        assert (await http.get(str(http.base_url).replace("/v1/", "/healthz"))).json() == {"status": "ok"}
        assert (await http.get("chat/completions")).status_code == 405
        missing = await http.post("embeddings", json={})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")


async def test_a_wrong_key_is_refused_and_masked() -> None:
    """401, and the body holds no whole key."""
    async with client(api_key="sk-right") as http:
        wrong = await http.post(
            "chat/completions", json=HELLO, headers={"authorization": "Bearer sk-wrong-secret-1234"}
        )
        none = await http.post("chat/completions", json=HELLO)
        right = await http.post("chat/completions", json=HELLO, headers={"authorization": "Bearer sk-right"})
    assert (wrong.status_code, none.status_code, right.status_code) == (401, 401, 200)
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert "secret" not in wrong.text


async def test_pipelined_requests_are_answered_in_order() -> None:
    """A thousand in one write, the last one closing."""
    body = orjson.dumps(HELLO)
    async with client(latency_s=0.0) as http:
        answer = await talk(http, raw(body) * 999 + raw(body, close=True))
    ids = [int(part.split(b'"', 1)[0]) for part in answer.split(b"chatcmpl-")[1:]]
    assert ids == list(range(1000))


async def test_pipelined_requests_wait_for_their_turn() -> None:
    """With a latency, the second begins when the first is answered; nothing is lost."""
    body = orjson.dumps(HELLO)
    async with client(latency_s=0.001) as http:
        answer = await talk(http, raw(body) * 199 + raw(body, close=True))
        assert (await stats(http))["peak_in_flight"] == 1
    assert answer.count(b"HTTP/1.1 200 OK") == 200


async def test_chunked_bodies_and_expect_are_handled() -> None:
    """A body in chunks is read; a client that asks first is told to continue."""
    body = orjson.dumps(HELLO)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    pieces = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
    async with client() as http:
        answer = await talk(http, head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        reader, writer = await dial(http)
        writer.write(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
    ],
)
async def test_broken_requests_end_the_connection(data: bytes, status: bytes) -> None:
    """What breaks the protocol or a bound is answered and closed; others are served on."""
    async with client() as http:
        assert (await talk(http, data)).startswith(b"HTTP/1.1 " + status)
        assert (await http.post("chat/completions", json=HELLO)).status_code == 200


# -- faults


async def test_status_faults_carry_body_and_headers() -> None:
    """As ordered; without a body, what the provider or its proxy sends."""
    fault = {"kind": "status", "status": 503, "body": "busy", "headers": {"Retry-After": "7"}}
    async with client(faults=[fault]) as http:
        answer = await http.post("chat/completions", json=HELLO)
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "busy", "7")
    for status, kind in ((500, "application/json"), (502, "text/html"), (529, "application/json")):
        async with client(faults=[{"kind": "status", "status": status}]) as http:
            answer = await http.post("chat/completions", json=HELLO)
        assert (answer.status_code, answer.headers["content-type"]) == (status, kind)


@pytest.mark.parametrize("when", ["before", "headers", "body"])
async def test_reset_faults_reset_the_connection(when: str) -> None:
    """The client sees a reset; what came before it is what was ordered."""
    async with client(faults=[{"kind": "reset", "when": when}]) as http:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await http.post("chat/completions", json=HELLO)
        with socket.create_connection((http.base_url.host, http.base_url.port or 0)) as sock:
            sock.sendall(raw(orjson.dumps(HELLO)))
            received = await asyncio.to_thread(read_until_reset, sock)
        assert (await stats(http))["faults"] == {"reset": 2}
    head, _, body = received.partition(b"\r\n\r\n")
    assert bool(head) == (when != "before")
    assert bool(body) == (when == "body")


def read_until_reset(sock: socket.socket) -> bytes:
    """What arrives before the RST."""
    received = b""
    try:
        while piece := sock.recv(65536):
            received += piece
    except ConnectionResetError:
        return received
    raise AssertionError("the connection was closed in good order")


async def test_truncate_faults_cut_the_body() -> None:
    """Half of the body that the headers promise."""
    async with client(faults=[{"kind": "truncate"}]) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
            await http.post("chat/completions", json=HELLO)
        answer = await talk(http, raw(orjson.dumps(HELLO)))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert (
        b"content-length: %d\r\n" % (len(body) * 2) in head or b"content-length: %d\r\n" % (len(body) * 2 + 1) in head
    )


async def test_hang_faults_hold_a_slot_until_the_client_leaves(tmp_path: Path) -> None:
    """No byte comes; afterwards the log has the request, not delivered."""
    log = tmp_path / "log.jsonl"
    async with client(faults=[{"kind": "hang"}], log=str(log)) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("chat/completions", json=HELLO, timeout=httpx.Timeout(60, read=0.2))
    (line,) = log_lines(log)
    assert (line["fault"], line["delivered"]) == ("hang", False)
    assert line["latency_s"] >= 0.15


async def test_trickle_faults_defeat_read_timeouts() -> None:
    """The whole right body, in pieces, over the time that was ordered."""
    async with client(faults=[{"kind": "trickle", "over_s": 2.4}]) as http:
        began_s = time.monotonic()
        answer = await http.post("chat/completions", json=HELLO, timeout=1.6)
        lasted_s = time.monotonic() - began_s
        assert (await stats(http))["delivered"] == 1
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert 1.8 <= lasted_s < 60


async def test_equal_seeds_give_equal_fates(tmp_path: Path) -> None:
    """Faults and answers by serial number are the same both times, and differ under another seed."""

    async def fates(seed: int) -> list[tuple[Any, ...]]:
        log = tmp_path / f"{seed}-{time.monotonic_ns()}.jsonl"
        faults = [{"kind": "status", "share": 0.3}, {"kind": "truncate", "share": 0.2}]
        async with client(seed=seed, faults=faults, log=str(log)) as http:
            for _ in range(40):
                await talk(http, raw(orjson.dumps(HELLO), close=True))
        return [(line["serial"], line["fault"], line.get("completions")) for line in log_lines(log)]

    first = await fates(1)
    assert first == await fates(1) != await fates(2)
    assert {fault for _, fault, _ in first} == {None, "status", "truncate"}


# -- limits


async def test_limits_refuse_with_real_headers() -> None:
    """The 429 has the provider's body, both retry headers and the state; after the wait the request is served."""
    async with client(limits={"requests_per_minute": 20, "burst_s": 3.0}) as http:
        began_s = time.monotonic()
        served, refused = [await http.post("chat/completions", json=HELLO) for _ in range(2)]
        assert served.headers["x-ratelimit-limit-requests"] == "20"
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        wait_ms = int(refused.headers["retry-after-ms"])
        assert 0 < wait_ms <= 3000
        assert refused.headers["retry-after"] == str(-(-wait_ms // 1000))
        due_s = time.monotonic() + wait_ms / 1000
        status = 429
        while status == 429:
            due = time.monotonic() >= due_s
            status = (await http.post("chat/completions", json=HELLO)).status_code
            assert status == 200 or not due, "it is refused for longer than was said"
        assert time.monotonic() - began_s > 2.99, "two in less than 3 s"
        assert (await stats(http))["by_status"]["200"] == 2


async def test_in_flight_never_exceeds_its_limit() -> None:
    """Of 20 at once, 5 are served and 15 refused."""
    async with client(limits={"in_flight": 5}, latency_s=0.3) as http:
        answers = await asyncio.gather(*[http.post("chat/completions", json=HELLO) for _ in range(20)])
        counters = await stats(http)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 15
    assert (counters["peak_in_flight"], counters["in_flight"]) == (5, 0)


async def test_the_counters_give_arrival_and_end_times() -> None:
    """From the first request's arrival to the end of the last answer, in seconds of uptime; null before any."""
    async with client(latency_s=0.1) as http:
        assert (await stats(http))["first_at_s"] is None
        for _ in range(2):
            await http.post("chat/completions", json=HELLO)
        counters = await stats(http)
    assert 0.2 <= counters["last_at_s"] - counters["first_at_s"] < counters["uptime_s"]


# -- the log


async def test_every_request_is_logged_on_one_line(tmp_path: Path) -> None:
    """With key, tokens, status and the texts' hashes; serial numbers continue from the first process."""
    log = tmp_path / "log.jsonl"
    async with client(log=str(log), first_serial=100) as http:
        answers = [
            await http.post("chat/completions", json={"model": "m", "messages": [{"role": "user", "content": text}]})
            for text in ("one", "two", "three")
        ]
        await http.post("chat/completions", content=b"{")
    lines = log_lines(log)
    assert all(line.keys() == lines[0].keys() for line in lines)
    assert [(line["serial"], line["status"], line["delivered"]) for line in lines] == [
        (100, 200, True),
        (101, 200, True),
        (102, 200, True),
        (103, 400, True),
    ]
    for line, answer, text in zip(lines, answers, ("one", "two", "three"), strict=False):
        body = answer.json()
        assert line["id"] == body["id"]
        assert line["prompt"] == prompt_key((("user", text),)).hex()
        assert line["completions"] == [sha256(body["choices"][0]["message"]["content"].encode()).hexdigest()[:32]]
        assert line["completion_tokens"] == body["usage"]["completion_tokens"]
        assert abs(line["time"] - time.time()) < 60


async def test_an_answer_to_a_departed_client_is_not_delivered(tmp_path: Path) -> None:
    """It left during the latency: the line says so, and is written before the latency ends."""
    log = tmp_path / "log.jsonl"
    async with client(log=str(log), latency_s=30.0) as http:
        _, writer = await dial(http)
        writer.write(raw(orjson.dumps(HELLO)))
        await until(http, in_flight=1)
        writer.close()
        await until(http, in_flight=0)
    (line,) = log_lines(log)
    assert (line["status"], line["delivered"]) == (200, False)


async def until(http: httpx.AsyncClient, *, in_flight: int) -> None:
    """Wait until the simulator counts this many."""
    async with asyncio.timeout(60):
        while (await stats(http))["in_flight"] != in_flight:
            pass


async def test_a_stream_is_spread_over_the_latency() -> None:
    """Its head comes at once and its events on the way, so that a reader sees it live."""
    async with client(latency_s=3.0, output_tokens=(2000, 2000)) as http:
        began, seen = time.monotonic(), []
        async with http.stream("POST", "chat/completions", json=HELLO | {"stream": True}) as answer:
            headed = time.monotonic() - began
            async for line in answer.aiter_lines():
                seen += [(time.monotonic() - began, line)] if line else []
    assert seen[-1][1] == "data: [DONE]"
    assert headed < seen[-1][0] / 2
    assert seen[0][0] < 2.4 < seen[-1][0]
    assert len({round(at, 1) for at, _ in seen}) > 2


async def test_a_gateway_cuts_silent_connections_and_lets_streams_pass() -> None:
    """After its timeout, with its status; the provider still bills the answer."""
    fault = {"kind": "silence", "after_s": 0.1}
    async with client(latency_s=0.4, faults=[fault]) as http:
        cut = await http.post("chat/completions", json=HELLO)
        passed = await http.post("chat/completions", json=HELLO | {"stream": True})
        counted = await stats(http)
    assert cut.status_code == 524
    assert (passed.status_code, passed.text.endswith("data: [DONE]\n\n")) == (200, True)
    assert counted["faults"] == {"silence": 1}
    assert counted["completion_tokens"] > 32
    async with client(faults=[fault]) as http:
        assert (await http.post("chat/completions", json=HELLO)).status_code == 200
