"""The batch APIs' pure parts: what hostile results mean, which batches count as ours, where requests go."""

import asyncio
import json
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.apart import APART_BYTES
from stillhouse.gen.teachers.batches import batches_of, read_result
from stillhouse.gen.teachers.batches.base import (
    Access,
    Answered,
    Batch,
    BatchApi,
    BatchRefused,
    Intent,
    Job,
    Result,
    Steps,
    Unreadable,
    Unserved,
)
from stillhouse.gen.teachers.batches.calls import Lines, called
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import BadRequest, Malformed, Money, Overload, Rate
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.batch import BatchSettings, BedrockBatch
from stillhouse.schemas.teacher import Teacher

T = TypeVar("T")
INTENT = Intent("0123456789abcdef01234567", 2, 1_000_000.0)
HOSTS = {
    "openai": ("openai-chat", "https://api.openai.com/v1"),
    "azure": ("openai-chat", "https://res.openai.azure.com"),
    "groq": ("openai-chat", "https://api.groq.com/openai/v1"),
    "mistral": ("openai-chat", "https://api.mistral.ai/v1"),
    "together": ("openai-chat", "https://api.together.xyz/v1"),
    "responses": ("openai-responses", "https://api.openai.com/v1"),
    "anthropic": ("anthropic", "https://api.anthropic.com"),
    "gemini": ("gemini", "https://generativelanguage.googleapis.com"),
    "bedrock": ("bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com"),
}
PLACE = BedrockBatch(role_arn="arn:aws:iam::123456789012:role/r", s3="s3://bucket/in")
ROLE = BatchSettings(bedrock=PLACE)


def teacher(name: str, **more: Any) -> Teacher:
    """A teacher at the provider."""
    api, url = HOSTS[name]
    terms = {"training_use": "by-authorisation", "authorisation": "letter 1", "license": "x", "url": "https://a.b"}
    terms["seen_on"] = "2026-11-22"
    given = {"name": "t", "api": api, "base_url": url, "model": "m", "terms": terms}
    return Teacher.model_validate(given | more)


def api(name: str, settings: BatchSettings = ROLE) -> BatchApi:
    """The provider's batch API."""
    return batches_of(teacher(name), settings)


def access(name: str) -> Access:
    """With a key that nothing may leak."""
    return Access(HOSTS[name][1], Credentials("the-key"), INTENT.at)


def played(steps: Steps[T], *replies: Reply | dict[str, Any]) -> tuple[T, list[HttpRequest]]:
    """The result of a call that gets these replies, and its requests."""
    left = [each if isinstance(each, Reply) else ok(each) for each in replies]
    sent: list[HttpRequest] = []

    async def send(request: HttpRequest) -> Reply:
        sent.append(request)
        return left.pop(0)

    found = asyncio.run(called(steps, send))
    assert not left
    return found, sent


def ok(document: Any) -> Reply:
    """A success."""
    return Reply(200, {"content-type": "application/json"}, json.dumps(document).encode())


def line(document: Any) -> bytes:
    """A line of results."""
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", HOSTS)
@given(
    data=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "custom_id",
                        "key",
                        "recordId",
                        "response",
                        "error",
                        "result",
                        "type",
                        "body",
                        "code",
                        "status_code",
                        "modelOutput",
                        "message",
                        "errorCode",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda each: json.dumps(each).encode())
)
def test_no_result_line_makes_a_reader_raise(name: str, data: bytes) -> None:
    """Whatever a line holds, it is one of the three."""
    assert isinstance(api(name).read(data), (Answered, Unserved, Unreadable))


@pytest.mark.parametrize(
    ("name", "row", "status", "body"),
    [
        ("openai", {"custom_id": "k", "response": {"status_code": 200, "body": {"id": 1}}}, 200, {"id": 1}),
        ("openai", {"custom_id": "k", "response": {"status_code": 400, "body": {"error": {}}}}, 400, {"error": {}}),
        ("openai", {"custom_id": "k", "response": None, "error": {"code": "server_error", "message": "x"}}, 500, None),
        ("mistral", {"custom_id": "k", "response": {"status_code": 200, "body": '{"id": 1}'}}, 200, {"id": 1}),
        ("anthropic", {"custom_id": "k", "result": {"type": "succeeded", "message": {"id": 1}}}, 200, {"id": 1}),
        (
            "anthropic",
            {"custom_id": "k", "result": {"type": "errored", "error": {"type": "overloaded_error", "message": "x"}}},
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        ),
        ("gemini", {"key": "k", "response": {"candidates": []}}, 200, {"candidates": []}),
        ("gemini", {"key": "k", "error": {"code": 8, "message": "x"}}, 429, {"error": {"code": 429, "message": "x"}}),
        ("bedrock", {"recordId": "k", "modelInput": {}, "modelOutput": {"output": 1}}, 200, {"output": 1}),
        ("bedrock", {"recordId": "k", "error": {"errorCode": 400, "errorMessage": "x"}}, 400, {"message": "x"}),
    ],
)  # fmt: skip
def test_a_result_is_the_reply_that_the_online_api_would_have_sent(
    name: str, row: dict[str, Any], status: int, body: dict[str, Any] | None
) -> None:
    """With its status, so that the protocol reads it like any other."""
    found = api(name).read(line(row))
    assert isinstance(found, Answered)
    assert (found.key, found.reply.status) == ("k", status)
    assert body is None or json.loads(found.reply.body) == body


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("openai", {"custom_id": "k", "response": None, "error": {"code": "batch_expired", "message": ""}}, "expired"),
        ("openai", {"custom_id": "k", "error": {"code": "batch_cancelled"}}, "cancelled"),
        ("anthropic", {"custom_id": "k", "result": {"type": "expired"}}, "expired"),
        ("anthropic", {"custom_id": "k", "result": {"type": "canceled"}}, "cancelled"),
        ("gemini", {"key": "k", "error": {"code": 1}}, "cancelled"),
    ],
)
def test_a_request_that_was_never_served_is_not_a_failure(name: str, row: dict[str, Any], why: str) -> None:
    """It cost nothing, and is asked again."""
    assert api(name).read(line(row)) == Unserved("k", "expired" if why == "expired" else "cancelled")


def test_other_runs_batches_are_ignored() -> None:
    """Another intent, no metadata, metadata of another kind, a name that is not an intent."""
    mine = {"id": "b1", "status": "in_progress", "created_at": 1_000_000, "metadata": {"stillhouse_intent": INTENT.id}}
    others = [
        {**mine, "id": "b2", "metadata": {"stillhouse_intent": "f" * 24}},
        {**mine, "id": "b3", "metadata": None},
        {**mine, "id": "b4", "metadata": {"stillhouse_intent": INTENT.id + "0"}},
        {**mine, "id": "b5", "metadata": {"stillhouse_intent": [INTENT.id]}},
    ]
    page = {"data": [*others, mine], "has_more": False}
    found, _ = played(api("openai").find(INTENT, access("openai")), page)
    assert [each.id for each in found] == ["b1"]


def test_a_listing_is_read_only_back_to_the_intent() -> None:
    """Less ten minutes, for clocks differ."""
    page = [{"id": f"b{n}", "status": "completed", "created_at": 1_000_000 - 500 * n} for n in range(3)]
    replies = [{"data": [each], "has_more": True} for each in page]
    found, sent = played(api("openai").find(INTENT, access("openai")), *replies)
    assert found == ()
    assert [request.url.rpartition("?")[2] for request in sent] == [
        "limit=100",
        "limit=100&after=b0",
        "limit=100&after=b1",
    ]


def test_anthropic_candidates_match_the_intents_size_and_time() -> None:
    """A batch has no name there, so everything else that is known about it must match."""

    def batch(identity: str, at: str, processing: int, succeeded: int = 0) -> dict[str, Any]:
        counts = {"processing": processing, "succeeded": succeeded, "errored": 0, "canceled": 0, "expired": 0}
        return {"id": identity, "processing_status": "in_progress", "created_at": at, "request_counts": counts}

    data = [
        batch("fits", "1970-01-12T13:46:50Z", 2),
        batch("other size", "1970-01-12T13:46:50Z", 3),
        batch("a little earlier", "1970-01-12T13:40:00Z", 0, succeeded=2),
        batch("too early", "1970-01-12T13:30:00Z", 2),
    ]
    found, _ = played(api("anthropic").find(INTENT, access("anthropic")), {"data": data, "has_more": True})
    assert [each.id for each in found] == ["fits", "a little earlier"]


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_batches_are_found_in_spite_of_a_providers_wrong_clock(name: str, hours: int) -> None:
    """Its reply tells its time. Those of the day before are too old by either clock, and end the reading of pages."""
    now = INTENT.at + 3600 * hours
    counts = {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}

    def batch(number: int, created: float) -> dict[str, Any]:
        moment = datetime.fromtimestamp(created, UTC).isoformat()
        shapes: dict[str, dict[str, Any]] = {
            "openai": {"id": f"b{number}", "created_at": created, "metadata": {"stillhouse_intent": INTENT.id}},
            "anthropic": {"id": f"b{number}", "created_at": moment, "request_counts": counts},
            "gemini": {"name": f"batches/b{number}", "metadata": {"displayName": INTENT.id, "createTime": moment}},
        }
        return shapes[name]

    made = [batch(1, now + 5)] if name != "gemini" else []
    old = batch(2, now - 86_400) | ({"metadata": {}} if name == "openai" else {})
    if name == "gemini":
        old["metadata"]["displayName"] = "other"
    page = {"data": [*made, old], "operations": [batch(1, now + 5), old], "has_more": True}
    dated = ok(page)._replace(headers={"date": format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)})
    found, _ = played(api(name).find(INTENT, access(name)), dated)
    assert [each.id.rpartition("/")[2] for each in found] == ["b1"]


def test_no_url_in_a_reply_gets_the_key() -> None:
    """Anthropic's results come from the endpoint; Google's upload goes to its host or nowhere."""
    ended = {"id": "b", "processing_status": "ended", "results_url": "https://evil.example/x", "request_counts": {}}
    batch, _ = played(api("anthropic").look("b", access("anthropic")), ended)
    (request,) = api("anthropic").results(batch, access("anthropic"))
    assert request.url == "https://api.anthropic.com/v1/messages/batches/b/results"
    elsewhere = Reply(200, {"x-goog-upload-url": "https://evil.example/upload"}, b"")
    with pytest.raises(BatchRefused) as refused:
        played(api("gemini").upload(Job(INTENT, [b"{}"]), access("gemini")), elsewhere)
    assert isinstance(refused.value.trouble, Malformed)


@pytest.mark.parametrize("identity", ["../../files", "batches/../x", "batches/a?b", "x" * 300])
def test_an_invalid_operation_name_is_refused(identity: str) -> None:
    """It would become part of a URL."""
    with pytest.raises(BatchRefused):
        played(api("gemini").look("batches/b", access("gemini")), {"name": identity, "metadata": {}})


@pytest.mark.parametrize(
    ("status", "error", "trouble"),
    [
        (429, {"code": "rate_limit_exceeded", "message": "slow"}, Rate),
        (429, {"code": "credit_balance_exhausted", "message": "empty"}, Money),
        (503, {"message": "later"}, Overload),
        (400, {"message": "bad"}, BadRequest),
    ],
)
def test_a_refused_creation_is_classified_as_online(status: int, error: dict[str, str], trouble: type) -> None:
    """The same vocabulary decides."""
    reply = Reply(status, {}, json.dumps({"error": error}).encode())
    with pytest.raises(BatchRefused) as refused:
        played(api("openai").create(Job(INTENT, []), "file-1", access("openai")), reply)
    assert isinstance(refused.value.trouble, trouble)


def test_a_full_queue_only_postpones_a_batch() -> None:
    """Azure reports it as the batch's error; any other error is a mistake in the input."""

    def failed(code: str) -> Batch:
        errors = {"data": [{"code": code, "message": "m", "line": 3}]}
        return played(api("azure").look("b", access("azure")), {"id": "b", "status": "failed", "errors": errors})[0]

    assert isinstance(failed("token_limit_exceeded").trouble, Rate)
    wrong = failed("invalid_json_line").trouble
    assert isinstance(wrong, BadRequest)
    assert "line 3" in wrong.message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", "https://api.openai.com/v1/batches"),
        ("azure", "https://res.openai.azure.com/openai/v1/batches"),
        ("groq", "https://api.groq.com/openai/v1/batches"),
        ("mistral", "https://api.mistral.ai/v1/batch/jobs"),
        ("responses", "https://api.openai.com/v1/batches"),
        ("anthropic", "https://api.anthropic.com/v1/messages/batches"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/models/m:batchGenerateContent"),
        ("bedrock", "https://bedrock.us-east-1.amazonaws.com/model-invocation-job"),
    ],
)
def test_a_batch_is_created_at_the_providers_url(name: str, expected: str) -> None:
    """Bedrock's control plane has a host of its own."""
    steps = api(name).create(Job(INTENT, [b"{}", b"{}"]), "file-1", access(name))
    identity = "arn:aws:bedrock:us-east-1:1:model-invocation-job/j"
    reply = {"id": "b", "name": "batches/b", "jobArn": identity, "status": "QUEUED"}
    _, (request,) = played(steps, reply)
    assert (request.method, request.url) == ("POST", expected)
    assert b"the-key" not in request.body
    assert name == "anthropic" or INTENT.id.encode() in request.body


def test_each_line_is_the_body_of_an_online_request() -> None:
    """Byte for byte, next to its id."""
    ask = protocol_of(teacher("openai"), Ask(temperature=0.5))
    request = ask.request(Request((("user", "hi"),)), base_url=HOSTS["openai"][1], key=Credentials("k"), now=0.0)
    made = api("openai").line(f"{INTENT.id}-7", request)
    assert request.body in made
    found = json.loads(made)
    assert (found["custom_id"], found["method"], found["url"]) == (f"{INTENT.id}-7", "POST", "/v1/chat/completions")


@pytest.mark.parametrize(
    ("given_teacher", "settings", "words"),
    [
        (teacher("bedrock"), BatchSettings(), "add `bedrock: {s3"),
        (teacher("gemini", base_url="https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/l"),
         BatchSettings(), "Vertex"),
        (teacher("anthropic", base_url="https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/l"),
         BatchSettings(), "Vertex has no batches of Claude"),
        (teacher("openai", base_url="https://llm.example.com/v1"), BatchSettings(), "no batch API is known"),
        (teacher("openai", profile="fireworks"), BatchSettings(), "no batch API is known"),
    ],
)  # fmt: skip
def test_a_teacher_without_a_batch_api_is_refused_with_advice(
    given_teacher: Teacher, settings: BatchSettings, words: str
) -> None:
    """Before anything is asked."""
    with pytest.raises(UsageError, match=words):
        batches_of(given_teacher, settings)


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_do_not_depend_on_packet_boundaries(lines: Sequence[bytes], step: int) -> None:
    """In pieces of any size; empty lines don't count."""
    whole = b"\n".join(lines)
    expected = [part.strip() for part in whole.split(b"\n") if part.strip()]
    found: list[bytes] = []

    async def take(line: bytes) -> None:
        found.append(line)

    async def feed() -> None:
        cut = Lines(take)
        for start in range(0, len(whole), step):
            await cut.feed(whole[start : start + step])
        await cut.end()

    asyncio.run(feed())
    assert found == expected


def test_a_missing_batch_is_lost_and_a_stranger_result_is_kept_apart() -> None:
    """A 404 is an answer; a line without an id is not a result."""
    found, _ = played(api("anthropic").look("b", access("anthropic")), Reply(404, {}, b'{"type":"error"}'))
    assert found == Batch("b", "lost")
    results: list[Result] = [api("openai").read(each) for each in (b"no json", b"[]", b'{"custom_id": 3}')]
    assert all(isinstance(each, Unreadable) for each in results)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"batch": {"max_open": 3}}, "`batch` goes with `mode: batch`"),
        ({"mode": "batch", "batch": {"bedrock": PLACE.model_dump()}}, "`batch.bedrock` goes with `api: bedrock`"),
        ({"mode": "batch", "online_price": {"input": 1, "output": 1}}, "`online_price` goes with"),
        ({"online_price": {"input": 1, "output": 1}}, "`online_price` goes with `mode: batch-then-online`"),
    ],
)
def test_ineffective_settings_are_refused(more: dict[str, Any], words: str) -> None:
    """Rather than ignored."""
    with pytest.raises(ValidationError, match=words):
        teacher("openai", **more)


async def test_a_large_result_file_is_read_line_by_line() -> None:
    """20 MB of answers, in pieces that fit no line."""
    row = {
        "custom_id": f"{INTENT.id}-1",
        "response": {"status_code": 200, "body": {"text": "x" * 10_000}},
        "error": None,
    }
    data, seen, provider = memoryview(json.dumps(row).encode() + b"\n"), 0, api("openai")

    async def take(line: bytes) -> None:
        nonlocal seen
        seen += isinstance(provider.read(line), Answered)

    cut, piece = Lines(take), bytes(data) * 7 + bytes(data[:100])
    rest, rows = bytes(data[100:]), 250
    tracemalloc.start()
    try:
        for _ in range(rows):
            await cut.feed(piece)
            await cut.feed(rest)
        await cut.end()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == rows * 8
    assert peak < 1_000_000


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("size", [10, LARGE_BYTES, APART_BYTES])
async def test_a_result_of_any_size_is_read_alike(name: str, size: int) -> None:
    """On the event loop, in a thread, or in a process of its own."""
    provider = api(name)
    row = {"custom_id": "k", "response": {"status_code": 200, "body": {"text": "ö" * size}}}
    line = json.dumps(row).encode()
    assert await read_result(teacher(name), ROLE, provider, line) == provider.read(line)
