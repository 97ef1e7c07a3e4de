"""Very large replies are read in a process of their own, with the same outcome."""

import json
import os
import signal
from typing import Any

import pytest
from pieces import small_pieces

from stillhouse.gen.teachers.apart import APART, APART_BYTES
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Ambiguous
from stillhouse.gen.teachers.reading import read
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool_call import ToolCall

KEY = "sk-proj-0123456789abcdefghijklmn"


def interpreter(api: str = "openai-chat", **ask: Any) -> Interpreter:
    """Of a teacher of this API."""
    terms = {"license": "MIT", "training_use": "permitted", "url": "https://a.test", "seen_on": "2026-11-22"}
    teacher = {"name": "t", "api": api, "model": "m", "base_url": "https://a.test", "terms": terms}
    made = Interpreter(Teacher.model_validate(teacher), Ask.model_validate(ask))
    made.keys = (KEY,)
    return made


def reply_of(message: dict[str, Any], **more: Any) -> Reply:
    """A chat completion."""
    document = {"choices": [{"message": {"role": "assistant"} | message, "finish_reason": "stop"}]} | more
    return Reply(200, {"content-type": "application/json"}, json.dumps(document, ensure_ascii=False).encode(), 0.5)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REPLIES = {
    "text": reply_of({"content": "wörd 😀\n" * 5}),
    "reasoning": reply_of({"content": "a", "reasoning": "so " * 9}),
    "call": reply_of({"content": None, "tool_calls": [CALL]}),
    "empty": reply_of({"content": None}),
    "unknown": Reply(200, {}, b'{"a":[1,2,3]}'),
    "cut": Reply(200, {}, b'{"choices":[{"mess'),
    "refused": Reply(400, {}, json.dumps({"error": {"message": f"the key {KEY} is not valid"}}).encode()),
    "stream": Reply(
        200,
        {"content-type": "text/event-stream"},
        b'data: {"choices":[{"delta":{"content":"ab"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_process_reads_a_reply_as_this_one_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever it says, and without keys; long texts come back whole."""
    here = read(interpreter(), REPLIES[name])
    monkeypatch.setattr("stillhouse.gen.teachers.apart.APART_BYTES", 0)
    assert read(interpreter(), REPLIES[name]) == here
    assert KEY not in str(here)


def test_a_long_text_comes_back_whole() -> None:
    """It is sent in pieces."""
    text = "wörd 😀\n" * (APART_BYTES // 8)
    outcome = read(interpreter(), reply_of({"content": text})).outcome
    assert isinstance(outcome, Completion)
    assert outcome.text == text


def test_a_long_tool_call_is_the_same_from_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which parses it for its columns."""
    monkeypatch.setattr("stillhouse.gen.teachers.apart.APART_BYTES", 1)
    assert tool_calls_in(json.dumps([CALL])) == (ToolCall("c", "function", "f", "{}"),)
    assert tool_calls_in("") == ()
    assert tool_calls_in('{"a": 1}') is None


def test_scores_of_given_tokens_come_back_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are aligned with the tokens there."""
    items = [None, {"7": {"logprob": -0.5, "rank": 1}}, {"8": {"logprob": -0.25, "rank": 1}}]
    reply = Reply(200, {}, json.dumps({"choices": [{"text": "", "prompt_logprobs": items}]}).encode())
    asked = interpreter("vllm", score={"prompt_ids": "p", "completion_ids": "c", "top": 1})
    monkeypatch.setattr("stillhouse.gen.teachers.apart.APART_BYTES", 0)
    outcome = read(asked, reply, Scored.of([1], [7, 8])).outcome
    assert isinstance(outcome, Completion)
    assert outcome.scores is not None
    assert outcome.scores.logprobs.tolist() == [-0.5, -0.25]  # type: ignore[attr-defined] # GivenScores


BROKEN = {
    "vllm": b'{"choices":[{"text":"","prompt_logprobs":[null,{"7":{"logprob":-0.5}},{"8":{"logprob":-0.25,}},null]}]}',
    "sglang": b'{"meta_info":{"input_token_logprobs":[[null,1,null],[-0.5,7,null],[-0.25,8,],[-0.5,7,null]]}}',
}


@pytest.mark.parametrize("api", BROKEN)
def test_scores_whose_list_is_broken_mean_the_same_at_any_size(api: str) -> None:
    """The body is not JSON, whether its lists are taken out of it or not."""
    asked = interpreter(api, score={"prompt_ids": "p", "completion_ids": "c", "top": 0})
    small = read(asked, Reply(200, {}, BROKEN[api]), Scored.of([1], [7, 8, 7]))
    assert isinstance(small.outcome, Ambiguous)
    with small_pieces():
        assert read(asked, Reply(200, {}, BROKEN[api]), Scored.of([1], [7, 8, 7])) == small


def _killed() -> str:
    """Kills its process, unless that is the test's."""
    if "PYTEST_CURRENT_TEST" not in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return "read here"


def test_if_the_process_dies_the_reply_is_read_here(caplog: pytest.LogCaptureFixture) -> None:
    """No paid answer is lost with it, and the next one has a new process."""
    assert APART.call(_killed) == "read here"
    assert "the process that reads large replies ended" in caplog.text
    assert APART.call(os.getpid) != os.getpid()
