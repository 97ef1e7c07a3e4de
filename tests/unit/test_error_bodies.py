"""Bodies of errors as providers send them, each read by the protocol that meets it."""

import json
from typing import Any

import pytest

from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.teacher import Teacher


def openai(message: str, kind: str | None = None, code: str | int | None = None, **fields: Any) -> dict[str, Any]:
    """OpenAI's."""
    return {"error": {"message": message, "type": kind, "code": code} | fields}


def anthropic(kind: str, message: str = "words", **fields: Any) -> dict[str, Any]:
    """Anthropic's."""
    return {"type": "error", "error": {"type": kind, "message": message} | fields, "request_id": "req_1"}


def google(code: int, status: str, message: str = "words", *details: Any) -> dict[str, Any]:
    """Google's."""
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


def quota(name: str) -> dict[str, Any]:
    """Google's word for a limit."""
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name}]}


def failed(code: str) -> dict[str, Any]:
    """A response of OpenAI's that failed."""
    error = {"code": code, "message": "words"}
    return {"id": "resp_1", "object": "response", "status": "failed", "error": error, "output": []}


WAIT = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.8s"}
NO_ROOM = "max_tokens must be at least 1, got -511."
TO_RESPONSES = "Function tools with reasoning_effort are not supported. Please use /v1/responses instead."
FULL_CONTEXT = "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length"
FILTERED = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}

OPENAI: list[tuple[str, int, Any]] = [
    ("Ramp", 429, openai("words", "rate_limit_error", "slow_down")),
    *(
        ("Money", 429, openai("words", kind, code))
        for kind in ("insufficient_quota", "billing")
        for code in (
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    ),
    ("Rate", 429, openai("words", "tokens", "rate_limit_exceeded")),
    ("Overload", 503, openai("words", "service_unavailable_error", "server_is_overloaded")),
    ("Auth", 401, openai("words", "invalid_request_error", "invalid_api_key")),
    ("Auth", 403, openai("Country not supported", "request_forbidden", "unsupported_country_region_territory")),
    ("BadRequest", 404, openai("words", "invalid_request_error", "model_not_found")),
    ("TooLong", 400, openai("words", "invalid_request_error", "context_length_exceeded")),
    ("BadRequest", 400, openai("words", "invalid_request_error", "unsupported_parameter", param="max_tokens")),
    ("BadRequest", 400, openai("words", "invalid_request_error", "unsupported_value", param="temperature")),
    ("BadRequest", 400, openai(TO_RESPONSES, "invalid_request_error", param="reasoning_effort")),
    ("Policy", 400, openai("words", "invalid_request_error", "invalid_prompt")),
    ("Policy", 400, openai("words", code="content_filter", innererror=FILTERED)),  # Azure
    ("TooLong", 400, openai(NO_ROOM, "BadRequestError", 400, param="max_tokens")),  # vLLM, and as older ones say it
    ("TooLong", 400, {"object": "error", "message": NO_ROOM, "type": "BadRequestError", "code": 400}),
    (
        "Rate",
        429,
        {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
    ),  # Mistral
    ("BadRequest", 422, b"Failed to deserialize the JSON body"),  # DeepSeek
    ("Money", 402, openai("Insufficient credits", code=402)),  # OpenRouter
    ("Rate", 402, openai("words", code=402, metadata={"limit_source": "openrouter_in_flight_budget"})),
    ("Auth", 400, openai("No connected db.", "no_db_connection", "400")),  # LiteLLM, of an unknown key
]
RESPONSES: list[tuple[str, int, Any]] = [
    ("Rate", 200, failed("rate_limit_exceeded")),
    ("ServerError", 200, failed("server_error")),
    ("ServerError", 200, failed("vector_store_timeout")),
    ("Policy", 200, failed("invalid_prompt")),
    ("Policy", 200, failed("bio_policy")),
    ("Policy", 200, failed("image_content_policy_violation")),
    *(
        ("BadRequest", 200, failed(code))
        for code in (
            "data_residency_mismatch",
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_url",
            "image_too_large",
            "image_too_small",
            "image_parse_error",
            "invalid_image_mode",
            "image_file_too_large",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
            "image_file_not_found",
        )
    ),
    ("ServerError", 200, {**failed(""), "status": "cancelled", "error": None}),
    ("Malformed", 200, {**failed(""), "status": "queued", "error": None}),
]
ANTHROPIC: list[tuple[str, int, Any]] = [
    ("BadRequest", 400, anthropic("invalid_request_error")),
    ("Money", 400, anthropic("invalid_request_error", "You have reached your specified API usage limits.")),
    ("Money", 400, anthropic("invalid_request_error", "You have reached your specified workspace API usage limits.")),
    ("TooLong", 400, anthropic("invalid_request_error", FULL_CONTEXT)),
    ("BadRequest", 400, anthropic("invalid_request_error", "image exceeds 5 MB maximum: 6000000 > 5242880 bytes")),
    ("Money", 402, anthropic("billing_error")),
    ("Money", 429, anthropic("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"})),
    ("ServerError", 409, anthropic("conflict")),
    ("Overload", 504, anthropic("timeout_error")),
    ("Overload", 529, anthropic("overloaded_error")),
    ("Overload", 200, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n'),
]
GEMINI: list[tuple[str, int, Any]] = [
    ("Money", 402, google(402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.")),
    ("Rate", 429, google(429, "RESOURCE_EXHAUSTED", "words", quota("RequestsPerMinutePerProject"), WAIT)),
    ("Money", 429, google(429, "RESOURCE_EXHAUSTED", "words", quota("RequestsPerDayPerProject"), WAIT)),
    ("Rate", 429, [google(429, "RESOURCE_EXHAUSTED", "words", WAIT)]),
    ("Auth", 400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")),
    ("Auth", 400, google(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"})),
    ("TooLong", 400, google(400, "INVALID_ARGUMENT", "The token count exceeds the maximum number of tokens allowed.")),
    ("BadRequest", 400, google(400, "INVALID_ARGUMENT", "Logprobs is not supported for this model")),
    ("Auth", 403, google(403, "PERMISSION_DENIED")),
    ("Overload", 503, google(503, "UNAVAILABLE", "The model is overloaded.")),
    ("Overload", 504, google(504, "DEADLINE_EXCEEDED")),
    *(
        ("Completion", 200, {"promptFeedback": {"blockReason": reason}})
        for reason in ("SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK")
    ),
]
BEDROCK: list[tuple[str, int, Any]] = [
    ("Rate", 429, {"__type": "com.amazon.coral#ThrottlingException", "Message": "slow"}),
    ("Auth", 403, {"Message": "User: x is not authorized to perform: bedrock:InvokeModel"}),
    ("Auth", 400, {"__type": "ExpiredTokenException", "message": "words"}),
    ("BadRequest", 404, {"__type": "com.amazon#UnknownOperationException"}),
]
BODIES = [
    *(("openai-chat", *each) for each in OPENAI),
    *(("openai-responses", *each) for each in (*OPENAI, *RESPONSES)),
    *(("anthropic", *each) for each in ANTHROPIC),
    *(("gemini", *each) for each in GEMINI),
    *(("bedrock", *each) for each in BEDROCK),
]


@pytest.mark.parametrize(("api", "expected", "status", "body"), BODIES, ids=lambda value: str(value)[:70])
def test_providers_error_bodies_are_classified(api: str, expected: str, status: int, body: Any) -> None:
    """`expected`: the class of the outcome, from which follows what is done about it."""
    given = {"name": "t", "api": api, "base_url": "https://gateway.test/v1", "model": "m", "api_key": "env:K"}
    terms = {"training_use": "by-authorisation", "authorisation": "letter 7"}
    protocol = protocol_of(Teacher.model_validate(given | {"terms": terms}), Ask(max_tokens=9))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert type(protocol.read(protocol.fold(Reply(status, {}, data)))).__name__ == expected
