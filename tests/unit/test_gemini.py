"""Gemini's generateContent: what is asked of AI Studio and of Vertex, and everything that a reply says."""

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
    Rate,
    ServerError,
    TooLong,
    Trouble,
)
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.teacher import Teacher

STUDIO = "https://generativelanguage.googleapis.com"
VERTEX = "https://europe-west1-aiplatform.googleapis.com"
USAGE = {
    "promptTokenCount": 30,
    "cachedContentTokenCount": 10,
    "candidatesTokenCount": 8,
    "thoughtsTokenCount": 42,
    "toolUsePromptTokenCount": 3,
    "totalTokenCount": 83,
}


def teacher(base_url: str = STUDIO, **fields: Any) -> Teacher:
    """A teacher of this API."""
    terms = {"training_use": "by-authorisation", "authorisation": "a"}
    given = {"name": "t", "api": "gemini", "base_url": base_url, "model": "gemini-3.1-pro", "terms": terms}
    return Teacher.model_validate(given | fields)


def asked(ask: Ask, *messages: tuple[str, str], sample: int = 0, **fields: Any) -> Any:
    """The body of a request."""
    return json.loads(sent(ask, *messages, sample=sample, **fields)[2])


def sent(
    ask: Ask, *messages: tuple[str, str], sample: int = 0, key: str = "k", **fields: Any
) -> tuple[str, Any, bytes]:
    """(URL, headers, body) of a request."""
    one = teacher(**fields)
    ask_of = Request(messages or (("user", "hi"),), sample)
    request = protocol_of(one, ask).request(ask_of, base_url=one.urls[0], key=Credentials(key), now=0)
    return request.url, request.headers, request.body


def answer(*parts: dict[str, Any], finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    """A document with one candidate."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    candidate |= {"finishReason": finish} if finish else {}
    return {
        "candidates": [candidate | fields],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-3.1-pro-001",
        "responseId": "r1",
    }


def read(body: Any, *, status: int = 200, **fields: Any) -> Outcome:
    """The outcome of a reply."""
    return outcome_of(protocol_of(teacher(**fields), Ask()), body, status=status)


def completion(body: Any, **fields: Any) -> Completion:
    """The completion in a reply."""
    return completed(read(body, **fields))


def test_a_request_holds_every_parameter() -> None:
    """Names of this API; the seed counts on; `extra` is merged into objects."""
    ask = Ask(
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=7,
        max_tokens=99,
        top_logprobs=3,
        reasoning_effort="low",
        extra={"generationConfig": {"topK": 5}, "safetySettings": []},
    )
    messages = (("system", "Be brief."), ("user", "hi"), ("assistant", "ho"), ("user", "hey"))
    assert asked(ask, *messages, sample=2) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"text": "ho"}]},
            {"role": "user", "parts": [{"text": "hey"}]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 9,
            "maxOutputTokens": 99,
            "responseLogprobs": True,
            "logprobs": 3,
            "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
            "topK": 5,
        },
        "safetySettings": [],
    }


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-flash", "2000", {"thinkingBudget": 2000, "includeThoughts": True}),
        ("gemini-3.8-flash", "high", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ],
)
def test_effort_is_a_budget_or_a_level(model: str, effort: str, config: dict[str, Any]) -> None:
    """By the model's generation."""
    assert asked(Ask(reasoning_effort=effort), model=model)["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize(
    ("base_url", "model", "url"),
    [
        (STUDIO, "m", f"{STUDIO}/v1beta/models/m:generateContent"),
        (f"{STUDIO}/v1beta", "models/m", f"{STUDIO}/v1beta/models/m:generateContent"),
        (f"{STUDIO}/v1", "m", f"{STUDIO}/v1/models/m:generateContent"),
        ("http://gateway.local/gemini", "m", "http://gateway.local/gemini/v1beta/models/m:generateContent"),
        (
            f"{VERTEX}/v1/projects/p/locations/l/publishers/google",
            "m",
            f"{VERTEX}/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
        ),
        (
            f"{VERTEX}/projects/p/locations/l",
            "publishers/google/models/m",
            f"{VERTEX}/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
        ),
        (
            "https://aiplatform.googleapis.com",
            "m",
            "https://aiplatform.googleapis.com/v1/publishers/google/models/m:generateContent",
        ),
        (
            "https://aiplatform.eu.rep.googleapis.com/v1beta1/projects/p/locations/eu",
            "m",
            "https://aiplatform.eu.rep.googleapis.com/v1beta1/projects/p/locations/eu/publishers/google"
            "/models/m:generateContent",
        ),
    ],
)
def test_version_and_publisher_may_be_omitted(base_url: str, model: str, url: str) -> None:
    """For AI Studio and for Vertex."""
    assert sent(Ask(), base_url=base_url, model=model)[0] == url


def test_the_key_is_sent_in_the_hosts_header() -> None:
    """AI Studio's key has a header of its own, Vertex's token is a bearer token, and Vertex's express key goes like the
    first.
    """
    vertex = f"{VERTEX}/v1/projects/p/locations/l"
    for base_url, key, name, value in (
        (STUDIO, "AIza1", "x-goog-api-key", "AIza1"),
        (vertex, "ya29.1", "authorization", "Bearer ya29.1"),
        (vertex, "AIza1", "x-goog-api-key", "AIza1"),
    ):
        url, headers, _ = sent(Ask(), base_url=base_url, key=key)
        assert headers[name] == value
        assert {"x-goog-api-key", "authorization"} & headers.keys() == {name}
        assert key not in url


def test_a_full_answer_is_read() -> None:
    """Thoughts, their signature, text, usage as Google means it, model and id."""
    parts = ({"text": "Adds.", "thought": True}, {"text": "4", "thoughtSignature": "c2ln"})
    assert completion(answer(*parts)) == Completion(
        text="4",
        finish_reason="stop",
        finish_reason_raw="STOP",
        reasoning="Adds.",
        reasoning_source="thought_part",
        model="gemini-3.1-pro-001",
        response_id="r1",
        usage=Usage(33, 10, 50, 42),
        reasoning_is_summary=True,
        reasoning_signatures='[{"part": 1, "thoughtSignature": "c2ln"}]',
    )


def test_calls_take_the_form_of_chat_completions() -> None:
    """Their arguments are an object here, and text there."""
    part = {"functionCall": {"name": "add", "args": {"a": 2, "b": "ü"}}, "thoughtSignature": "c2ln"}
    found = completion(answer(part))
    assert (found.text, found.finish_reason) == (None, "tool_calls")
    (call,) = json.loads(found.tool_calls or "")
    assert call == {"id": None, "type": "function", "function": {"name": "add", "arguments": '{"a":2,"b":"ü"}'}}
    assert found.reasoning_signatures is not None


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("OTHER", "unknown"),
        ("FINISH_REASON_UNSPECIFIED", "unknown"),
        (None, "unknown"),
        ("WEIRD", "unknown"),
    ],
)
def test_finish_reasons(finish: str | None, expected: str) -> None:
    """Raw and normalised."""
    found = completion(answer({"text": "x"}, finish=finish))
    assert (found.finish_reason, found.finish_reason_raw) == (expected, finish)


@pytest.mark.parametrize("finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"])
def test_malformed_calls_are_retried(finish: str) -> None:
    """With what they cost; a recipe may see it otherwise."""
    outcome = read(answer(finish=finish, finishMessage="Malformed function call: add("))
    assert isinstance(outcome, ServerError)
    assert "add(" in outcome.message
    assert outcome.usage.output_tokens == 50
    assert completion(answer({"text": "x"}, finish=finish), finish_reasons={finish: "stop"}).finish_reason == "stop"


def test_a_blocked_prompt_is_a_refusal() -> None:
    """There is no candidate: it is kept with its category, and never asked again."""
    found = completion({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": USAGE})
    assert (found.text, found.finish_reason, found.refusal_category) == (None, "refused", "PROHIBITED_CONTENT")
    assert "blocked" in (found.refusal or "")
    assert found.usage.input_tokens == 33


def test_a_blocked_answer_names_the_harm() -> None:
    """Or else its finish reason."""
    ratings = [
        {"category": "HARM_CATEGORY_HARASSMENT", "probability": "LOW"},
        {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True},
    ]
    found = completion(answer(finish="SAFETY", safetyRatings=ratings))
    assert found.refusal_category == "HARM_CATEGORY_DANGEROUS_CONTENT"
    assert completion(answer(finish="SPII")).refusal_category == "SPII"


def test_log_probabilities_come_with_ids() -> None:
    """The chosen token need not be among the likeliest."""
    result = {
        "chosenCandidates": [{"token": "4", "tokenId": 17, "logProbability": -0.1}],
        "topCandidates": [{"candidates": [{"token": "5", "tokenId": 18, "logProbability": -2.5}]}],
    }
    found = completion(answer({"text": "4"}, logprobsResult=result))
    assert found.logprobs == [
        {"token": "4", "token_id": 17, "logprob": -0.1, "top": [{"token": "5", "token_id": 18, "logprob": -2.5}]}
    ]


def test_an_answer_may_be_all_thoughts() -> None:
    """Then there are no parts, and no token count for the answer."""
    usage = {"promptTokenCount": 5, "thoughtsTokenCount": 90, "totalTokenCount": 95}
    document = {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}], "usageMetadata": usage}
    found = completion(document)
    assert (found.text, found.finish_reason, found.usage) == (None, "length", Usage(5, None, 90, 90))


def chunks() -> list[dict[str, Any]]:
    """A stream of three documents."""
    first = answer({"text": "Adds.", "thought": True}, finish=None) | {"usageMetadata": {"promptTokenCount": 30}}
    return [first, answer({"text": "4"}, finish=None), answer({"text": "2", "thoughtSignature": "c2ln"})]


def test_a_stream_reads_like_an_unstreamed_reply() -> None:
    """As events or as an array; one without a finish reason is cut."""
    whole = completion(answer(*(part for each in chunks() for part in each["candidates"][0]["content"]["parts"])))
    lines = [f"data: {json.dumps(each)}\r\n\r\n" for each in chunks()]
    assert read("".join(lines).encode()) == whole == read(chunks())
    assert whole.text == "42"
    assert isinstance(read("".join(lines[:-1]).encode()), Ambiguous)


def test_an_error_in_a_stream_may_lack_its_envelope() -> None:
    """Without its `data:`."""
    lines = [f"data: {json.dumps(each)}\r\n\r\n" for each in chunks()[:2]]
    error = google(503, "UNAVAILABLE", "The model is overloaded.")
    for end in (json.dumps(error, indent=2), f"data: {json.dumps(error)}\n\n"):
        found = read(("".join(lines) + end).encode())
        assert isinstance(found, ServerError)
        assert "The model is overloaded." in found.message


def google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """Google's error object."""
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.837906927s"}
MINUTE = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateContentInputTokensPerModelPerMinute", "quotaMetric": "input_token_count"}],
}
DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaMetric": "requests"}],
}
TOO_LONG = "The input token count (9) exceeds the maximum number of tokens allowed (8)."
NO_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", MINUTE, RETRY), Rate),
        (429, [google(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.")], Rate),
        (429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", DAY, RETRY), Money),
        (402, google(402, "RESOURCE_EXHAUSTED", "Your prepaid credits are gone."), Money),
        (400, google(400, "INVALID_ARGUMENT", "API key not valid.", NO_KEY), Auth),
        (400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), Auth),
        (401, google(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), Auth),
        (403, google(403, "PERMISSION_DENIED", "Permission denied on resource project p."), Auth),
        (400, google(400, "INVALID_ARGUMENT", "Logprobs is not supported for this model."), BadRequest),
        (400, google(400, "INVALID_ARGUMENT", TOO_LONG), TooLong),
        (404, google(404, "NOT_FOUND", "models/x is not found for API version v1beta"), BadRequest),
        (500, google(500, "INTERNAL", "An internal error has occurred."), ServerError),
        (503, google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), Overload),
        (504, google(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."), Overload),
        (503, b"<html><h1>503</h1></html>", Overload),
        (200, google(503, "UNAVAILABLE", "overloaded"), Overload),
        (200, {"usageMetadata": USAGE}, Malformed),
        (200, {"candidates": [], "usageMetadata": USAGE}, Malformed),
        (200, {"candidates": None}, Malformed),
        (200, answer(), Malformed),
        (200, {}, Malformed),
        (200, b"<html>login</html>", Malformed),
        (200, b'{"candidates": [{"content": {"par', Ambiguous),
        (200, b"\n\n\n", Ambiguous),
        (307, b"", Auth),
    ],
)  # fmt: skip
def test_replies_without_an_answer_are_recognised(status: int, body: Any, expected: type) -> None:
    """Recorded bodies, and answers that aren't complete."""
    assert type(read(body, status=status)) is expected


def test_googles_wait_is_read_from_the_body() -> None:
    """There is no header for it."""
    outcome = read(google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", MINUTE, RETRY), status=429)
    assert isinstance(outcome, Rate)
    assert outcome.retry_after_s == 45.837906927
    outcome = read(google(429, "RESOURCE_EXHAUSTED", "Please retry in 26.66s."), status=429)
    assert isinstance(outcome, Rate)
    assert outcome.retry_after_s == 26.66


@pytest.mark.parametrize("usage", [None, {}, {"promptTokenCount": "30"}, {"promptTokenCount": -1}, []])
def test_odd_usage_costs_no_answer(usage: Any) -> None:
    """It is null."""
    assert completion(answer({"text": "4"}) | {"usageMetadata": usage}).usage.input_tokens is None


NAMES = [
    *("candidates", "content", "parts", "text", "thought", "finishReason", "promptFeedback", "blockReason"),
    *("usageMetadata", "functionCall", "logprobsResult", "chosenCandidates", "safetyRatings", "error"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_json_document_becomes_an_outcome(document: Any) -> None:
    """Nothing raises."""
    assert isinstance(read(document), (Completion, Trouble))
