"""Bytes between, or after, a stream's events lose nothing of a finished answer, and finish none."""

import json
from typing import Any

import pytest
from replies import outcome_of

from stillhouse.gen.simulator.dialects.event_stream import frame
from stillhouse.gen.teachers.outcome import Ambiguous, Outcome, Rate, ServerError
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.retry import Tries, note
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.teacher import Teacher

MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {"input_tokens": 5}}
PART = {"type": "output_text", "text": "Four."}
RESPONSE = {
    "id": "r",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [PART]}],
    "usage": {"input_tokens": 5, "output_tokens": 7},
}
EVENTS: dict[str, list[dict[str, Any]]] = {
    "openai-chat": [
        {"choices": [{"index": 0, "delta": {"content": "Fo"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "ur."}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ],
    "openai-responses": [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "delta": "Four."},
        {"type": "response.completed", "response": RESPONSE},
    ],
    "anthropic": [
        {"type": "message_start", "message": MESSAGE},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Four."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ],
    "gemini": [
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Fo"}]}, "index": 0}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "ur."}]}, "finishReason": "STOP"}]},
    ],
}
NOISE = {
    "unknown field": b"x-trace: 1\n",
    "unknown field with JSON": b'x-trace: {"a": 1}\n',
    "data without a colon": b"data\n\n",
    "id without a colon": b"id\n",
    "indented comment": b" : ping\n\n",
    "zero bytes": b"\0\n\n",
    "words": b"data: keep-alive\n\n",
    "words in brackets": b"data: [PING]\n\n",
    "words without a field": b"ping\n\n",
    "a number": b"data: 1763000000\n\n",
    "a short page": b"<html>\n<p>wait\n</html>\n\n",
}
ENDS = {
    "page": b'<!doctype html>\n<html lang="en"><body>{"a": 1}</body></html>\n',
    "cut event": b'data: {"id":"r","usa',
    "cut event within a character": b'data: {"id":"r","x":"\xc3',
    "error": b'data: {"type": "error", "error": {"type": "overloaded_error", "message": "words", "code": 529}}\n\n',
    "document without a field": b'{"b": 2}\n',
}
BEGUN = {"openai-chat": 1, "openai-responses": 2, "anthropic": 3, "gemini": 1}
"""How many of them bring a piece of the answer."""
protocols = pytest.mark.parametrize("api", EVENTS)


def lines(api: str) -> list[bytes]:
    """A stream, event by event."""
    return [b"data: " + json.dumps(each).encode() + b"\n\n" for each in EVENTS[api]]


def read(api: str, body: bytes, **fields: Any) -> Outcome:
    """What a reply says."""
    given = {"name": "t", "api": api, "base_url": "http://t/v1", "model": "m", "terms": {"training_use": "permitted"}}
    given |= {"aws": {"region": "us-east-1"}} if api == "bedrock" else {}
    protocol = protocol_of(Teacher.model_validate(given | fields), Ask())
    return outcome_of(protocol, body, headers={"content-type": "text/event-stream"})


@protocols
@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_empty_events_are_skipped(api: str, noise: bytes) -> None:
    """Wherever they are; they don't finish a stream that is cut."""
    plain, found = read(api, b"".join(lines(api))), read(api, noise.join([b"", *lines(api), b""]))
    assert isinstance(plain, Completion)
    assert plain.text == "Four."
    assert found == plain
    assert isinstance(read(api, noise.join([*lines(api)[:-2], b""])), Ambiguous)


@protocols
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_data_after_a_finished_answer_does_not_undo_it(api: str, end: bytes) -> None:
    """And what can't be read before its end may be a piece of it."""
    plain, found = read(api, b"".join(lines(api))), read(api, b"".join([*lines(api), end]))
    assert isinstance(plain, Completion)
    assert found == plain
    if api != "openai-responses":  # whose last event holds everything
        assert not isinstance(read(api, b"".join([lines(api)[0], end, b"\n\n", *lines(api)[1:]])), Completion)


def _error(api: str) -> bytes:
    if api == "bedrock":
        return frame("throttlingException", {"message": "Slow down"}, kind="exception")
    error: dict[str, Any] = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Slow down"}
    error |= {"code": 429} if api == "gemini" else {}
    return b"data: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"


@protocols
def test_a_repeated_stream_is_one_answer(api: str) -> None:
    """And equal pieces of one answer are two."""
    once = b"".join(lines(api))
    for end in (b"", b"data: [DONE]\n\n"):
        assert read(api, (once + end) * 2) == read(api, once)
    if api == "openai-chat":
        found = read(api, lines(api)[0] * 2 + lines(api)[2])
        assert isinstance(found, Completion)
        assert found.text == "FoFo"
        ended = read(api, lines(api)[0] * 2 + b"data: [DONE]\n\n", finish_reasons={"": "stop"})
        assert isinstance(ended, Completion)
        assert ended.text == "FoFo"


@pytest.mark.parametrize("api", [*EVENTS, "bedrock"])
def test_an_error_within_an_answer_may_be_billed(api: str) -> None:
    """Before anything of it came, the request was not served, and waits for nothing."""
    if api == "bedrock":
        begun = frame("messageStart", {"role": "assistant"})
        delta = frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Fo"}})
    else:
        begun, delta = b": hello\n\n", b"".join(lines(api)[: BEGUN[api]])
    for body, expected, billed in [(begun, Rate, 0), (begun + delta, ServerError, 1)]:
        found, tries = read(api, body + _error(api)), Tries()
        note(found, tries)
        assert isinstance(found, (Rate, ServerError))
        assert type(found) is expected
        assert "Slow down" in found.message
        assert (tries.failures, tries.maybe_billed) == (billed, billed)


def test_an_end_marker_after_a_lost_event_does_not_finish_the_answer() -> None:
    """Though the recipe says that the server gives no finish reasons."""
    first, second, _ = lines("openai-chat")
    done = b"data: [DONE]\n\n"
    known = {"finish_reasons": {"": "stop"}}
    assert isinstance(read("openai-chat", first + second + done, **known), Completion)
    assert isinstance(read("openai-chat", first + second[:-6] + b"\n\n" + done, **known), Ambiguous)
