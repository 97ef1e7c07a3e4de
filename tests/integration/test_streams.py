"""Runs whose answers are streamed: the records of their unstreamed twins, over every protocol, and past gateways."""

import asyncio
import contextlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import FIRST, body_of, chunk_of, open_chunk, questions, recipe_of, sealed, write_source
from harness import run_in_process

from stillhouse.gen.journal.frames import COMPRESSED, EVENT_STREAM, Kind, frames
from stillhouse.gen.simulator import serve
from stillhouse.gen.teachers import http as http_module
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
PLAIN: dict[str, dict[str, Any]] = {
    "openai-chat": {"ask": {"seed": 3}},
    "openai-responses": {"ask": {"reasoning_effort": "low"}},
    "gemini": {"ask": {"reasoning_effort": "low", "seed": 3}},
    "anthropic": {"ask": {"max_tokens": 2000}, "extra": THINKING},
    "bedrock": {"ask": {"max_tokens": 2000}, "extra": {"additionalModelRequestFields": THINKING}},
}
TOOLS: dict[str, dict[str, Any]] = {
    "openai-chat": {"tools": [{"type": "function", "function": TOOL}]},
    "openai-responses": {"tools": [{"type": "function", **TOOL}]},
    "gemini": {"tools": [{"functionDeclarations": [TOOL]}]},
    "anthropic": {"tools": [{"name": "add", "input_schema": TOOL["parameters"]}]},
    "bedrock": {"toolConfig": {"tools": [{"toolSpec": {"name": "add", "inputSchema": {"json": TOOL["parameters"]}}}]}},
}
SCORED = ("openai-chat", "openai-responses", "gemini")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((api, PLAIN[api]) for api in PLAIN),
    *((api, {"ask": {"max_tokens": 2000}, "extra": TOOLS[api]}) for api in TOOLS),
    *((api, {"ask": {"top_logprobs": 2}}) for api in SCORED),
]
OWN = ("asked_at", "latency_s", "response_id", "endpoint")
"""Columns in which twins differ; `endpoint`, because each has its own server, whose serial numbers start over."""


def recipe_at(root: Path, url: str, **teacher: Any) -> Recipe:
    """One teacher at a simulator, whose version may be left out; requests run one at a time, so serials agree."""
    api = teacher.get("api", "openai-chat")
    given: dict[str, Any] = {
        "name": "t",
        "base_url": url if api == "openai-chat" else url.removesuffix("/v1"),
        "model": "m",
    }
    given |= {"limits": {"in_flight": 1}, "price": {"input": 1, "output": 10}, "terms": {"training_use": "permitted"}}
    if api == "bedrock":
        given["api_key"] = "env:T_KEY"
    return recipe_of(root, teachers=[given | teacher])


def rows(recipe: Recipe) -> list[dict[str, Any]]:
    """All records and rejected answers, in order, without the fields in which twins may differ."""
    found: list[dict[str, Any]] = []
    for folder in ("data", "rejected"):
        path = Path(recipe.dataset.path) / folder
        found += pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []
    for row in found:
        for name in OWN:
            del row[name]
    return sorted(found, key=lambda row: str(row["record_id"]))


@pytest.mark.parametrize(("api", "asked"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_streamed_run_gives_the_same_records_as_an_unstreamed_one(
    tmp_path: Path, api: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reasoning, tool calls and log-probabilities; and each was asked for as it should be."""
    monkeypatch.setenv("T_KEY", "canary-key-4f9d-for-the-tests")
    twins = []
    for stream in (False, True):
        root = tmp_path / str(stream)
        write_source(root, questions(6))
        settings = SimulatorSettings(output_tokens=(20, 300), reasoning="reasoning_content", tool_calls=0.5)
        async with await serve(settings) as server:
            recipe = recipe_at(root, server.url, api=api, stream=stream, **asked)
            summary = await run_in_process(recipe)
        assert summary.requests == 6
        twins.append(rows(recipe))
    assert len(twins[0]) == 6
    for whole, streamed in zip(*twins, strict=True):
        assert {name: (whole[name], streamed[name]) for name in whole if whole[name] != streamed[name]} == {}


async def test_streaming_gets_past_a_gateway_that_cuts_silent_connections(tmp_path: Path) -> None:
    """After the first time-out, with a note; every sample is answered."""
    crew: list[Worker] = []
    write_source(tmp_path, questions(3))
    faults = [{"kind": "silence", "after_s": 1.05}]
    async with await serve(SimulatorSettings.model_validate({"latency_s": 1.3, "faults": faults})) as server:
        recipe = recipe_at(tmp_path, server.url, limits={"in_flight": 3})
        summary = await run_in_process(recipe, crew=crew.extend)
    assert (summary.records, summary.failed, summary.maybe_billed) == (3, 0, 3)
    assert [note for note in crew[0].counters.notes if "streamed from now on" in note]


async def test_a_worker_streams_from_the_start_if_answers_timed_out_for_another(tmp_path: Path) -> None:
    """The queue passes on what workers report, so that nothing is paid for and lost again."""
    write_source(tmp_path, questions(3))
    faults = [{"kind": "silence", "after_s": 1.05}]
    async with await serve(SimulatorSettings.model_validate({"latency_s": 1.3, "faults": faults})) as server:
        recipe = recipe_at(tmp_path, server.url, limits={"in_flight": 3})
        known = ("t", server.url.split("/")[2])
        summary = await run_in_process(recipe, crew=lambda crew: crew[0].counters.streamed.append(known))
    assert (summary.records, summary.requests, summary.maybe_billed) == (3, 3, 0)


async def test_a_gateway_that_cuts_silent_connections_is_reported_without_streaming(tmp_path: Path) -> None:
    """With the status, the time, and the way past it."""
    write_source(tmp_path, questions(1))
    faults = [{"kind": "silence", "after_s": 1.05, "status": 504}]
    async with await serve(SimulatorSettings.model_validate({"latency_s": 1.3, "faults": faults})) as server:
        recipe = recipe_at(tmp_path, server.url, ask={"max_tokens": 4096}, max_attempts=1)
        summary = await run_in_process(recipe)
    assert summary.failed == 1
    (row,) = pq.read_table(tmp_path / "out" / "failed", partitioning=None).to_pylist()
    cut = r"longer than [1-9]\d* s are cut on the way \(HTTP 504: .*`stream: true` gets past that"
    assert re.search(cut, row["message"])


def stream_of(text: str, *, pieces: int) -> bytes:
    """An answer as a stream of about this many pieces."""
    size = -(-len(text) // pieces)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": {"content": part}, "finish_reason": None} for part in parts]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    frame = {"id": "chatcmpl-1", "model": "simulator"}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    events = [json.dumps(each) for each in [*(frame | {"choices": [choice]} for choice in choices), usage]]
    return "".join(f"data: {each}\n\n" for each in [*events, "[DONE]"]).encode()


GOOD = stream_of("Four.", pieces=2)
FIRST_EVENT, SECOND_EVENT = (event + b"\n\n" for event in GOOD.split(b"\n\n")[:2])
FINISHED = GOOD[: GOOD.index(b'data: {"choices": []')]
JSON = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
ERROR = b'data: {"error": {"message": "The engine died", "type": "server_error", "code": 500}}\n\n'


def chunks(body: bytes, *, at: int | None = None, ends: bool = True) -> bytes:
    """A chunked reply of this body, which may be cut in two, and may lack its end."""
    pieces = [body] if at is None else [body[:at], body[at:]]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return CHUNKED + sent + (b"0\r\n\r\n" if ends else b"")


REPLIES: dict[str, tuple[bytes, int, int]] = {
    "good": (chunks(GOOD), 1, 0),
    "comments": (chunks(b": hello\n\n" + GOOD.replace(b"data: {", b"event: x\ndata: {")), 1, 0),
    "CRLF": (chunks(GOOD.replace(b"\n", b"\r\n")), 1, 0),
    "json": (JSON + body_of("Four."), 1, 0),
    "no end marker": (chunks(GOOD.removesuffix(b"data: [DONE]\n\n")), 1, 0),
    "ends behind its finish": (chunks(FINISHED), 1, 0),
    "cut behind its finish": (chunks(FINISHED, ends=False), 2, 1),
    "cut": (chunks(FIRST_EVENT, ends=False), 2, 1),
    "ends early": (chunks(FIRST_EVENT + SECOND_EVENT), 2, 1),
    "error at once": (chunks(ERROR), 2, 0),
    "error in the answer": (chunks(FIRST_EVENT + ERROR), 2, 1),
    "reset within an event": (chunks(GOOD[:70], ends=False), 2, 1),
    "pings alone": (chunks(b": ping\n\n" * 3), 2, 1),
    "in two packets": (chunks(GOOD, at=33), 1, 0),
}
"""By name: the first reply to the prompt, the requests that it takes, and how many may be billed for nothing."""


@pytest.mark.parametrize("stream", [True, False])
async def test_odd_streams_are_read_or_retried(tmp_path: Path, stream: bool) -> None:
    """Each ends in the same record, after as many requests as it takes, even if no stream was requested."""
    asked: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        assert request.get("stream", False) is stream
        name = request["messages"][0]["content"]
        asked[name] += 1
        writer.write(REPLIES[name][0] if asked[name] == 1 else REPLIES["good"][0])
        await writer.drain()
        writer.close()

    write_source(tmp_path, [{"id": name, "question": name} for name in REPLIES])
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        recipe = recipe_at(tmp_path, url, stream=stream, limits={"in_flight": 8})
        summary = await run_in_process(recipe)
    assert asked == {name: requests for name, (_, requests, _) in REPLIES.items()}
    assert {row["completion"][0]["content"] for row in rows(recipe)} == {"Four."}
    assert (summary.records, summary.maybe_billed) == (len(REPLIES), sum(lost for *_, lost in REPLIES.values()))


async def test_an_endless_stream_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `max_attempts`, each of which may be billed; the other prompts have their answers."""
    monkeypatch.setattr(http_module, "MAX_REPLY_BYTES", 2**18)
    asked: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        name = json.loads(await reader.readexactly(length))["messages"][0]["content"]
        asked[name] += 1
        with contextlib.suppress(OSError):
            writer.write(chunks(GOOD) if name != "endless" else CHUNKED)
            while name == "endless":
                writer.write(chunks(FIRST_EVENT * 100, ends=False).removeprefix(CHUNKED))
                await writer.drain()
        writer.close()

    names = ["endless", *(f"say {n}" for n in range(6))]
    write_source(tmp_path, [{"id": name, "question": name} for name in names])
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        recipe = recipe_at(tmp_path, url, stream=True, max_attempts=2, limits={"in_flight": 4})
        summary = await run_in_process(recipe)
    assert asked == dict.fromkeys(names, 1) | {"endless": 2}
    assert (summary.state, summary.records, summary.failed_by_kind) == ("done", 6, {"ambiguous": 1})
    (row,) = pq.read_table(tmp_path / "out" / "failed", partitioning=None).to_pylist()
    assert (row["prompt_id"], row["attempts"], row["maybe_billed"]) == ("endless", 2, 2)
    assert "the reply is larger than" in row["message"]


async def test_a_failure_shows_the_part_of_its_stream_that_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not the key that the stream repeats."""
    key = "canary-key-4f9d-for-the-tests"
    monkeypatch.setenv("T_KEY", key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(chunks(FIRST_EVENT.replace(b"Fou", key.encode()) + b"data: {", ends=False))
        await writer.drain()
        writer.close()

    write_source(tmp_path, questions(1))
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        summary = await run_in_process(recipe_at(tmp_path, url, stream=True, max_attempts=2, api_key="env:T_KEY"))
    assert (summary.failed, summary.maybe_billed) == (1, 2)
    (row,) = pq.read_table(tmp_path / "out" / "failed", partitioning=None).to_pylist()
    assert row["kind"] == "ambiguous"
    assert row["body_head"] == FIRST_EVENT.decode().replace("Fou", "[key]") + "data: {"


@pytest.mark.parametrize("pieces", [2, 2000])
def test_a_stream_is_journalled_raw_and_whole(tmp_path: Path, pieces: int) -> None:
    """Marked as a stream, and compressed if it is long; every reader of the journal gets the same answer."""
    recipe, held = chunk_of(tmp_path, questions(2))
    text = "word " * 800
    raw = stream_of(text, pieces=pieces)
    held.sent(0, at=1.0)
    reply = Reply(200, {"content-type": "text/event-stream"}, raw)
    received = held.received(0, reply, at=1.0, latency_s=0.5, endpoint="h")
    held.answered(received)
    assert isinstance(received.outcome, Completion)
    assert received.outcome.text == text
    with Path(held.journal.path).open("rb") as file:
        (answered,) = [frame for frame in frames(file, origin="j") if frame.kind is Kind.ANSWERED]
    assert answered.flags == (EVENT_STREAM | COMPRESSED if len(raw) > 2**14 else EVENT_STREAM)
    assert answered.body == raw
    if pieces > 2:
        assert Path(held.journal.path).stat().st_size < len(raw) / 5
    again = open_chunk(recipe, FIRST, worker="w1")
    again.recover([answered._replace(kind=Kind.SENT, body=b"", flags=0), answered], died=False)
    assert again.left == 1
    assert again.state.answers.outcome(0, answered) == received.outcome
    held.sent(1, at=2.0)
    held.answered(held.received(1, Reply(200, {}, body_of(text)), at=2.0, latency_s=0.5, endpoint="h"))
    _, files = sealed(recipe, held)
    assert [row["completion"][0]["content"] for row in files["data"]] == [text, text]


def test_a_key_split_over_stream_events_is_not_kept(tmp_path: Path) -> None:
    """It is removed from the record, as from unstreamed answers."""
    key = "canary-key-4f9d-for-the-tests"
    _, held = chunk_of(tmp_path, questions(1))
    held.samples.teacher(0).keys = (key,)
    held.sent(0, at=1.0)
    raw = stream_of(f"Your key is {key}.", pieces=8)
    assert key.encode() not in raw
    received = held.received(0, Reply(200, {}, raw), at=1.0, latency_s=0.5, endpoint="h")
    assert isinstance(received.outcome, Completion)
    assert received.outcome.text == "Your key is [key]."
