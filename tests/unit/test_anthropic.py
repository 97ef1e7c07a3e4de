"""Anthropic's Messages API: what is asked, and what is read from answers good, odd and broken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from replies import completed, outcome_of

from stillhouse.gen.limits.shares import Ceiling
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.limit_headers import ceilings_of
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Outcome,
    Overload,
    Policy,
    Ramp,
    Rate,
    ServerError,
    TooLong,
)
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.anthropic_errors import ANTHROPIC_ERRORS
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import HttpRequest
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, FinishReason, Usage
from stillhouse.schemas.teacher import Teacher

URL = "https://gateway.test/v1"
PERMITTED = {"training_use": "by-authorisation", "authorisation": "letter 7"}
SYSTEM_AND_USER = (("system", "s"), ("user", "q\n\u2028é"))


def teacher(**fields: Any) -> Teacher:
    """A teacher behind a URL."""
    given = {"name": "t", "api": "anthropic", "base_url": URL, "model": "m", "terms": PERMITTED}
    return Teacher.model_validate(given | fields)


def request(ask: Ask, messages: Any = SYSTEM_AND_USER, *, key: str | None = "k", **fields: Any) -> HttpRequest:
    """What is sent for these messages."""
    who = teacher(**fields)
    return protocol_of(who, ask).request(Request(messages), base_url=who.urls[0], key=Credentials(key), now=0.0)


def sent(ask: Ask, messages: Any = SYSTEM_AND_USER, **fields: Any) -> dict[str, Any]:
    """Its body."""
    found: dict[str, Any] = json.loads(request(ask, messages, **fields).body)
    return found


def message(*content: Any, **fields: Any) -> dict[str, Any]:
    """A whole reply."""
    usage = {"input_tokens": 10, "output_tokens": 3}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-5",
        "content": list(content),
        "stop_reason": "end_turn",
        "usage": usage,
    } | fields


TEXT = {"type": "text", "text": "four"}


def read(document: Any, *, status: int = 200, latency_s: float = 0.0, **fields: Any) -> Outcome:
    """What a reply says."""
    protocol = protocol_of(teacher(**fields), Ask(max_tokens=9))
    return outcome_of(protocol, document, status=status, latency_s=latency_s)


def answer(document: Any, **fields: Any) -> Completion:
    """The completion that it must be."""
    return completed(read(document, **fields))


# --- requests


def test_a_full_request_holds_every_parameter() -> None:
    """In Anthropic's names, the system prompt apart; `extra` is merged, object by object."""
    ask = Ask(
        temperature=0.7,
        stop="a",
        max_tokens=99,
        extra={"top_k": 5, "output_config": {"format": {"type": "json_schema", "schema": {}}}},
        reasoning_effort="low",
    )
    assert sent(ask) == {
        "model": "m",
        "temperature": 0.7,
        "stop_sequences": ["a"],
        "max_tokens": 99,
        "top_k": 5,
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        "system": "s",
        "messages": [{"role": "user", "content": "q\n\u2028é"}],
    }


@pytest.mark.parametrize("url", ["https://gateway.test", "https://gateway.test/v1"])
def test_the_version_in_a_base_url_may_be_missing(url: str) -> None:
    """The official client's base URL doesn't have it, and ours do."""
    assert request(Ask(max_tokens=9), base_url=url).url == "https://gateway.test/v1/messages"


def test_anthropics_own_address_is_the_default() -> None:
    """A recipe need not know it."""
    assert request(Ask(max_tokens=9), base_url=None).url == "https://api.anthropic.com/v1/messages"


def test_keys_and_tokens_use_different_headers() -> None:
    """Requests with the same headers share one object."""
    key, token = request(Ask(max_tokens=9)).headers, request(Ask(max_tokens=9), key="sk-ant-oat01-x").headers
    assert (key["x-api-key"], key["anthropic-version"], "authorization" in key) == ("k", "2023-06-01", False)
    assert (token["authorization"], "x-api-key" in token) == ("Bearer sk-ant-oat01-x", False)
    assert request(Ask(max_tokens=9), key="ABSKx").headers["authorization"] == "Bearer ABSKx"  # on Bedrock's Mantle
    protocol, credentials = protocol_of(teacher(), Ask(max_tokens=9)), Credentials("k")
    one, other = (protocol.request(Request(SYSTEM_AND_USER), base_url=URL, key=credentials, now=0.0) for _ in "ab")
    assert one.headers is other.headers


VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5"


@pytest.mark.parametrize(
    "base_url",
    [VERTEX, VERTEX.replace("/v1", ""), f"{VERTEX}/publishers/anthropic", "http://proxy/projects/p/locations/l"],
)
@pytest.mark.parametrize(("stream", "method"), [(False, "rawPredict"), (True, "streamRawPredict")])
def test_on_vertex_the_url_names_the_model(base_url: str, stream: bool, method: str) -> None:
    """And the body the API's version; a token of Google Cloud is all that it takes."""
    who = teacher(base_url=base_url, model="claude-opus-4-5@20251101")
    asked = Request((("user", "q"),), stream=stream)
    found = protocol_of(who, Ask(max_tokens=9)).request(asked, base_url=base_url, key=Credentials("ya29.1"), now=0.0)
    assert found.url.endswith(f"/publishers/anthropic/models/claude-opus-4-5@20251101:{method}")
    assert found.url.count("/v1/projects/p/locations/") == found.url.count("/publishers/") == 1
    fields = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": [{"role": "user", "content": "q"}]}
    assert json.loads(found.body) == fields | ({"stream": True} if stream else {})
    assert found.headers["authorization"] == "Bearer ya29.1"
    assert not {"x-api-key", "anthropic-version"} & found.headers.keys()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "RESOURCE_EXHAUSTED", Rate),
        (401, "UNAUTHENTICATED", Auth),
        (403, "PERMISSION_DENIED", Auth),
        (404, "NOT_FOUND", BadRequest),
        (400, "FAILED_PRECONDITION", Auth),
        (503, "UNAVAILABLE", Overload),
    ],
)
def test_vertex_refuses_in_google_s_words(status: int, code: str, expected: type) -> None:
    """Or in Anthropic's, where the model itself refuses."""
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}
    body = {"error": {"code": status, "message": "words", "status": code, "details": [wait]}}
    for document in (body, [body]):
        found = read(document, status=status, base_url=VERTEX)
        assert isinstance(found, expected)
        assert not isinstance(found, Rate) or found.retry_after_s == 7.5
    assert isinstance(read(error("overloaded_error"), status=529, base_url=VERTEX), Overload)
    assert isinstance(read(error("invalid_request_error", "prompt is too long"), status=400, base_url=VERTEX), TooLong)


def test_a_teacher_is_entirely_on_vertex_or_not_at_all() -> None:
    """Its hosts take different keys, and its images and batches depend on it."""
    with pytest.raises(ValidationError, match="make them separate teachers"):
        teacher(base_url=None, endpoints=[VERTEX, URL])


def test_adjacent_messages_of_one_role_become_one_turn() -> None:
    """The API wants turns to alternate; several system messages stay apart."""
    messages = (("system", "a"), ("developer", "b"), ("user", "c"), ("user", "d"), ("assistant", "e"), ("user", "f"))
    body = sent(Ask(max_tokens=9), messages)
    assert body["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "assistant", "content": "e"},
        {"role": "user", "content": "f"},
    ]


@pytest.mark.parametrize(
    ("system", "given", "marked"),
    [("s", None, True), ("{{ s }}", None, False), ("other", None, False), ("other", True, True), ("s", False, False)],
)
def test_a_shared_system_prompt_is_marked_for_caching(system: str, given: bool | None, marked: bool) -> None:
    """For the provider's cache; marking a prompt that is used once would only cost more."""
    body = sent(Ask(max_tokens=9, system=system), cache_prompt=given)
    block = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    assert body["system"] == ([block] if marked else "s")


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        ("claude-opus-4-8", None, {}),
        ("claude-opus-4-8", "max", {"type": "adaptive", "display": "summarized"}),
        ("claude-opus-5", None, {"type": "adaptive", "display": "summarized"}),
        ("claude-opus-5", "none", {"type": "disabled"}),
        ("claude-opus-4-5", "low", {}),
        ("unknown", "low", {}),
    ],
)
def test_visible_thoughts_are_requested(model: str, effort: str | None, fields: dict[str, str]) -> None:
    """From models that would otherwise return them without text."""
    body = sent(Ask(max_tokens=9, reasoning_effort=effort), model=model)
    assert body.get("thinking", {}) == fields
    assert body.get("output_config", {}).get("effort") == (None if effort == "none" else effort)
    own = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    assert sent(Ask(max_tokens=9, extra=own), model=model)["thinking"] == own["thinking"]


# --- answers


def test_a_full_answer_is_read() -> None:
    """Thoughts with their signatures, text, calls, usage, model and id."""
    said = answer(
        message(
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "enc"},
            {"type": "thinking", "thinking": "yes", "signature": "sig2"},
            TEXT,
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1]}},
            stop_reason="tool_use",
            usage={
                "input_tokens": 10,
                "cache_creation_input_tokens": 5,
                "cache_read_input_tokens": 85,
                "output_tokens": 30,
                "output_tokens_details": {"thinking_tokens": 20},
            },
        )
    )
    assert (said.text, said.reasoning, said.reasoning_source) == ("four", "hm\n\nyes", "thinking")
    assert (said.finish_reason, said.finish_reason_raw) == ("tool_calls", "tool_use")
    assert said.reasoning_is_summary is True
    assert json.loads(said.reasoning_signatures or "") == [
        {"signature": "sig"},
        {"redacted": "enc"},
        {"signature": "sig2"},
    ]
    assert json.loads(said.tool_calls or "") == [
        {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a":[1]}'}}
    ]
    assert said.usage == Usage(100, cached_tokens=85, output_tokens=30, reasoning_tokens=20, cache_write_tokens=5)
    assert (said.model, said.response_id) == ("claude-opus-5", "msg_1")


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
        ("pause_turn", "unknown"),
        ("something_new", "unknown"),
    ],
)
def test_finish_reasons(word: str, finish: FinishReason) -> None:
    """Raw and normalised; a turn that pauses is not a sample."""
    said = answer(message(TEXT, stop_reason=word))
    assert (said.finish_reason, said.finish_reason_raw) == (finish, word)
    assert answer(message(TEXT, stop_reason=word), finish_reasons={word: "stop"}).finish_reason == "stop"


def test_a_refusal_before_any_text_is_an_answer() -> None:
    """With its category, so that it is kept and never asked again."""
    details = {"type": "refusal", "category": "frontier_llm", "explanation": "It builds a competitor."}
    said = answer(message(stop_reason="refusal", stop_details=details, usage={"input_tokens": 0, "output_tokens": 0}))
    assert (said.text, said.finish_reason, said.refusal) == (None, "refused", "It builds a competitor.")
    assert said.refusal_category == "frontier_llm"


@pytest.mark.parametrize(
    ("model", "summary"), [("claude-3-7-sonnet-20250219", False), ("claude-x", None), ("k2", None)]
)
def test_thoughts_are_marked_as_summary_or_original(model: str, summary: bool | None) -> None:
    """Only Claude's own makers summarise; other servers speak the protocol too."""
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert answer(message(thought, TEXT, model=model)).reasoning_is_summary is summary


def test_hidden_thoughts_keep_their_signatures() -> None:
    """There is no reasoning to keep, and nothing is made up."""
    said = answer(message({"type": "thinking", "thinking": "", "signature": "sig"}, TEXT))
    assert (said.reasoning, said.reasoning_source, said.reasoning_is_summary) == (None, None, None)
    assert said.reasoning_signatures == '[{"signature":"sig"}]'


def test_inline_thoughts_are_split_off() -> None:
    """By a server behind this protocol that has no parser for them."""
    said = answer(message({"type": "text", "text": "<think>hm</think>\nfour"}))
    assert (said.text, said.reasoning, said.reasoning_source) == ("four", "hm", "think_tag")


@pytest.mark.parametrize(
    "usage", [None, [], {"input_tokens": "10"}, {"input_tokens": -1}, {"input_tokens": 1e300}, {"input_tokens": True}]
)
def test_usage_that_is_not_a_count_is_unknown(usage: Any) -> None:
    """The answer is kept."""
    assert answer(message(TEXT, usage=usage)).usage.input_tokens is None


# --- streams


def stream(*events: dict[str, Any]) -> bytes:
    """Events as they come."""
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def delta(index: int, **fields: Any) -> dict[str, Any]:
    """A piece of a block."""
    return {"type": "content_block_delta", "index": index, "delta": fields}


EVENTS = (
    {"type": "message_start", "message": message(stop_reason=None, usage={"input_tokens": 10, "output_tokens": 1})},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    delta(0, type="thinking_delta", thinking="h"),
    delta(0, type="thinking_delta", thinking="m"),
    delta(0, type="signature_delta", signature="sig"),
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "something_new"},
    delta(1, type="text_delta", text="fo"),
    delta(1, type="text_delta", text="ur"),
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    },
    delta(2, type="input_json_delta", partial_json=""),
    delta(2, type="input_json_delta", partial_json='{"a":'),
    delta(2, type="input_json_delta", partial_json="1}"),
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)


def test_a_stream_reads_like_an_unstreamed_reply() -> None:
    """Block by block, usage replaced and not added."""
    whole = message(
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        TEXT,
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
        stop_reason="tool_use",
    )
    assert answer(stream(*EVENTS)) == answer(whole)


def test_a_stop_reason_after_all_blocks_ends_a_stream_too() -> None:
    """Proxies lose the end marker; a block that has not ended may lack a piece."""
    whole = answer(stream(*EVENTS))
    assert answer(stream(*EVENTS[:-1])) == whole
    assert answer(stream(*EVENTS[:-1], error("overloaded_error"))) == whole
    assert isinstance(read(stream(*EVENTS[:-3], EVENTS[-2])), Ambiguous)
    assert answer(stream(*EVENTS[:-3], *EVENTS[-2:])) == whole


@pytest.mark.parametrize("kept", range(1, len(EVENTS) - 1))
def test_a_stream_without_its_end_is_cut(kept: int) -> None:
    """Wherever it breaks off: never recorded as a stop."""
    assert isinstance(read(stream(*EVENTS[:kept])), Ambiguous)


def test_an_error_before_an_answer_keeps_its_meaning() -> None:
    """After any number of events without content; a policy error is one even later."""
    assert isinstance(read(stream(*EVENTS[:2], error("overloaded_error"))), Overload)
    blocked = error("invalid_request_error", "Output blocked by content filtering policy")
    assert isinstance(read(stream(*EVENTS[:5], blocked)), Policy)


def test_arguments_that_are_not_json_are_kept_verbatim() -> None:
    """After a proper end they are the model's fault."""
    events: list[dict[str, Any]] = [
        *EVENTS[:13],
        delta(2, type="input_json_delta", partial_json='{"a": oops'),
        *EVENTS[-2:],
    ]
    said = answer(stream(*events))
    assert json.loads(said.tool_calls or "")[0]["function"]["arguments"] == '{"a": oops'


# --- errors


def error(kind: str, said: str = "words", **details: Any) -> dict[str, Any]:
    """Anthropic's error body."""
    return {"type": "error", "error": {"type": kind, "message": said} | details, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, error("invalid_request_error", "temperature: range: 0..1"), BadRequest),
        (400, error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), TooLong),
        (400, error("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), Money),
        (400, error("invalid_request_error", "You have reached your specified API usage limits."), Money),
        (400, error("invalid_request_error", "You have reached your specified workspace API usage limits."), Money),
        (401, error("authentication_error", "invalid x-api-key"), Auth),
        (402, error("billing_error"), Money),
        (403, error("permission_error"), Auth),
        (404, error("not_found_error", "model: claude-9"), BadRequest),
        (409, error("conflict_error"), ServerError),
        (413, error("request_too_large"), TooLong),
        (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>", TooLong),
        (429, error("rate_limit_error", "This request would exceed your organization's rate limit of 50"), Rate),
        (429, error("rate_limit_error", "exceeds your organization's maximum usage increase rate: acceleration"), Ramp),
        (429, error("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}), Money),
        (500, error("api_error", "Internal server error"), ServerError),
        (502, b"<html><title>502 Bad Gateway</title></html>", Overload),
        (529, error("overloaded_error", "Overloaded"), Overload),
        (200, error("overloaded_error", "Overloaded"), Overload),
        (200, error("api_error", "Internal server error"), Malformed),
        (200, {}, Malformed),
        (200, [], Malformed),
        (200, message(), Malformed),
        (200, message() | {"content": None}, Malformed),
        (200, {"data": {"content": "four"}}, Malformed),
        (200, message(7), Malformed),
        (200, message({"type": "text", "text": None}), Malformed),
        (200, b"", Ambiguous),
        (200, b'{"type": "mess', Ambiguous),
        (200, b'\xff\xfe{"a', Malformed),
        (200, b"<!doctype html><title>Sign in</title>", Malformed),
        (307, b"", Auth),
        (422, b"plain words", BadRequest),
    ],
)
def test_replies_are_classified(status: int, body: Any, expected: type) -> None:
    """The provider's own bodies, those of proxies in front of it, and bodies that no provider should send."""
    assert isinstance(read(body, status=status), expected), read(body, status=status)


@pytest.mark.parametrize(
    "document",
    [
        message() | {"content": "four"},
        message() | {"content": TEXT},
        message(None, TEXT),
        message("fo", "ur"),
        {"data": message(TEXT), "error": None},
        [{"code": 0, "result": {"message": message(TEXT)}}],
    ],
)
def test_an_answer_is_read_in_other_shapes(document: Any) -> None:
    """Text for blocks, nulls among them, envelopes: gateways' ways."""
    assert answer(document) == answer(message(TEXT))


def test_a_refusal_needs_no_content() -> None:
    """The refusal itself says that there is no answer."""
    said = answer(message(stop_reason="refusal") | {"content": None})
    assert (said.text, said.finish_reason) == (None, "refused")


def test_an_unreadable_message_is_shown() -> None:
    """The Failure quotes it."""
    found = read(message(7))
    assert isinstance(found, Malformed)
    assert "Error" not in found.message
    assert '"content": [7]' in found.message


def test_a_gateways_time_limit_may_have_been_billed() -> None:
    """It had forwarded the request."""
    assert isinstance(read(error("timeout_error"), status=504, latency_s=60.0), Ambiguous)


def test_limits_are_read_from_headers() -> None:
    """The reset is a moment by the server's clock."""
    headers = {
        "date": "Thu, 26 Nov 2026 10:00:00 GMT",
        "anthropic-ratelimit-requests-remaining": "30",
        "anthropic-ratelimit-requests-reset": "2026-11-26T10:01:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "6000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-26T10:00:30Z",
    }
    assert ceilings_of(headers, ANTHROPIC_ERRORS, age_s=0.0) == {
        "requests": Ceiling(0.5, 60.0, 0.0),
        "input": Ceiling(200.0, 30.0, 0.0),
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ("id", "content", "stop_reason", "stop_details", "usage", "model", "error")


@given(st.sampled_from(_FIELDS), json_values, st.integers(200, 599))
def test_reading_never_raises(field: str, value: Any, status: int) -> None:
    """Whatever is in any field, and the texts can be stored."""
    document = message({"type": "thinking", "thinking": "hm"}, TEXT) | {field: value}
    read(json.dumps(document).encode(), status=status)
    read(json.dumps(message(value)).encode())
    read(stream(*EVENTS[:1], delta(0, text=value), {"type": "message_delta", "delta": value}, *EVENTS[-1:]))


@given(st.binary(max_size=200))
def test_any_bytes_are_read(body: bytes) -> None:
    """Always as some outcome."""
    read(body)
