"""OpenAI's Responses: what is asked, and everything that a reply says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replies import completed, outcome_of

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Outcome,
    Overload,
    Policy,
    Rate,
    ServerError,
    Trouble,
)
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.teacher import Teacher

USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 5},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 80,
}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Adds."}, {"type": "summary_text", "text": "Checks."}],
    "encrypted_content": "gAAAA",
}


def teacher(**fields: Any) -> Teacher:
    """A teacher of this API."""
    terms = {"training_use": "by-authorisation", "authorisation": "a"}
    given = {"name": "t", "api": "openai-responses", "base_url": "https://api.openai.com/v1", "model": "gpt-5.1"}
    return Teacher.model_validate(given | {"terms": terms} | fields)


def asked(ask: Ask, *messages: tuple[str, str], base_url: str = "https://api.openai.com/v1") -> tuple[str, Any]:
    """(URL, body) of a request."""
    protocol = protocol_of(teacher(base_url=base_url), ask)
    request = protocol.request(
        Request(messages or (("user", "hi"),), 2), base_url=base_url, key=Credentials("k"), now=0
    )
    assert request.headers["api-key" if "azure" in base_url else "authorization"].removeprefix("Bearer ") == "k"
    return request.url, json.loads(request.body)


def message(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An item with parts."""
    return {"type": "message", "role": "assistant", "status": "completed", "content": list(parts)} | fields


def said(text: str, **fields: Any) -> dict[str, Any]:
    """A part with text."""
    return {"type": "output_text", "text": text, "annotations": []} | fields


def response(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A response with these items."""
    given = {"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5.1-2026", "usage": USAGE}
    return given | {"error": None, "incomplete_details": None, "output": list(items)} | fields


def read(body: Any, *, status: int = 200, **fields: Any) -> Outcome:
    """The outcome of a reply."""
    return outcome_of(protocol_of(teacher(**fields), Ask()), body, status=status)


def completion(body: Any, **fields: Any) -> Completion:
    """The completion in a reply."""
    return completed(read(body, **fields))


def test_a_request_holds_every_parameter_and_asks_not_to_be_stored() -> None:
    """Names of this API; reasoning is wanted summed up and encrypted; `extra` is merged into objects."""
    ask = Ask(
        max_tokens=99, reasoning_effort="low", temperature=0.5, extra={"reasoning": {"mode": "pro"}, "metadata": {}}
    )
    url, body = asked(ask, ("system", "Be brief."), ("user", "hi"))
    assert url == "https://api.openai.com/v1/responses"
    assert body == {
        "model": "gpt-5.1",
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "store": False,
        "temperature": 0.5,
        "max_output_tokens": 99,
        "reasoning": {"effort": "low", "summary": "auto", "mode": "pro"},
        "include": ["reasoning.encrypted_content"],
        "metadata": {},
    }


def test_models_without_reasoning_are_not_asked_for_it() -> None:
    """They would refuse it."""
    _, body = asked(Ask(reasoning_effort="none", top_logprobs=3))
    assert body["reasoning"] == {"effort": "none"}
    assert (body["include"], body["top_logprobs"]) == (["message.output_text.logprobs"], 3)
    assert asked(Ask())[1].keys() == {"model", "input", "store"}


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/responses"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/responses"),
        ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/responses"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/responses"),
        ("https://r.openai.azure.com/openai", "https://r.openai.azure.com/openai/v1/responses"),
        ("https://gateway.local/team/v1", "https://gateway.local/team/v1/responses"),
    ],
)
def test_the_version_may_be_omitted(base_url: str, url: str) -> None:
    """Of a bare host."""
    assert asked(Ask(), base_url=base_url)[0] == url


def test_a_full_answer_is_read() -> None:
    """Summary, encrypted reasoning, text, usage, model and id."""
    assert completion(response(REASONING, message(said("4")))) == Completion(
        text="4",
        finish_reason="stop",
        finish_reason_raw="completed",
        reasoning="Adds.\n\nChecks.",
        reasoning_source="reasoning_item",
        model="gpt-5.1-2026",
        response_id="resp_1",
        usage=Usage(30, 10, 50, 40, 5),
        reasoning_is_summary=True,
        reasoning_signatures='[{"id": "rs_1", "encrypted_content": "gAAAA"}]',
    )


def test_original_reasoning_is_preferred_to_its_summary() -> None:
    """As servers of open models give it."""
    own = REASONING | {"content": [{"type": "reasoning_text", "text": "2+2 is 4"}]}
    found = completion(response(own, message(said("4"))))
    assert (found.reasoning, found.reasoning_is_summary) == ("2+2 is 4", False)


def test_calls_take_the_form_of_chat_completions() -> None:
    """Whatever the protocol."""
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": '{"a":2}'}
    found = completion(response(REASONING, item))
    assert (found.text, found.finish_reason) == (None, "tool_calls")
    assert json.loads(found.tool_calls or "") == [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}}
    ]


def test_a_refusal_is_an_outcome() -> None:
    """It is a part with a type of its own."""
    found = completion(response(message({"type": "refusal", "refusal": "I can't."})))
    assert (found.text, found.finish_reason, found.refusal) == (None, "refused", "I can't.")


@pytest.mark.parametrize(("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
def test_an_incomplete_response_gives_its_reason(reason: str, finish: str) -> None:
    """The reason is kept as it came; all may be gone into reasoning."""
    found = completion(response(REASONING, status="incomplete", incomplete_details={"reason": reason}))
    assert (found.finish_reason, found.finish_reason_raw, found.text) == (finish, reason, None)


def test_the_answer_is_the_final_message() -> None:
    """The comments before it are not part of it."""
    found = completion(
        response(message(said("Let me see."), phase="commentary"), message(said("4"), phase="final_answer"))
    )
    assert found.text == "4"


def test_log_probabilities_are_kept() -> None:
    """Of all parts, in their order."""
    token = {"token": "4", "logprob": -0.1, "bytes": [52], "top_logprobs": [{"token": "5", "logprob": -2.5}]}
    found = completion(response(message(said("4", logprobs=[token]), said("4", logprobs=[token]))))
    assert found.logprobs is not None
    assert len(found.logprobs) == 2
    assert found.logprobs[0]["top"] == [{"token": "5", "token_id": None, "logprob": -2.5}]


def test_a_stream_reads_like_an_unstreamed_reply() -> None:
    """The last event holds the response; a stream without one is cut."""
    whole = response(REASONING, message(said("4")))
    events = [
        {"type": "response.created", "sequence_number": 0, "response": whole | {"status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "sequence_number": 1, "delta": "4"},
    ]
    last = {"type": "response.completed", "sequence_number": 2, "response": whole}
    lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in [*events, last]]
    assert read("".join(lines).encode()) == completion(whole)
    assert isinstance(read("".join(lines[:-1]).encode()), Ambiguous)
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}
    assert isinstance(read(f"{lines[0]}event: error\ndata: {json.dumps(error)}\n\n".encode()), Rate)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("server_error", ServerError),
        (None, ServerError),
        ("rate_limit_exceeded", Rate),
        ("invalid_prompt", Policy),
        ("bio_policy", Policy),
        ("data_residency_mismatch", BadRequest),
        ("invalid_image_url", BadRequest),
        ("image_content_policy_violation", Policy),
        ("vector_store_timeout", ServerError),
    ],
)
def test_a_failed_response_with_status_200_is_recognised(code: str | None, expected: type) -> None:
    """Its code decides; what it cost is kept where it is tried again."""
    outcome = read(response(status="failed", error={"code": code, "message": "m"}))
    assert type(outcome) is expected
    assert not isinstance(outcome, ServerError) or outcome.usage.output_tokens == 50


def error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            error("Unsupported parameter: 'temperature'", "invalid_request_error", "unsupported_parameter"),
            BadRequest,
        ),
        (401, error("Incorrect API key provided", "invalid_request_error", "invalid_api_key"), Auth),
        (403, error("Country not supported", "request_forbidden", "unsupported_country_region_territory"), Auth),
        (404, error("The model does not exist", "invalid_request_error", "model_not_found"), BadRequest),
        (429, error("Rate limit reached", "tokens", "rate_limit_exceeded"), Rate),
        (429, error("x", "insufficient_quota", "credit_balance_exhausted"), Money),
        (429, error("x", "insufficient_quota", "organization_spend_limit_exceeded"), Money),
        (429, error("x", "insufficient_quota", "project_spend_limit_exceeded"), Money),
        (429, error("x", "requests", "organization_usage_limit_exceeded"), Money),
        (503, error("Overloaded", "service_unavailable_error", "server_is_overloaded"), Overload),
        (503, b"<html><h1>503</h1></html>", Overload),
        (200, {"error": {"message": "?", "type": "server_error", "code": "server_error"}}, Malformed),
        (200, response(), Malformed),
        (200, response(message(said(""))), Malformed),
        (200, response(output=None), Malformed),
        (200, response(message(said("x")), status="in_progress"), Malformed),
        (200, b"<html>login</html>", Malformed),
        (200, b"\xff\xfe{", Malformed),
        (200, b'{"output": [{"type": "mess', Ambiguous),
        (200, b"\n\n\n", Ambiguous),
        (307, b"", Auth),
    ],
)
def test_replies_without_an_answer_are_recognised(status: int, body: Any, expected: type) -> None:
    """Recorded bodies, and answers that aren't complete."""
    assert type(read(body, status=status)) is expected


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": "30"}, {"input_tokens": -1, "output_tokens": 1e999}, []])
def test_odd_usage_costs_no_answer(usage: Any) -> None:
    """It is null."""
    assert completion(response(message(said("4")), usage=usage)).usage.input_tokens is None


def test_padding_and_envelopes_are_ignored() -> None:
    """Blank lines before the document, and a gateway's object around it."""
    body = json.dumps({"data": response(message(said("4")))}).encode()
    assert completion(b"\n\n \n" + body).text == "4"


NAMES = [
    *("output", "type", "content", "text", "status", "error", "usage", "summary", "response", "logprobs"),
    *("message", "reasoning", "output_text", "incomplete_details", "arguments"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner | st.sampled_from(["message", "reasoning", "output_text", "function_call", "failed", "refusal"]),
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_json_document_becomes_an_outcome(document: Any) -> None:
    """Nothing raises."""
    assert isinstance(read(document), (Completion, Trouble))
