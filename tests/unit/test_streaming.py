"""Which requests ask for a stream, how each protocol asks for one, and the advice for a teacher that needs one."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, BadRequest
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

HELLO = (("user", "hi"),)


def interpreter(base_url: str = "https://t.example/v1", *, max_tokens: int | None = None, **fields: Any) -> Interpreter:
    """Of a teacher there."""
    given = {"name": "t", "base_url": base_url, "model": "m", "terms": {"training_use": "permitted"}}
    return Interpreter(Teacher.model_validate(given | fields), Ask(max_tokens=max_tokens))


def request(api: str, *, stream: bool, **fields: Any) -> HttpRequest:
    """The request in this protocol."""
    found = interpreter(api=api, max_tokens=64, **fields)
    base_url = found.teacher.urls[0]
    return found.protocol.request(Request(HELLO, stream=stream), base_url=base_url, key=Credentials("k"), now=0.0)


@pytest.mark.parametrize(
    ("api", "fields", "added"),
    [
        ("openai-chat", {}, {"stream": True, "stream_options": {"include_usage": True}}),
        ("openai-chat", {"profile": "mistral"}, {"stream": True}),
        (
            "openai-chat",
            {"profile": "openai"},
            {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        ),
        ("openai-responses", {}, {"stream": True}),
        ("anthropic", {}, {"stream": True}),
    ],
)
def test_streaming_is_requested_by_a_field(api: str, fields: dict[str, Any], added: dict[str, Any]) -> None:
    """Everything else is the same as without it, headers and URL included."""
    whole, streamed = (request(api, stream=stream, **fields) for stream in (False, True))
    assert json.loads(streamed.body) == json.loads(whole.body) | added
    assert (streamed.url, streamed.headers) == (whole.url, whole.headers)


@pytest.mark.parametrize(
    ("api", "fields", "whole", "streamed"),
    [
        ("gemini", {}, "/v1/models/m:generateContent", "/v1/models/m:streamGenerateContent?alt=sse"),
        ("bedrock", {"aws": {"region": "us-east-1"}}, "/v1/model/m/converse", "/v1/model/m/converse-stream"),
    ],
)
def test_streaming_is_requested_by_a_different_url(api: str, fields: dict[str, Any], whole: str, streamed: str) -> None:
    """The body is the same."""
    assert request(api, stream=False, **fields).url == f"https://t.example{whole}"
    assert request(api, stream=True, **fields).url == f"https://t.example{streamed}"
    assert request(api, stream=True, **fields).body == request(api, stream=False, **fields).body


def test_a_query_is_appended_to_an_url_that_has_one() -> None:
    """Gemini's streams."""
    found = interpreter(api="gemini")
    key = Credentials("k", query="a=1")
    asked = Request(HELLO, stream=True)
    url = found.protocol.request(asked, base_url=found.teacher.urls[0], key=key, now=0.0).url
    assert url.endswith(":streamGenerateContent?alt=sse&a=1")


@pytest.mark.parametrize(
    ("url", "stream", "begins"),
    [
        ("https://t.example/v1", "auto", False),
        ("https://t.example/v1", True, True),
        ("https://x-8000.proxy.runpod.net/v1", "auto", True),
        ("https://x-8000.proxy.runpod.net/v1", False, False),
        ("https://notmodal.run/v1", "auto", False),
    ],
)
def test_auto_depends_on_the_host(url: str, stream: Any, begins: bool) -> None:
    """Whose front cuts connections for their silence; the recipe's word wins."""
    assert interpreter(url, stream=stream).streaming.begins_with(url) is begins


@pytest.mark.parametrize(
    ("stream", "max_tokens", "after"),
    [("auto", 4097, True), ("auto", None, True), ("auto", 4096, False), (False, 9999, False), (True, 9999, False)],
)
def test_auto_streams_long_answers_after_a_timeout(stream: Any, max_tokens: int | None, after: bool) -> None:
    """Answers without a limit may be long too."""
    assert interpreter(stream=stream, max_tokens=max_tokens).streaming.after_timeout is after


@pytest.mark.parametrize(
    "words",
    [
        "parameter.enable_thinking must be set to false for non-streaming calls",
        "This model only supports streaming output.",
        "This model only support stream mode, please enable the stream parameter to access the model.",
        "`stream` must be set to true",
        "Stream mode is required for this model; use stream=true",
    ],
)
def test_a_teacher_that_needs_streams_is_recognised(words: str) -> None:
    """The message says what to set, unless it is set."""
    reply = Reply(400, {}, json.dumps({"error": {"message": words}}).encode())
    found = interpreter().read(reply)
    assert isinstance(found, BadRequest)
    assert "`stream: true`" in found.message
    assert interpreter(stream=True).read(reply) == BadRequest(words, 400)


@pytest.mark.parametrize("words", ["unknown field stream_options", "tools can't be used with stream", "no"])
def test_other_refusals_are_left_alone(words: str) -> None:
    """They may name streams too."""
    reply = Reply(400, {}, json.dumps({"error": {"message": words}}).encode())
    assert interpreter().read(reply) == BadRequest(words, 400)


def test_a_gateway_timeout_comes_with_advice() -> None:
    """Where the next try is not streamed anyway."""
    reply = Reply(524, {}, b"<title>t | 524: A timeout occurred</title>", latency_s=100.2)
    short, long = interpreter(max_tokens=100).read(reply), interpreter().read(reply)
    assert isinstance(short, Ambiguous)
    assert isinstance(long, Ambiguous)
    assert "longer than 100 s are cut on the way (HTTP 524" in short.message
    assert short.message.endswith("; `stream: true` gets past that")
    assert "stream" not in long.message


def test_the_setting_is_checked_and_not_part_of_the_identity() -> None:
    """It may be changed at any time."""
    with pytest.raises(ValidationError, match="expected `auto`, `true` or `false`, got 'yes'"):
        interpreter(stream="yes")
    document: dict[str, Any] = {"name": "t", "source": {"path": "a.jsonl", "prompt": "q"}, "dataset": {"path": "out"}}
    teachers = [{"name": "s", "api": "simulator"}, {"name": "s", "api": "simulator", "stream": True}]
    one, other = (Recipe.model_validate(document | {"teachers": [teacher]}).identity() for teacher in teachers)
    assert one == other
