"""What status, headers and error body of a reply mean, whoever sent it.

Providers say the same things in a dozen shapes; here they become one Trouble. Only codes and types decide where there
are any; a message is searched only for phrases that the providers document as their only sign.
"""

import email.utils
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from stillhouse.gen.limits.shares import Ceiling, Resource
from stillhouse.gen.teachers.outcome import (
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
)
from stillhouse.gen.teachers.transport import Reply

KEPT_HEADERS = ("content-type", "date", "retry-after", "retry-after-ms", "x-amzn-errortype", "x-should-retry")
"""Headers that an outcome may depend on, and all that the journal keeps: a reply means the same to the worker that
received it and to one that finds it in a journal. `date` is the server's clock, for a `retry-after` that is a date."""
MAX_WAIT_S = 3600.0
"""The longest wait a teacher can order; after it we look again."""

_MONEY = {
    "insufficient_quota", "credit_balance_exhausted", "billing_error", "billing_hard_limit_reached",
    "billing_not_active", "enforced_spend_limit_reached", "insufficient_balance",
}  # fmt: skip
_AUTH = {"authentication_error", "invalid_api_key", "api_key_invalid"}
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
_TOO_LONG_PHRASES = (
    "prompt is too long",
    "maximum context length",
    "exceeds the maximum number of tokens",
    "context window",
    "context size",
    "input is too long",
)
_TOO_LARGE_PHRASE = "request too large for"
"""OpenAI's 429 for one request above the whole minute's tokens: no wait would help."""  # fmt: skip
_POLICY = {
    "content_policy_violation", "content_filter", "responsibleaipolicyviolation", "invalid_prompt", "bio_policy",
    "moderation", "flagged_input",
}  # fmt: skip
_RATE = {"rate_limit_exceeded", "rate_limit_error", "resource_exhausted"}
_OVERLOAD = {"server_is_overloaded", "overloaded_error", "engine_overloaded", "unavailable_error"}
_OVERLOAD_STATUS = {408, 424, 502, 503, 504, 529}
_NAMES = ("code", "type", "status", "reason", "quotaId", "limit_source")
_WAIT = re.compile(r"\b(?:retry|try again) in (?:(\d{1,4})m)?(\d{1,6}(?:\.\d+)?)(ms|s)\b")
"""The only sign of how long to wait that some Gemini models and gateways give, in the message."""

_LIMITS: tuple[tuple[Resource, str, str], ...] = (
    ("requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("total", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("input", "x-ratelimit-remaining-tokens-prompt", "x-ratelimit-reset-tokens-prompt"),
    ("output", "x-ratelimit-remaining-tokens-generated", "x-ratelimit-reset-tokens-generated"),
    ("requests", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("total", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("input", "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("output", "anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    ("requests", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""(of what, what is left, when all is there again): OpenAI's, Fireworks', Anthropic's, Together's and OpenRouter's."""
_EPOCH_S, _EPOCH_MS = 1e9, 1e11
"""Numbers above are no spans of time but moments, in seconds or milliseconds."""
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,6}(?:\.\d{1,9})?)ms)?")
"""As Go writes it: `6m0s`, `120ms`."""


def trouble_of(reply: Reply) -> Trouble:
    """The Trouble that a reply which is no answer means."""
    error = _error_document(reply.body)
    status = _status(error, reply)
    words = set(_words(error))
    message = _message(error, reply)
    lower = message.lower()
    if status == 402 or words & _MONEY or "credit balance is too low" in lower or any("perday" in w for w in words):
        if "openrouter_in_flight_budget" in words:
            return Rate(message, status, retry_after_s(reply.headers))
        return Money(message, status)
    if status == 401 or words & _AUTH:
        return Auth(message, status)
    if words & _POLICY:
        return Policy(message, status)
    if status == 403 or 300 <= status < 400:
        return Auth(message if status == 403 else f"redirected to another address; {message}", status)
    if "slow_down" in words or (status == 429 and "acceleration" in lower):
        return Ramp(message, status, _wait_s(error, lower, reply))
    if status == 429 and _TOO_LARGE_PHRASE in lower:
        return TooLong(message, status)
    if status == 429 or words & _RATE:
        return Rate(message, status, _wait_s(error, lower, reply))
    if status in _OVERLOAD_STATUS or words & _OVERLOAD or 520 <= status < 530:
        return Overload(message, status, retry_after_s(reply.headers))
    if status == 413 or words & _TOO_LONG or (400 <= status < 500 and any(p in lower for p in _TOO_LONG_PHRASES)):
        return TooLong(message, status)
    if 200 <= status < 300:
        return Malformed(message, status)
    if status >= 500 or status == 409:
        return ServerError(message, status)
    return BadRequest(message, status)


def _status(error: Any, reply: Reply) -> int:
    """The reply's status; of an error in a 200 the one it names, as OpenRouter's do once they have begun to answer."""
    code = error.get("code") if isinstance(error, dict) and 200 <= reply.status < 300 else None
    return code if isinstance(code, int) and 400 <= code < 600 else reply.status


def _wait_s(error: Any, lower: str, reply: Reply) -> float | None:
    """By header, by Google's RetryInfo, or as the message puts it."""
    if (wait := retry_after_s(reply.headers)) is not None:
        return wait
    if (wait := _retry_info_s(error)) is not None:
        return wait
    if (found := _WAIT.search(lower)) is None:
        return None
    minutes, amount, unit = found.groups()
    return min(60 * int(minutes or 0) + float(amount) / (1000 if unit == "ms" else 1), MAX_WAIT_S)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms`, `retry-after` in seconds or as a date, within [0, MAX_WAIT_S].

    The SDKs' order. A date is taken against the server's own `Date`, for our clock may be wrong; a value that is no
    finite, non-negative number says nothing.
    """
    if (wait := _number(headers.get("retry-after-ms"))) is not None:
        return min(wait / 1000, MAX_WAIT_S)
    value = headers.get("retry-after")
    if (wait := _number(value)) is not None:
        return min(wait, MAX_WAIT_S)
    then, now = _date(value), _date(headers.get("date"))
    return min(max(then - now, 0.0), MAX_WAIT_S) if then is not None and now is not None else None


def ceilings_of(headers: Mapping[str, str], *, age_s: float) -> dict[Resource, Ceiling]:
    """What a reply's headers leave of the account's limits; `age_s`: how long ago its request was let in.

    What is left is spread over the time until all of it is there again. Where a window is fixed, that uses it up and no
    more; where a bucket fills all the time, it bears when less than half is left, and settles at what others leave of
    the limit. None left is one in that time: only an answer says that there is more.
    """
    found: dict[Resource, Ceiling] = {}
    for resource, remaining, reset in _LIMITS:
        if (value := headers.get(remaining)) is None:
            continue
        left, reset_s = _number(value), _reset_s(headers.get(reset), headers)
        if left is not None and reset_s is not None and reset_s > age_s:
            found[resource] = Ceiling(max(left, 1.0) / reset_s, reset_s, age_s)
    return found


def _reset_s(value: str | None, headers: Mapping[str, str]) -> float | None:
    """Seconds until then, at most MAX_WAIT_S: told as a span or as a moment by the server's own clock."""
    if value is None:
        return None
    if (number := _number(value)) is not None:
        if number < _EPOCH_S:
            return min(number, MAX_WAIT_S)
        then: float | None = number / 1000 if number >= _EPOCH_MS else number
    elif (found := _DURATION.fullmatch(value.strip())) is not None and any(found.groups()):
        hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
        return min(3600 * hours + 60 * minutes + seconds + millis / 1000, MAX_WAIT_S)
    else:
        then = _moment(value)
    now = _date(headers.get("date"))
    return min(max(then - now, 0.0), MAX_WAIT_S) if then is not None and now is not None else None


def _moment(value: str) -> float | None:
    """RFC 3339, as Anthropic tells it."""
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() if value else None
    except (ValueError, OverflowError):
        return None


def _error_document(body: bytes) -> Any:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(document, list) and document:
        document = document[0]
    if isinstance(document, dict):
        return document.get("error") or document
    return document


def _words(error: Any, depth: int = 0) -> Iterator[str]:
    """All codes, types and reasons in an error document, in lower case."""
    if depth > 4:
        return
    if isinstance(error, list):
        for item in error[:20]:
            yield from _words(item, depth + 1)
    elif isinstance(error, dict):
        for name, value in error.items():
            if name == "flagged_input":  # OpenRouter's moderation: the name is the only sign
                yield name
            elif isinstance(value, str) and name in _NAMES:
                yield value.lower()
            elif isinstance(value, (dict, list)):
                yield from _words(value, depth + 1)


def _message(error: Any, reply: Reply) -> str:
    text: Any = error
    if isinstance(error, dict):
        text = error.get("message") or error.get("detail")
    if not isinstance(text, str) or not text:
        text = reply.body[:2000].decode("utf-8", "replace")
    return " ".join(text[:2000].split())[:500] or f"HTTP {reply.status} without a body"


def _retry_info_s(error: Any) -> float | None:
    """Google's RetryInfo: `details: [{"retryDelay": "45.8s"}]`."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (wait := _number(delay.removesuffix("s"))) is not None:
            return min(wait, MAX_WAIT_S)
    return None
