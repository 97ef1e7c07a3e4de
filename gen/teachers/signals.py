"""Interprets the status, headers and error body of a reply, whoever sent it.

Providers report the same things in a dozen shapes; here they become one Trouble. Codes and types decide if there are
any; the message is searched for families of phrases, because gateways rewrite codes and no list of phrases is complete.
"""

import email.utils
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from stillhouse.gen.limits.shares import Ceiling, Resource
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
)
from stillhouse.gen.teachers.transport import Reply

KEPT_HEADERS = frozenset(
    ("content-type", "date", "retry-after", "retry-after-ms", "x-amzn-errortype", "x-should-retry")
)
"""Headers that an outcome may depend on, and all that the journal keeps: a reply means the same to the worker that
received it and to one that finds it in a journal. `date` is the server's clock, for a `retry-after` that is a date."""
LIMIT_STANDS_S = 300.0
"""How long a limit that a gateway states without a reset applies after it was hit."""
MAX_WAIT_S = 3600.0
"""The longest wait a teacher can order; after that we try again."""

GATEWAY_TIMEOUT_S = 1.0
"""A gateway that reports a timeout after this long had forwarded the request; sooner, it could not have."""

_MONEY = re.compile(
    r"insufficient_?(quota|balance|credit|fund)|billing|budget_?exceeded|exceeded_?budget|credit_?balance|spend_?limit"
    r"|payment_?required|arrear|quota_?exhausted|out_?of_?(credit|money|fund)|no_?(credit|balance)"
)
_MONEY_WORDS = re.compile(
    r"budget (has been )?exceeded|exceeded (your|the|its) (current )?(quota|budget|spend)|plan and billing"
    r"|insufficient (account )?(balance|credit|fund|quota)|credit balance|out of (credit|fund|money)"
    r"|(no|not enough|too few) (remaining )?(credits?|funds|balance|money)\b|account .{0,40}\b(arrears|overdue)"
    r"|(balance|credits?) (is|are) (too low|exhausted|used up|insufficient|empty|negative)"
    r"|quota .{0,30}(exhausted|used up|depleted)|spend(ing)? limit .{0,30}(reached|exceeded)"
)
_PER_DAY = re.compile(r"per[-_ ]?day|daily|\b[rt]pd\b")
_SOON_S = 900.0
"""A daily limit that resets sooner than this is waited out like any other."""
_AUTH = {"authentication_error", "invalid_api_key", "api_key_invalid"}
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
_TOO_LONG_WORDS = re.compile(
    r"(prompt|input|context|messages?|request|conversation|sequence|tokens?)\b.{0,80}?"
    r"\b(too (long|large|many)|longer than|larger than|exceeds?|exceeded|must be (<=|less|at most|shorter))"
    r"|maximum (context|model|sequence|prompt|input) length|exceeds the maximum number of tokens|context (window|size)"
    r"|too many (input |prompt )?tokens|\d tokens?\b.{0,40}\b(limit|maximum|max|allowed)\b.{0,20}\d"
)
_OF_LENGTH = re.compile(r"token|length|context|character|chars|\blong|size")
_OUTPUT_LIMIT = re.compile(r"max_(completion_|new_|output_)?tokens")
_OF_INPUT = re.compile(r"prompt|input|messages?\b|context|request has")
_LIMIT_AND_REQUESTED = re.compile(r"limit:? ?(\d{1,12})\b.{0,60}\brequested:? ?(\d{1,12})")
_TOO_LARGE_PHRASE = "request too large for"
"""OpenAI's 429 for one request above the whole minute's tokens: no wait would help."""
_POLICY = re.compile(
    r"content_?(policy|filter|moderation|violation|safety|management)|responsibleai|moderat|data_?inspection|sensitive"
    r"|safety|flagged|prohibited_?content|bio_policy|invalid_prompt|guardrail|usage_?(polic|guideline)|harmful"
)
_POLICY_WORDS = re.compile(
    r"safety (system|filter|polic|setting|reason)|content (policy|filter|management|moderation|exists risk|risk|safety)"
    r"|(inappropriate|harmful|prohibited|unsafe|sensitive|offensive) (content|text|word|material|language|information)"
    r"|(data|content)_?inspection|new_sensitive|usage (guideline|polic)|acceptable use|guardrail"
    r"|(violat|breach|break|against)\w* .{0,60}(polic|guideline|terms of|rules|safety)"
    r"|(was|were|been) (flagged|moderated)"
    r"|blocked by .{0,40}(filter|polic|safety|moderat)"
)
_POLICY_STATUS = {200, 400, 403, 406, 422, 451}
_RATE = {"rate_limit_exceeded", "rate_limit_error", "resource_exhausted"}
_OVERLOAD = {"server_is_overloaded", "overloaded_error", "engine_overloaded", "unavailable_error"}
_OVERLOAD_STATUS = {408, 424, 502, 503, 504, 529}
_OVERLOAD_WORDS = re.compile(
    r"connection (error|refused|reset|aborted|closed)|upstream|(service|temporarily) unavailable|overloaded|no healthy"
    r"|bad gateway|try again later|at capacity|model is (currently )?loading"
)
_GATEWAY_TIMEOUTS = {408, 504, 524, 598, 599}
_NAMES = ("code", "type", "status", "reason", "quotaId", "limit_source")
_WAIT = re.compile(r"\b(?:retry|try again) in (?:(\d{1,4})m)?(\d{1,6}(?:\.\d+)?)(ms|s)\b")
"""Some Gemini models and gateways say how long to wait only in the message."""

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
"""(resource, remaining, reset): OpenAI's, Fireworks', Anthropic's, Together's and OpenRouter's."""
_REMAINING = frozenset(remaining for _, remaining, _ in _LIMITS)
_EPOCH_S, _EPOCH_MS = 1e9, 1e11
"""Numbers above these are timestamps, not durations, in seconds or milliseconds."""
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,6}(?:\.\d{1,9})?)ms)?")
"""Go's format: `6m0s`, `120ms`."""


def trouble_of(reply: Reply) -> Trouble:
    """The Trouble behind a reply that is not an answer."""
    error = _error_document(reply.body)
    status = _status(error, reply)
    words = set(_words(error))
    message = _message(error, reply)
    lower = message.lower()
    said = lower if _is_said(error) else ""
    """The server's own words, which do not echo the prompt."""
    if (money := _money(error, status, words, lower, said, message, reply)) is not None:
        return money
    if status == 401 or words & _AUTH:
        return Auth(message, status)
    if any(map(_POLICY.search, words)) or (status in _POLICY_STATUS and _POLICY_WORDS.search(said)):
        return Policy(message, status)
    if status == 403 or 300 <= status < 400:
        return Auth(message if status == 403 else f"redirected to another address; {message}", status)
    if "slow_down" in words or (status == 429 and "acceleration" in lower):
        return Ramp(message, status, _wait_s(error, lower, reply))
    if status == 413 or (status == 429 and (_TOO_LARGE_PHRASE in lower or _asks_above_limit(lower))):
        return TooLong(message, status)
    if status == 429 or words & _RATE:
        return Rate(message, status, _wait_s(error, lower, reply))
    if status in _GATEWAY_TIMEOUTS and reply.latency_s >= GATEWAY_TIMEOUT_S:
        cut = f"answers that take longer than {reply.latency_s:.0f} s are cut on the way (HTTP {status}: {message})"
        return Ambiguous(cut, status)
    if status in _OVERLOAD_STATUS or words & _OVERLOAD or 520 <= status < 530:
        return Overload(message, status, retry_after_s(reply.headers))
    if words & _TOO_LONG or (400 <= status < 500 and _is_too_long(lower)):
        return TooLong(message, status)
    if 200 <= status < 300 or not 100 <= status < 600:
        return Malformed(message, status)
    if 500 <= status < 600 and _OVERLOAD_WORDS.search(lower):
        return Overload(message, status, retry_after_s(reply.headers))
    if status >= 500 or status == 409:
        return ServerError(message, status)
    return BadRequest(message, status)


def _money(
    error: Any, status: int, words: set[str], lower: str, said: str, message: str, reply: Reply
) -> Money | Rate | None:
    """The Trouble if the account's money or daily allowance is exhausted."""
    if "openrouter_in_flight_budget" in words:
        return Rate(message, status, retry_after_s(reply.headers))
    per_day = any("perday" in word for word in words)
    daily = per_day or (status == 429 and any(map(_PER_DAY.search, (*words, said))))
    empty = status == 402 or any(map(_MONEY.search, words)) or _MONEY_WORDS.search(said) is not None
    if not (daily or empty):
        return None
    if status == 429 and not per_day and not any(map(_MONEY.search, words)):
        wait_s = _wait_s(error, lower, reply)
        if any("perminute" in word for word in words) or (wait_s is not None and wait_s <= _SOON_S):
            return Rate(message, status, wait_s)
    return Money(message, status, _back(error, reply) if daily else None)


def _back(error: Any, reply: Reply) -> str | None:
    """When a daily allowance resets, from timestamps in the reply's headers or its body's `headers`."""
    named = {name: value for name, value in reply.headers.items() if "reset" in name}
    named |= {str(name).lower(): str(value) for name, value in _headers_within(error)}
    moments = [moment for name, value in named.items() if "reset" in name and (moment := _moment_of(value)) is not None]
    if moments:
        return f"{datetime.fromtimestamp(max(moments), UTC):%Y-%m-%d %H:%M} UTC"
    wait = _number(reply.headers.get("retry-after"))
    return f"{wait / 3600:.1f} h after this reply" if wait is not None and wait > _SOON_S else None


def _headers_within(error: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 3 or not isinstance(error, dict):
        return
    for name, value in error.items():
        if isinstance(value, dict):
            yield from value.items() if name == "headers" else _headers_within(value, depth + 1)


def _moment_of(value: str) -> float | None:
    """Seconds since 1970, from a date or from a number too large to be a duration."""
    number = _number(value)
    if number is None:
        return _moment(value)
    seconds = number / 1000 if number >= _EPOCH_MS else number
    return seconds if _EPOCH_S <= seconds < 1e10 else None


def _is_said(error: Any) -> bool:
    """True if the error document has its own message; otherwise its text may contain anything."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("msg")
    return isinstance(error, str) and bool(error)


def _is_too_long(lower: str) -> bool:
    """True if the words say that the prompt is too long, and not that the answer's limit is too high."""
    if _TOO_LONG_WORDS.search(lower) is None or _OF_LENGTH.search(lower) is None:
        return False
    return _OUTPUT_LIMIT.search(lower) is None or _OF_INPUT.search(lower) is not None


def _asks_above_limit(lower: str) -> bool:
    found = _LIMIT_AND_REQUESTED.search(lower)
    return found is not None and int(found[2]) > int(found[1])


def _status(error: Any, reply: Reply) -> int:
    """The reply's status; of an error in a 200 the one it names, as OpenRouter's do once they have begun to answer."""
    code = error.get("code") if isinstance(error, dict) and 200 <= reply.status < 300 else None
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else reply.status


def _wait_s(error: Any, lower: str, reply: Reply) -> float | None:
    """From a header, Google's RetryInfo, or the message."""
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

    The SDKs' order. A date is compared with the server's own `Date`, because our clock may be wrong; a value that is
    not a finite, non-negative number is ignored.
    """
    if (wait := _number(_named(headers, "retry-after-ms"))) is not None:
        return min(wait / 1000, MAX_WAIT_S)
    value = _named(headers, "retry-after")
    if (wait := _number(value)) is not None:
        return min(wait, MAX_WAIT_S)
    then, now = _date(value), _date(headers.get("date"))
    return min(max(then - now, 0.0), MAX_WAIT_S) if then is not None and now is not None else None


def _named(headers: Mapping[str, str], name: str) -> str | None:
    """The header, or one that a gateway passes on under a longer name: `llm_provider-retry-after`."""
    if (value := headers.get(name)) is not None:
        return value
    return next((value for each, value in headers.items() if each.endswith(f"-{name}")), None)


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """A refusal's headers that say when to retry, under names that can't be listed in advance."""
    ends = ("-retry-after", "-retry-after-ms", "ratelimit-reset")
    return {name: value for name, value in headers.items() if name.endswith(ends)}


def ceilings_of(headers: Mapping[str, str], *, age_s: float, refused: bool = False) -> dict[Resource, Ceiling]:
    """What remains of the account's limits, by a reply's headers; `age_s`: how long ago its request was admitted.

    The remainder is spread over the time until reset. With a fixed window that uses up exactly what is left; with a
    bucket that refills continuously it binds when less than half is left, and settles at what others leave of the
    limit. Nothing left counts as one in that time, because only an answer can show that there is more. A limit without
    a reset is per minute, and applies once it is hit.
    """
    if _REMAINING.isdisjoint(headers):
        return {}
    found: dict[Resource, Ceiling] = {}
    for resource, remaining, reset in _LIMITS:
        if (value := headers.get(remaining)) is None:
            continue
        left, reset_s = _number(value), _reset_s(headers.get(reset), headers)
        if left is not None and reset_s is not None and reset_s > age_s:
            found[resource] = Ceiling(max(left, 1.0) / reset_s, reset_s, age_s)
        elif left is not None and reset not in headers:
            limit = _number(headers.get(remaining.replace("remaining", "limit")))
            if limit and (refused or left <= limit / 10):
                found[resource] = Ceiling(limit / 60, LIMIT_STANDS_S, age_s)
    return found


def _reset_s(value: str | None, headers: Mapping[str, str]) -> float | None:
    """Seconds until reset, at most MAX_WAIT_S, from a duration or a timestamp by the server's own clock."""
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
    """RFC 3339, as Anthropic sends it."""
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
        text = error.get("message") or error.get("detail") or error.get("msg")
    if not isinstance(text, str) or not text:
        text = reply.body[:2000].decode("utf-8", "replace")
    words = " ".join(text[:2000].split())[:500] or f"HTTP {reply.status} without a body"
    return words if 100 <= reply.status < 600 else f"HTTP {reply.status}, not a valid HTTP status: {words}"[:500]


def _retry_info_s(error: Any) -> float | None:
    """Google's RetryInfo: `details: [{"retryDelay": "45.8s"}]`."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (wait := _number(delay.removesuffix("s"))) is not None:
            return min(wait, MAX_WAIT_S)
    return None
