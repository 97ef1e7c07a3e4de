"""Interprets the status, headers and error body of a reply by a protocol's vocabulary.

Providers report the same things in a dozen shapes; here they become one Trouble. Codes and types decide if there are
any; the message is searched for families of phrases.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from stillhouse.gen.teachers.durations import MAX_WAIT_S, moment_in, number_in, retry_after_s
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
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary, Signal

GATEWAY_TIMEOUT_S = 1.0
"""A gateway that reports a timeout after this long had forwarded the request; earlier, it could not have."""

_SOON_S = 900.0
"""A daily limit that resets sooner than this is waited out like any other."""
_OF_LENGTH = re.compile(r"token|length|context|character|chars|\blong|size")
_OUTPUT_LIMIT = re.compile(r"max_(completion_|new_|output_)?tokens")
_OF_INPUT = re.compile(r"prompt|input|messages?\b|context|request has")
_NO_ROOM = re.compile(r"max_tokens must be at least 1, got -\d")
"""vLLM's message for a prompt that is longer than the context: what it leaves for the answer is negative."""
_LIMIT_AND_REQUESTED = re.compile(r"limit:? ?(\d{1,12})\b.{0,60}\brequested:? ?(\d{1,12})")
_POLICY_STATUS = {200, 400, 403, 406, 422, 451}
_OVERLOAD_STATUS = {408, 424, 502, 503, 504, 529}
_GATEWAY_TIMEOUTS = {408, 504, 524, 598, 599}


def trouble_of(reply: Reply, errors: ErrorVocabulary) -> Trouble:
    """The Trouble behind a reply that is not an answer."""
    return _Refusal(reply, errors).trouble()


class _Refusal:
    """A reply that is not an answer, with its parts parsed once."""

    def __init__(self, reply: Reply, errors: ErrorVocabulary) -> None:
        self.reply = reply
        self.errors = errors
        self.error = _error_document(reply.body)
        self.status = _status(self.error, reply)
        self.message = _message(self.error, reply)
        self.lower = self.message.lower()
        self.said = self.lower if _is_said(self.error) else ""
        """The server's own words, which do not echo the prompt."""
        self.codes = {*_codes(self.error, errors), *_header_codes(reply, errors)}

    def trouble(self) -> Trouble:
        """The meaning of an error reply; if it says several things, the order of the tests decides."""
        status, message = self.status, self.message
        if (money := self._money()) is not None:
            return money
        if status == 401 or self._has("auth"):
            return Auth(message, status)
        if self._has("policy") or (status in _POLICY_STATUS and self._says("policy", self.said)):
            return Policy(message, status)
        if status == 403 or 300 <= status < 400:
            return Auth(message if status == 403 else f"redirected to another address; {message}", status)
        if self._has("ramp") or (status == 429 and self._says("ramp", self.lower)):
            return Ramp(message, status, self._wait_s())
        if status == 413 or (status == 429 and (self._says("too_large", self.lower) or self._asks_above_limit())):
            return TooLong(message, status)
        if status == 429 or self._has("rate"):
            return Rate(message, status, self._wait_s())
        if status in _GATEWAY_TIMEOUTS and self.reply.latency_s >= GATEWAY_TIMEOUT_S:
            took = f"{self.reply.latency_s:.0f} s are cut on the way (HTTP {status}: {message})"
            return Ambiguous(f"answers that take longer than {took}", status)
        is_loading = self._says("loading", self.lower)
        if status in _OVERLOAD_STATUS or self._has("overload") or 520 <= status < 530:
            return Overload(message, status, retry_after_s(self.reply.headers), is_loading)
        if self._has("too_long") or (400 <= status < 500 and self._is_too_long()):
            return TooLong(message, status)
        if 200 <= status < 300 or not 100 <= status < 600:
            return self._malformed()
        if 500 <= status < 600 and (is_loading or self._says("overload", self.lower)):
            return Overload(message, status, retry_after_s(self.reply.headers), is_loading)
        if status >= 500 or status == 409:
            return ServerError(message, status)
        return BadRequest(message, status, _parameter(self.error))

    def _malformed(self) -> Malformed:
        if 200 <= self.status < 300 and not self.said and self.reply.body.strip():
            words = f"no answer where this API puts it, in a body that begins {self.message[:300]}"
            return Malformed(words, self.status)
        return Malformed(self.message, self.status)

    def _has(self, signal: Signal) -> bool:
        """True if one of its codes says so."""
        if not self.codes.isdisjoint(self.errors.codes.get(signal, ())):
            return True
        family = self.errors.families.get(signal)
        return family is not None and any(map(family.search, self.codes))

    def _says(self, signal: Signal, text: str) -> bool:
        """True if the text says so."""
        phrase = self.errors.phrases.get(signal)
        return phrase is not None and phrase.search(text) is not None

    def _money(self) -> Money | Rate | None:
        """The Trouble if the account's money or daily allowance is exhausted."""
        status, message = self.status, self.message
        if self._has("busy"):
            return Rate(message, status, retry_after_s(self.reply.headers))
        per_day, empty = self._has("daily"), self._has("money")
        daily = per_day or (status == 429 and any(self._says("daily", text) for text in (*self.codes, self.said)))
        if not (daily or empty or status == 402 or self._says("money", self.said)):
            return None
        if status == 429 and not per_day and not empty:
            wait_s = self._wait_s()
            if self._has("per_minute") or (wait_s is not None and wait_s <= _SOON_S):
                return Rate(message, status, wait_s)
        return Money(message, status, _back(self.error, self.reply) if daily else None)

    def _is_too_long(self) -> bool:
        """True if the text says that the prompt is too long, not that the answer's limit is too high."""
        if _NO_ROOM.search(self.lower) is not None:
            return True
        if not self._says("too_long", self.lower) or _OF_LENGTH.search(self.lower) is None:
            return False
        return _OUTPUT_LIMIT.search(self.lower) is None or _OF_INPUT.search(self.lower) is not None

    def _asks_above_limit(self) -> bool:
        found = _LIMIT_AND_REQUESTED.search(self.lower)
        return found is not None and int(found[2]) > int(found[1])

    def _wait_s(self) -> float | None:
        """From a header, a field of the error's details, or the message."""
        if (wait := retry_after_s(self.reply.headers)) is not None:
            return wait
        if (wait := _wait_field_s(self.error, self.errors)) is not None:
            return wait
        if (found := self.errors.wait_phrase.search(self.lower)) is None:
            return None
        minutes, amount, unit = found.groups()
        return min(60 * int(minutes or 0) + float(amount) / (1000 if unit == "ms" else 1), MAX_WAIT_S)


def _back(error: Any, reply: Reply) -> str | None:
    """When a daily allowance resets, from timestamps in the reply's headers or its body's `headers`."""
    named = {name: value for name, value in reply.headers.items() if "reset" in name}
    named |= {str(name).lower(): str(value) for name, value in _headers_within(error)}
    moments = [moment for name, value in named.items() if "reset" in name and (moment := moment_in(value)) is not None]
    if moments:
        return f"{datetime.fromtimestamp(max(moments), UTC):%Y-%m-%d %H:%M} UTC"
    wait = number_in(reply.headers.get("retry-after"))
    return f"{wait / 3600:.1f} h after this reply" if wait is not None and wait > _SOON_S else None


def _headers_within(error: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 3 or not isinstance(error, dict):
        return
    for name, value in error.items():
        if isinstance(value, dict):
            yield from value.items() if name == "headers" else _headers_within(value, depth + 1)


def _is_said(error: Any) -> bool:
    """True if the error document has its own message; otherwise its text may contain anything."""
    if isinstance(error, dict):
        error = _words_in(error)
    return isinstance(error, str) and bool(error)


def _status(error: Any, reply: Reply) -> int:
    """The reply's status; for an error in a 200, the status that it names, as in OpenRouter's once they have begun to
    answer.
    """
    code = error.get("code") if isinstance(error, dict) and 200 <= reply.status < 300 else None
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else reply.status


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


def _codes(error: Any, errors: ErrorVocabulary, depth: int = 0) -> Iterator[str]:
    """All codes, types and reasons in an error document, in lower case."""
    if depth > 4:
        return
    if isinstance(error, list):
        for item in error[:20]:
            yield from _codes(item, errors, depth + 1)
    elif isinstance(error, dict):
        for name, value in error.items():
            if name in errors.code_names:
                yield name
            elif isinstance(value, str) and name in errors.code_fields:
                yield _bare(value)
            elif isinstance(value, (dict, list)):
                yield from _codes(value, errors, depth + 1)


def _header_codes(reply: Reply, errors: ErrorVocabulary) -> Iterator[str]:
    for name in errors.code_headers:
        if value := reply.headers.get(name):
            yield _bare(value.partition(":")[0])  # AWS appends an address


def _bare(code: str) -> str:
    """The code in lower case, without the namespace that AWS may put before a hash sign."""
    return code.rpartition("#")[2].strip().lower()


def _words_in(error: dict[str, Any]) -> Any:
    return error.get("message") or error.get("Message") or error.get("detail") or error.get("msg")


def _message(error: Any, reply: Reply) -> str:
    text: Any = error
    if isinstance(error, dict):
        text = _words_in(error)
    if not isinstance(text, str) or not text:
        text = reply.body[:2000].decode("utf-8", "replace")
    words = " ".join(text[:2000].split())[:500] or f"HTTP {reply.status} without a body"
    return words if 100 <= reply.status < 600 else f"HTTP {reply.status}, not a valid HTTP status: {words}"[:500]


def _parameter(error: Any) -> str | None:
    """OpenAI's `param`."""
    name = error.get("param") if isinstance(error, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= 100 else None


def _wait_field_s(error: Any, errors: ErrorVocabulary) -> float | None:
    """A wait stated in the error's `details`, as `[{"retryDelay": "45.8s"}]`."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        for name in errors.wait_fields if isinstance(detail, dict) else ():
            delay = detail.get(name)
            if isinstance(delay, str) and (wait := number_in(delay.removesuffix("s"))) is not None:
                return min(wait, MAX_WAIT_S)
    return None
