"""What a reply that is not an answer means: the providers' own bodies, and anything at all."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillhouse.gen.limits.shares import Ceiling, Resource
from stillhouse.gen.teachers.durations import MAX_WAIT_S, retry_after_s
from stillhouse.gen.teachers.header_trust import PROBE_S, SILENT, HeaderTrust
from stillhouse.gen.teachers.limit_headers import ceilings_of
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Overload,
    Policy,
    Ramp,
    Rate,
    ServerError,
    TooLong,
    Trouble,
    kind_of,
)
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.refused_parameters import refused_parameter
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.teachers.vocabulary import COMMON
from stillhouse.schemas.ask import Ask


def trouble(status: int, body: Any = b"", **headers: str) -> Trouble:
    """The trouble of a reply; a body that is not bytes is sent as JSON; header names take `_` for `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return trouble_of(Reply(status, named, data), OPENAI_ERRORS)


def openai(message: str, kind: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object, which most others copy."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    """Anthropic's."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """Google's."""
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.837906927s"}
PER_MINUTE = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateContentInputTokensPerModelPerMinute", "quotaMetric": "input_token_count"}],
}
PER_DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaMetric": "requests"}],
}
AZURE_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}
MODERATION = {
    "error": {
        "code": 403,
        "message": "Your chosen model requires moderation and your input was refused.",
        "metadata": {"reasons": ["violence"], "flagged_input": "…", "provider_name": "p"},
    }
}
IN_FLIGHT_BUDGET = {
    "error": {"code": 402, "message": "Wait.", "metadata": {"limit_source": "openrouter_in_flight_budget"}}
}
CLOUDFLARE = b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head><body>cloudflare</body></html>"
VLLM_OLD = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
TPM = "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 35612."


@pytest.mark.parametrize(
    ("expected", "status", "body"),
    [
        (Rate, 429, openai("Rate limit reached for requests", "requests", "rate_limit_exceeded")),
        (Rate, 429, anthropic("rate_limit_error", "Number of request tokens has exceeded your per-minute rate limit")),
        (Rate, 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", PER_MINUTE, RETRY_INFO)),
        (Rate, 429, [google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", PER_MINUTE)]),
        (Rate, 429, {"message": "Too many requests, please wait."}),  # Bedrock: the class is in a header
        (Rate, 429, b""),
        (Rate, 402, IN_FLIGHT_BUDGET),
        (Rate, 200, {"error": {"code": 429, "message": "upstream is rate-limited"}}),  # OpenRouter, once it has begun
        (Ramp, 429, openai("Please slow down.", "requests", "slow_down")),
        (Ramp, 503, openai("Slow down", "server_error", "slow_down")),
        (Ramp, 429, anthropic("rate_limit_error", "This request would exceed your organization's acceleration limit.")),
        (Money, 429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota")),
        (Money, 429, openai("No credit", "billing", "credit_balance_exhausted")),
        (Money, 429, anthropic("rate_limit_error", "x") | {"error": {"type": "enforced_spend_limit_reached"}}),
        (Money, 400, openai("Billing hard limit has been reached", None, "billing_hard_limit_reached")),
        (Money, 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error")),  # DeepSeek
        (Money, 402, {"error": {"code": 402, "message": "Insufficient credits"}}),
        (Money, 402, b""),
        (Money, 400, anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API.")),
        (Money, 402, anthropic("billing_error", "Pay")),
        (Money, 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", PER_DAY, RETRY_INFO)),
        (Auth, 401, openai("Incorrect API key provided: sk-a*****z.", "invalid_request_error", "invalid_api_key")),
        (Auth, 401, anthropic("authentication_error", "invalid x-api-key")),
        (Auth, 403, anthropic("permission_error", "Your API key does not have permission")),
        (Auth, 400, google(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"})),
        (Auth, 403, {"Message": "The security token included in the request is expired"}),
        (Auth, 403, b"<html><body>Your network was flagged.</body></html>"),
        (Auth, 307, b""),
        (Overload, 529, anthropic("overloaded_error", "Overloaded")),
        (Overload, 503, openai("The server is overloaded", "server_error", "server_is_overloaded")),
        (Overload, 503, CLOUDFLARE),
        (Overload, 502, b"<html><h1>502 Bad Gateway</h1></html>"),
        (Overload, 504, b""),
        (Overload, 408, {"message": "Model timed out"}),  # Bedrock's ModelTimeoutException
        (Overload, 424, {"message": "Model error", "originalStatusCode": 500}),
        (Overload, 524, CLOUDFLARE),
        (Overload, 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),  # llama.cpp
        (Overload, 503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),  # Ollama
        (Overload, 200, {"error": {"code": 502, "message": "Provider returned error"}}),
        (ServerError, 409, openai("Conflict")),
        (ServerError, 500, openai("The server had an error", "server_error")),
        (ServerError, 500, anthropic("api_error", "Internal server error")),
        (ServerError, 500, b"Internal Server Error"),
        (TooLong, 400, openai("This model's maximum context length is 8192 tokens.", "x", "context_length_exceeded")),
        (TooLong, 400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
        (TooLong, 400, google(400, "INVALID_ARGUMENT", "Input exceeds the maximum number of tokens allowed")),
        (TooLong, 400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}),
        (TooLong, 400, {"message": "Input is too long for requested model."}),  # Bedrock
        (TooLong, 400, VLLM_OLD),
        (TooLong, 413, CLOUDFLARE),
        (TooLong, 413, anthropic("request_too_large", "Request exceeds the maximum size")),
        (TooLong, 429, openai(TPM, "tokens", "rate_limit_exceeded")),
        (BadRequest, 400, openai("Unknown parameter: 'foo'.", "invalid_request_error", "unknown_parameter")),
        (BadRequest, 404, openai("The model does not exist", "invalid_request_error", "model_not_found")),
        (BadRequest, 404, anthropic("not_found_error", "model: nope")),
        (BadRequest, 422, b"Failed to deserialize the JSON body: missing field `model`"),  # DeepSeek
        (BadRequest, 422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}),  # FastAPI
        (BadRequest, 404, {"detail": "Not Found"}),
        (BadRequest, 400, {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}),
        (Policy, 400, openai("Your request was rejected", "invalid_request_error", "content_policy_violation")),
        (Policy, 400, openai("Invalid prompt: limited access", "invalid_request_error", "invalid_prompt")),
        (Policy, 400, AZURE_FILTER),
        (Policy, 403, MODERATION),
        (Malformed, 200, {"error": {"message": "?", "code": "server_error"}}),
        (Malformed, 200, {"error": "something"}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:60],
)  # fmt: skip
def test_providers_messages_are_classified(expected: type, status: int, body: Any) -> None:
    """Status, codes and types decide; a message only where it is the documented sign."""
    assert type(trouble(status, body)) is expected


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, openai("two\nlines\tand  more"), "two lines and more"),
        (404, {"detail": "Not Found"}, "Not Found"),
        (422, {"detail": [{"msg": "required"}]}, '{"detail": [{"msg": "required"}]}'),
        (503, {"error": "server busy"}, "server busy"),
        (422, b"plain \xff text", "plain \ufffd text"),
        (500, b"", "HTTP 500 without a body"),
        (307, b"", "redirected to another address; HTTP 307 without a body"),
        (500, {"error": {"message": "x" * 5000}}, "x" * 500),
    ],
)
def test_the_message_is_one_short_line(status: int, body: Any, message: str) -> None:
    """Whatever shape it came in."""
    assert trouble(status, body).message == message


def test_the_status_is_kept() -> None:
    """An error in a 200 gives the status it names, where it names one."""
    assert trouble(404, b"").status == 404
    assert trouble(200, {"error": {"code": 502, "message": "m"}}).status == 502
    assert trouble(200, {"error": {"code": 7, "message": "m"}}).status == 200


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "8"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "8"}, 8.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, MAX_WAIT_S),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),  # our clock is no measure
        ({"retry-after": "-5"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e12"}, MAX_WAIT_S),
        ({"retry-after-ms": "1e12"}, MAX_WAIT_S),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    """Milliseconds, seconds, a date by the server's clock; what is not a wait says nothing."""
    assert retry_after_s(headers) == wait_s


DATELIKE = st.lists(
    st.sampled_from(["Wed,", "21", "Oct", "2026", "99999", "07:28:00", "25:61", "GMT", "+9999", "-0000", ":", "-1"])
)
HEADER = st.text(max_size=40) | DATELIKE.map(" ".join)


@given(headers=st.dictionaries(st.sampled_from(["retry-after-ms", "retry-after", "date"]), HEADER))
def test_any_retry_after_is_a_bounded_wait(headers: dict[str, str]) -> None:
    """Nothing in a header raises, or makes us wait forever."""
    wait_s = retry_after_s(headers)
    assert wait_s is None or 0 <= wait_s <= MAX_WAIT_S


@given(
    st.integers(200, 599),
    st.sampled_from(
        [b"", b"<html>", b'{"error": {"code": 429}}', json.dumps(google(429, "RESOURCE_EXHAUSTED", "m")).encode()]
    ),
    st.dictionaries(
        st.sampled_from([*OPENAI_ERRORS.kept_headers, "x-ratelimit-remaining", "server", "x-request-id"]), HEADER
    ),
)
def test_outcomes_depend_only_on_kept_headers(status: int, body: bytes, headers: dict[str, str]) -> None:
    """What is read live is what a journal has."""
    kept = {name: value for name, value in headers.items() if name in OPENAI_ERRORS.kept_headers}
    assert trouble_of(Reply(status, headers, body), OPENAI_ERRORS) == trouble_of(
        Reply(status, kept, body), OPENAI_ERRORS
    )


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        (google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", PER_MINUTE, RETRY_INFO), 45.837906927),
        ([google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", RETRY_INFO)], 45.837906927),
        (google(429, "RESOURCE_EXHAUSTED", "Quota exceeded. Please retry in 26.66s."), 26.66),
        (openai("Rate limit reached. Please try again in 120ms.", "requests", "rate_limit_exceeded"), 0.12),
        (openai("Rate limit reached. Please try again in 6m0s.", "requests", "rate_limit_exceeded"), 360.0),
        (openai("Rate limit reached. Please try again in 2 days.", "requests", "rate_limit_exceeded"), None),
        (google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", {"retryDelay": "soon"}), None),
        (google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", {"retryDelay": {"seconds": 3}}), None),
    ],
)
def test_a_wait_can_come_from_the_body(body: Any, wait_s: float | None) -> None:
    """Google's RetryInfo, or the message."""
    found = trouble(429, body)
    assert isinstance(found, Rate)
    assert found.retry_after_s == wait_s


def test_a_wait_in_the_header_wins_over_the_body() -> None:
    """If both state a wait, the header's counts, even a zero."""
    found = trouble(429, google(429, "RESOURCE_EXHAUSTED", "m", RETRY_INFO), retry_after="0")
    assert isinstance(found, Rate)
    assert found.retry_after_s == 0.0


def test_an_overload_can_state_its_wait() -> None:
    """A 503 may order one too."""
    found = trouble(503, b"", retry_after="3")
    assert isinstance(found, Overload)
    assert found.retry_after_s == 3.0


@pytest.mark.parametrize(
    ("status", "message", "loading"),
    [
        (503, "Loading model", True),
        (503, "Model org/name-7b is currently loading", True),
        (503, "The model is being loaded, please retry", True),
        (500, "Please wait: loading the model", True),
        (503, "The server is still starting up", True),
        (503, "The engine is currently overloaded, please try again later.", False),
        (503, "no healthy upstream", False),
        (502, "Bad Gateway", False),
    ],
)
def test_a_loading_server_is_recognised(status: int, message: str, loading: bool) -> None:
    """However it says so; one that is overloaded is not loading."""
    found = trouble(status, {"error": {"message": message}})
    assert isinstance(found, Overload)
    assert found.loading == loading
    assert kind_of(found) == ("loading" if loading else "overload")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "type", "message", "details", "retryDelay", "detail", "status", "reason"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.sampled_from(["retry-after-ms", "retry-after", "date"]), st.text(max_size=20)),
)
@example(status=400, body=b'{"a":' * 500 + b"1" + b"}" * 500, headers={})
@example(status=400, body=b"[" * 100_000, headers={})
@example(status=400, body=b'{"error": {"message": ' + b'{"a":' * 400 + b"1" + b"}" * 402, headers={})
@example(status=200, body=b'{"error": {"code": 99999999999999999999}}', headers={})
def test_any_error_reply_becomes_a_trouble(status: int, body: bytes, headers: dict[str, str]) -> None:
    """Nothing a server sends raises; the message is short and can be stored."""
    found = trouble_of(Reply(status, headers, body), OPENAI_ERRORS)
    assert isinstance(found, Trouble)
    assert len(found.message.encode()) <= 4 * 600


@pytest.mark.parametrize(
    ("remaining", "reset", "per_second"),
    [
        ("100", "10s", 10.0),
        ("100", "10", 10.0),
        ("30", "1m0s", 0.5),
        ("30", "6m0s", 30 / 360),
        ("30", "120ms", 250.0),
        ("36", "1h", 0.01),
        ("0", "20s", 0.05),  # one: only an answer says that there is more
        ("100", "100h", 100 / MAX_WAIT_S),
        ("-1", "10s", None),  # Azure
        ("many", "10s", None),
        ("100", "soon", None),
        ("100", "", None),
        ("100", "-5", None),
        ("100", "0s", None),  # full
        ("100", None, None),
        (None, "10s", None),
    ],
)
def test_the_remaining_limit_is_spread_until_its_reset(
    remaining: str | None, reset: str | None, per_second: float | None
) -> None:
    """By OpenAI's headers; one that makes no sense says nothing."""
    values = {"x-ratelimit-remaining-tokens": remaining, "x-ratelimit-reset-tokens": reset}
    headers = {name: value for name, value in values.items() if value is not None}
    found = ceilings_of(headers, OPENAI_ERRORS, age_s=0.0)
    assert [ceiling.rate for ceiling in found.values()] == ([] if per_second is None else [pytest.approx(per_second)])
    assert not found or found.keys() == {"total"}


def test_kinds_of_limit_headers_are_distinguished() -> None:
    """Requests, and Fireworks' tokens in and out; a header older than its own reset doesn't count."""
    names = {"requests": "requests", "tokens-prompt": "input", "tokens-generated": "output"}
    headers = {f"x-ratelimit-remaining-{name}": "50" for name in names}
    headers |= {f"x-ratelimit-reset-{name}": "10s" for name in names}
    assert ceilings_of(headers, OPENAI_ERRORS, age_s=4.0) == dict.fromkeys(names.values(), Ceiling(5.0, 10.0, 4.0))
    assert ceilings_of(headers, OPENAI_ERRORS, age_s=11.0) == {}


@pytest.mark.parametrize(
    ("names", "reset", "resource"),
    [
        ("anthropic-ratelimit-requests-{}", "2026-11-24T02:00:10Z", "requests"),
        ("anthropic-ratelimit-output-tokens-{}", "2026-11-24T02:00:10Z", "output"),
        ("x-ratelimit-{}", "10", "requests"),
        ("x-ratelimit-{}", "1795485610000", "requests"),
    ],
    ids=["Anthropic", "Anthropic's output", "Together", "OpenRouter"],
)
def test_other_spellings_of_limit_headers_are_read(names: str, reset: str, resource: Resource) -> None:
    """Other names, and moments instead of spans, by the server's clock and never ours."""
    headers = {names.format("remaining"): "50", names.format("reset"): reset, "date": "Tue, 24 Nov 2026 02:00:00 GMT"}
    assert ceilings_of(headers, OPENAI_ERRORS, age_s=0.0) == {resource: Ceiling(5.0, 10.0, 0.0)}


def test_a_moment_without_the_servers_clock_says_nothing() -> None:
    """Ours may be wrong."""
    headers = {
        "anthropic-ratelimit-requests-remaining": "5",
        "anthropic-ratelimit-requests-reset": "2026-11-24T02:00:10Z",
    }
    assert ceilings_of(headers, OPENAI_ERRORS, age_s=0.0) == {}


@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                *("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "date", "x-ratelimit-remaining"),
                *("x-ratelimit-reset", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
            ]
        ),
        st.text(max_size=20)
        | st.just("Tue, 24 Nov 2026 02:00:00 GMT")
        | st.datetimes().map(lambda at: f"{at.isoformat()}Z")
        | st.from_regex(r"-?\d{0,30}(\.\d{0,3})?(h|m|s|ms)?", fullmatch=True),
    )
)
def test_any_limit_header_is_a_positive_rate(headers: dict[str, str]) -> None:
    """Nothing in a header raises, or holds us forever."""
    for ceiling in ceilings_of(headers, OPENAI_ERRORS, age_s=0.0).values():
        assert ceiling.rate > 0
        assert 0 < ceiling.for_s <= MAX_WAIT_S


GATEWAY_LIMIT = {"x-ratelimit-limit-requests": "120", "x-ratelimit-remaining-requests": "0"}


def test_a_limit_without_a_reset_counts_per_minute_once_reached() -> None:
    """Case 77: two requests per second from then on; while much is left nothing is read into it."""
    assert ceilings_of(GATEWAY_LIMIT, OPENAI_ERRORS, age_s=0.0, refused=True)["requests"].rate == 2.0
    plenty = GATEWAY_LIMIT | {"x-ratelimit-remaining-requests": "100"}
    assert ceilings_of(plenty, OPENAI_ERRORS, age_s=0.0) == {}


@pytest.mark.parametrize(("answers", "believed"), [(240, True), (241, False)])
def test_a_limit_that_answers_disprove_is_not_believed(answers: int, believed: bool) -> None:
    """Two windows of a minute let twice the limit through within one; more was never allowed by this limit."""
    trust = HeaderTrust()
    trust.answers(now=1000.0)
    for _ in range(answers):
        trust.answered({}, sent_at=1000.0, now=1000.5)
    for now in (1059.0, 1061.0):  # in the minute itself and in the next
        found = ceilings_of(GATEWAY_LIMIT, OPENAI_ERRORS, age_s=0.0, refused=True, answers=trust.answers(now=now))
        assert ("requests" in found) == believed
    assert trust.answers(now=1200.0) == 0


@pytest.mark.parametrize("replies", [1, 2])
def test_a_limit_stated_by_one_reply_only_lapses(replies: int) -> None:
    """After answers that do not repeat it, to requests sent after it; one that another reply repeats applies."""
    trust = HeaderTrust()
    limit: dict[Resource, Ceiling] = {"requests": Ceiling(2.0, 300.0, 0.0)}
    for _ in range(100):
        assert trust.answered({}, sent_at=1.0, now=2.0) == {}
    for number in range(replies):
        trust.stated(limit, now=10.0 + number)
    for _ in range(SILENT):
        assert trust.answered({}, sent_at=9.0, now=12.0) == {}
    found = [trust.answered({}, sent_at=12.0, now=13.0) for _ in range(SILENT)]
    revoked = {} if replies > 1 else {"requests": Ceiling(1e6, 300.0, 0.0)}
    assert found == [{}] * (SILENT - 1) + [revoked]
    assert trust.answered({}, sent_at=14.0, now=15.0) == {}


def test_a_long_limit_stated_by_one_reply_only_is_probed() -> None:
    """Five requests for an hour, says one answer of many: the next ones come soon enough to deny or confirm it."""
    trust = HeaderTrust()
    limit: dict[Resource, Ceiling] = {"requests": Ceiling(5 / 3600, 3600.0, 0.0)}
    assert trust.answered(limit, sent_at=0.0, now=0.5)["requests"].rate == 1 / PROBE_S
    assert trust.answered(limit, sent_at=5.0, now=5.5) == limit


def test_a_wait_in_a_vendors_header_is_read() -> None:
    """Gateways pass a provider's on as `llm_provider-retry-after`."""
    found = trouble(429, openai("Rate limit exceeded"), **{"llm_provider-retry-after": "60"})
    assert isinstance(found, Rate)
    assert found.retry_after_s == 60.0


@pytest.mark.parametrize(("latency_s", "expected"), [(0.2, Overload), (3.0, Ambiguous)])
def test_a_gateway_timeout_may_have_been_billed(latency_s: float, expected: type) -> None:
    """Then it may be billed, and is a kind of failure of its own; an immediate error is an overload."""
    for status in (408, 504, 524):
        found = trouble_of(Reply(status, {}, b"", latency_s), OPENAI_ERRORS)
        assert type(found) is expected
    assert "longer than 3 s" in trouble_of(Reply(504, {}, b"", 3.0), OPENAI_ERRORS).message


SAID = [
    (Policy, 400, "Content Exists Risk"),
    (Policy, 400, "input new_sensitive"),
    (Policy, 400, "Your request was rejected as a result of our safety system."),
    (Policy, 403, "This request breaks the usage guidelines (check: biology)."),
    (Policy, 422, "The prompt violates our acceptable use policy."),
    (TooLong, 422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs`"),
    (TooLong, 400, "This request has 9111 tokens, but the limit is 8192 tokens."),
    (TooLong, 400, "The decoder prompt (length 9111) is longer than the maximum model length of 8192."),
    (TooLong, 400, "The prompt (total length 9111) is too long to fit into the model"),
    (TooLong, 400, "Input length (50111 tokens) exceeds the maximum allowed length (40222 tokens)."),
    (
        TooLong,
        429,
        "Rate limit reached on tokens per minute (TPM): Limit 8000, Used 0, Requested 9500. Try again in 4s.",
    ),
    (TooLong, 413, "Too many tokens for your tier."),
    (
        Rate,
        429,
        "Rate limit reached on tokens per minute (TPM): Limit 8000, Used 7900, Requested 500. Try again in 4s.",
    ),
    (Money, 422, "Budget has been exceeded! Current cost: 1.0, Max budget: 0.5"),
    (Money, 429, "No deployments available - crossed budget: Exceeded budget for deployment model_name: m: 0.3 >= 1d"),
    (Money, 429, "You exceeded your current quota, please check your plan and billing details."),
    (Money, 429, "Rate limit exceeded: free-models-per-day"),
    (Money, 200, "Insufficient credits"),
    (Rate, 429, "You exceeded your current quota for this minute. Please retry in 26.66s."),
    (Overload, 500, "litellm.InternalServerError: OpenAIException - Connection error."),
    (BadRequest, 400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens."),
    (BadRequest, 400, "Invalid 'stop': array too long. Expected an array with maximum length 4."),
    (BadRequest, 400, "The model name is case-sensitive."),
    (BadRequest, 400, "Unsupported value: 'temperature' does not support 0.7 with this model."),
]


@pytest.mark.parametrize(("expected", "status", "message"), SAID, ids=[message[:40] for *_, message in SAID])
def test_a_message_alone_is_classified(expected: type, status: int, message: str) -> None:
    """Families of phrases, because gateways rewrite codes; a wrong setting is not a prompt that is too long."""
    assert type(trouble(status, {"error": {"message": message}})) is expected


def test_words_of_an_echoed_prompt_are_ignored() -> None:
    """A validation error shows what it was sent; only a message of the server's own is searched."""
    echo = {"detail": [{"loc": ["body"], "msg": "field required", "input": "our safety system; insufficient balance"}]}
    assert type(trouble(422, echo)) is BadRequest


def test_a_protocols_error_codes_are_data() -> None:
    """Codes in headers without AWS's additions, and durations in the protocol's own fields."""
    words = COMMON.extended(
        codes={"rate": frozenset({"throttlingexception"})},
        code_headers=("x-amzn-errortype",),
        wait_fields=("backoff",),
    )
    headers = {"x-amzn-errortype": "com.amazon#ThrottlingException:http://internal.amazon.com/"}
    body = json.dumps({"message": "slower", "details": [{"backoff": "4.5s"}]}).encode()
    assert trouble_of(Reply(400, headers, body), words) == Rate("slower", 400, 4.5)
    assert trouble_of(Reply(400, headers, body), COMMON) == BadRequest("slower", 400)
    assert set(headers) <= set(words.kept_headers)


def test_common_error_codes_are_read_for_every_protocol() -> None:
    """Gateways reword errors, so that families of phrases count whatever the protocol."""
    assert isinstance(trouble_of(Reply(400, {}, b'{"message": "This prompt is too long"}'), COMMON), TooLong)
    assert isinstance(trouble_of(Reply(500, {}, b'{"message": "model is currently loading"}'), COMMON), Overload)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (openai("Unsupported value: 'temperature' does not support 0.7 with this model."), "temperature"),
        (openai("Unsupported parameter: 'max_tokens' is not supported with this model."), "max_tokens"),
        ({"error": {"message": "Use /v1/responses instead.", "param": "reasoning_effort"}}, "reasoning_effort"),
        (google(400, "INVALID_ARGUMENT", "Logprobs is not supported for this model"), "top_logprobs"),
        (anthropic("invalid_request_error", "`temperature` is deprecated for this model."), "temperature"),
        (openai("Unsupported parameter: 'stop'"), None),  # not asked with
        (openai("The temperatures of the prompt are odd"), None),
        (openai("No such model"), None),
    ],
)
def test_a_refusal_that_names_a_parameter_is_recognised(body: Any, name: str | None) -> None:
    """By its name in `ask`, where the teacher was asked with it."""
    found = trouble(400, body)
    assert isinstance(found, BadRequest)
    ask = Ask(temperature=0.7, max_tokens=9, reasoning_effort="low", top_logprobs=2)
    assert refused_parameter(found, ask) == name
