"""Any reply of any API is an outcome that seals: values of any type, nested to any depth, streamed or not."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from builders import answer, chunk_of, questions, sealed, waiting

from stillhouse.gen.simulator.dialects.event_stream import frame
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Ambiguous
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.teacher import Teacher

TERMS = {"training_use": "by-authorisation", "authorisation": "letter 7"}
APIS: dict[str, dict[str, Any]] = {
    "anthropic": {"base_url": "https://t.test", "model": "m"},
    "bedrock": {"aws": {"region": "us-east-1"}, "model": "us.amazon.nova-pro-v1:0"},
    "gemini": {"base_url": "https://t.test", "model": "gemini-2.5-pro"},
    "openai-chat": {"base_url": "https://t.test/v1", "model": "m"},
    "openai-responses": {"base_url": "https://t.test/v1", "model": "m"},
}


def interpreter(api: str) -> Interpreter:
    """A reader of this API's replies."""
    given = {"name": "t", "api": api, "terms": TERMS} | APIS[api]
    return Interpreter(Teacher.model_validate(given), Ask(max_tokens=9))


READERS = {api: interpreter(api) for api in APIS}


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> None:
    """Tracebacks of earlier tests may hold open files. If one were collected deep inside a nested document, no stack
    would be left for Python's warning."""
    gc.collect()


def nested(depth: int) -> str:
    """A JSON object of this depth, written by hand: libraries give up."""
    return '{"a":' * depth + "1" + "}" * depth


def json_of(document: Any, **holes: str) -> bytes:
    """The document with JSON text in the place of each value that is a hole's name."""
    text = json.dumps(document)
    for name, value in holes.items():
        text = text.replace(f'"{name}"', value)
    return text.encode()


def as_it_is(text: bytes) -> Any:
    """JSON that is written without a look."""
    return orjson.Fragment(text)


# --- whole replies: a thought, a text and a call, in each API's shape

ANSWERS: dict[str, dict[str, Any]] = {
    "anthropic": {
        "id": "m1",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Four."},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "end_turn",
        "stop_details": {"category": "x", "explanation": "y"},
        "usage": {"input_tokens": 5, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}},
    },
    "bedrock": {
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                    {"reasoningContent": {"redactedContent": "x"}},
                    {"text": "Four."},
                    {"toolUse": {"toolUseId": "c1", "name": "f", "input": {"a": 1}}},
                ],
            }
        },
        "stopReason": "end_turn",
        "usage": {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
        "trace": {"promptRouter": {"invokedModelId": "m"}},
    },
    "gemini": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True, "thoughtSignature": "s"},
                        {"text": "Four."},
                        {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}},
                    ],
                },
                "finishReason": "STOP",
                "index": 0,
                "logprobsResult": {
                    "chosenCandidates": [{"token": "a", "tokenId": 3, "logProbability": -0.5}],
                    "topCandidates": [{"candidates": [{"token": "a", "tokenId": 3, "logProbability": -0.5}]}],
                },
            }
        ],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12},
        "modelVersion": "g",
        "responseId": "r",
    },
    "openai-chat": {
        "id": "r",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Four.",
                    "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}],
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
                },
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 2}},
    },
    "openai-responses": {
        "id": "r",
        "status": "completed",
        "model": "m",
        "output": [
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "s",
            },
            {"type": "message", "content": [{"type": "output_text", "text": "Four."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        ],
        "usage": {"input_tokens": 5, "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 2}},
    },
}

# --- streams of a text and a call, and with a field that nobody reads


def anthropic_events(arguments: Any, extra: Any) -> list[dict[str, Any]]:
    """A stream's events."""
    return [
        {"type": "message_start", "message": {"id": "m1", "model": "m", "content": [], "extra": extra}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Fo"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ur."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": arguments}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]


def bedrock_events(arguments: Any, extra: Any) -> list[tuple[str, dict[str, Any]]]:
    """The same events from Bedrock."""
    call = {"contentBlockIndex": 1, "delta": {"toolUse": {"input": arguments}}}
    return [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Fo"}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "ur."}}),
        ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "c", "name": "f"}}}),
        ("contentBlockDelta", call),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12}, "extra": extra}),
    ]


def gemini_events(arguments: Any, extra: Any) -> list[dict[str, Any]]:
    """The same events from Gemini."""
    parts: list[Any] = [{"text": "Fo"}, {"text": "ur."}, {"functionCall": {"name": "f", "args": arguments}}]
    ends: list[dict[str, Any]] = [{}, {}, {"finishReason": "STOP"}]
    pairs = zip(parts, ends, strict=True)
    events = [{"candidates": [{"content": {"parts": [part]}, "index": 0, **end}]} for part, end in pairs]
    return [*events[:-1], events[-1] | {"extra": extra}]


def chat_events(arguments: Any, extra: Any) -> list[dict[str, Any]]:
    """The same events from a chat completion."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}
    deltas = [{"content": "Fo"}, {"content": "ur."}, {"tool_calls": [call]}]
    chunks = [{"id": "r", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"id": "r", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"extra": extra}}
    return [*chunks, end]


def responses_events(arguments: Any, extra: Any) -> list[dict[str, Any]]:
    """The same events from a response, whose last event holds all of it."""
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "Four."}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
    ]
    response = {"id": "r", "status": "completed", "model": "m", "output": output, "metadata": extra}
    return [{"type": "response.created", "response": {}}, {"type": "response.completed", "response": response}]


EVENTS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "anthropic": anthropic_events,
    "bedrock": bedrock_events,
    "gemini": gemini_events,
    "openai-chat": chat_events,
    "openai-responses": responses_events,
}
OBJECTS = ("gemini", "openai-chat")
"""APIs whose streams may hold arguments as an object; in the others they are text."""


def stream(api: str, events: list[Any], **holes: str) -> Reply:
    """A reply that streams these events."""
    if api == "bedrock":
        frames = [frame(kind, as_it_is(json_of(event, **holes))) for kind, event in events]
        return Reply(200, {"content-type": "application/vnd.amazon.eventstream"}, b"".join(frames))
    body = b"".join(b"data: " + json_of(event, **holes) + b"\n\n" for event in events)
    return Reply(200, {"content-type": "text/event-stream"}, body)


DEPTHS = (250, 256, 300, 900, 990, 1020, 1100, 20_000)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_stream_of_any_depth_keeps_its_text(api: str, depth: int) -> None:
    """In a call's arguments, or in an unused field; and the journal's folded body reads the same."""
    for holes in ({"ARGUMENTS": nested(depth)}, {"EXTRA": nested(depth)}):
        arguments = "ARGUMENTS" if api in OBJECTS else nested(depth) if "ARGUMENTS" in holes else '{"a": 1}'
        reply = stream(api, EVENTS[api](arguments, "EXTRA"), **holes)
        outcome = READERS[api].read(reply)
        assert isinstance(outcome, Completion), outcome
        assert outcome.text == "Four."
        assert READERS[api].read(READERS[api].fold(reply)) == outcome


ODD = [
    "null",
    "true",
    "5",
    "1.5",
    '""',
    '"\\ud800"',
    '"<think>"',
    "[]",
    "{}",
    "[null]",
    '{"type":"x"}',
    "123456789012345678901234567890",
    *(nested(depth) for depth in (120, 260, 990, 5000)),
]


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a document."""
    yield path
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    for name, value in pairs:
        yield from paths(value, (*path, name))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at the end of the path."""
    if not path:
        return value
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = with_value(document[path[0]], path[1:], value)
    return copied


@pytest.mark.parametrize("api", APIS)
def test_a_reply_with_an_odd_value_anywhere_seals(api: str, tmp_path: Path) -> None:
    """Whatever is in a field, the reply is an outcome, and no record that results from it breaks the seal."""
    answers = [json_of(with_value(ANSWERS[api], path, "ODD"), ODD=odd) for path in paths(ANSWERS[api]) for odd in ODD]
    recipe, held = chunk_of(
        tmp_path,
        questions(len(answers) + 1),
        teachers=[{"name": "t", "api": api, "terms": TERMS} | APIS[api]],
        ask={"max_tokens": 9, "extra": {"toolConfig": {"tools": [{}]}} if api == "bedrock" else {"tools": [{}]}},
        dataset={"prompts_per_shard": 10_000, "provider_details": True, "messages": True},
    )
    for ordinal, body in enumerate([json_of(ANSWERS[api]), *answers]):
        answer(held, ordinal, body)
    while left := waiting(held):
        answer(held, left[0], b'{"error": {"message": "no"}}', status=400)
    _, files = sealed(recipe, held)
    records = {row["prompt_id"] for row in files["data"]}
    assert "q0" in records
    assert len(records) > len(answers) / 3


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("depth", [100, *DEPTHS])
def test_a_call_is_kept_whole_or_is_invalid(api: str, depth: int) -> None:
    """No part of its arguments is dropped silently: a call nested too deeply is invalid, and the text stays."""
    text = json.dumps(ANSWERS[api]).replace('{"a": 1}', nested(depth)).replace('"{}"', json.dumps(nested(depth)))
    replies = [Reply(200, {}, text.encode())]
    if api in OBJECTS:
        replies.append(stream(api, EVENTS[api]("ARGUMENTS", None), ARGUMENTS=nested(depth)))
    for reply in replies:
        outcome = READERS[api].read(reply)
        assert isinstance(outcome, Completion), outcome
        assert outcome.text == "Four."
        calls = tool_calls_in(outcome.tool_calls)
        if calls is not None:
            assert calls[0].arguments.replace(" ", "") == nested(depth)
        assert (calls is not None) == (depth == 100 or (api == "openai-responses" and depth < 1024))


@pytest.mark.parametrize("calls", [True, 5, 1.5, "f", {"function": {"name": "f"}}])
def test_calls_that_are_not_a_list_are_invalid(calls: Any) -> None:
    """A server may send anything in place of calls."""
    body = with_value(ANSWERS["openai-chat"], ("choices", 0, "message", "tool_calls"), calls)
    outcome = READERS["openai-chat"].read(Reply(200, {}, json_of(body)))
    assert isinstance(outcome, Completion)
    assert tool_calls_in(outcome.tool_calls) is None


ARGUMENTS = '{"n":123456789012345678901234567890,"f":1.10,"e":1e5,"n":2}'


@pytest.mark.parametrize("api", ["anthropic", "bedrock", "openai-chat", "openai-responses"])
def test_streamed_arguments_are_the_models_own_text(api: str) -> None:
    """Large numbers and all; also where they are not JSON, for that is the model's fault."""
    for text in (ARGUMENTS, '{"a": oops'):
        outcome = READERS[api].read(stream(api, EVENTS[api](text, None)))
        assert isinstance(outcome, Completion), outcome
        assert json.loads(outcome.tool_calls or "")[0]["function"]["arguments"] == text


def test_a_delta_without_a_start_opens_its_block() -> None:
    """Where the event that starts a block is missing, no text is lost."""
    events = [event for event in EVENTS["anthropic"]("{}", None) if event.get("index") != 1]
    later = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": " And five."}}
    outcome = READERS["anthropic"].read(stream("anthropic", [*events[:-2], later, *events[-2:]]))
    assert isinstance(outcome, Completion)
    assert outcome.text == "Four. And five."


@pytest.mark.parametrize("index", [None, "0", 1.5, "missing"])
def test_a_stream_with_an_unplaceable_piece_is_incomplete(index: Any) -> None:
    """A piece is never left out."""
    place = {} if index == "missing" else {"index": index}
    delta: dict[str, Any] = {"type": "content_block_delta", **place, "delta": {"type": "text_delta", "text": "And"}}
    events = EVENTS["anthropic"]("{}", None)
    assert isinstance(READERS["anthropic"].read(stream("anthropic", [*events[:5], delta, *events[5:]])), Ambiguous)
    call = events[:5] + events[6:]  # its start is missing, and with it the function's name
    assert isinstance(READERS["anthropic"].read(stream("anthropic", call)), Ambiguous)
    place = {} if index == "missing" else {"contentBlockIndex": index}
    piece = ("contentBlockDelta", {**place, "delta": {"text": "And"}})
    frames = EVENTS["bedrock"]("{}", None)
    assert isinstance(READERS["bedrock"].read(stream("bedrock", [*frames[:3], piece, *frames[3:]])), Ambiguous)


LARGE = '{"n":123456789012345678901234567890,"m":-18446744073709551616,"k":1234567890123456789}'


@pytest.mark.parametrize("api", ["anthropic", "bedrock", "gemini", "openai-chat"])
def test_large_integers_in_arguments_keep_every_digit(api: str) -> None:
    """Where the wire has arguments as an object, streamed or not."""
    replies = [Reply(200, {}, json.dumps(ANSWERS[api]).replace('{"a": 1}', LARGE).encode())]
    if api in OBJECTS:
        replies.append(stream(api, EVENTS[api]("ARGUMENTS", None), ARGUMENTS=LARGE))
    for reply in replies:
        outcome = READERS[api].read(reply)
        assert isinstance(outcome, Completion), outcome
        (call,) = tool_calls_in(outcome.tool_calls) or ()
        assert call.arguments == LARGE


@pytest.mark.parametrize("api", ["anthropic", "bedrock", "gemini", "openai-chat"])
def test_a_character_may_be_split_over_two_events(api: str) -> None:
    """Servers that cut by UTF-16 units split it; a half that stays alone is U+FFFD."""
    arguments = {"a": 1} if api in OBJECTS else '{"a":1}'
    holes = {"Fo": '"F\\ud83d"', "ur.": '"\\ude00.\\udc00"'}
    outcome = READERS[api].read(stream(api, EVENTS[api](arguments, None), **holes))
    assert isinstance(outcome, Completion), outcome
    assert outcome.text == "F\U0001f600.\ufffd"
    assert json.loads(outcome.tool_calls or "")


def test_text_pieces_become_one_part() -> None:
    """Gemini's thoughts, answers and signatures stay apart, each signature with the place of its part."""
    parts: list[dict[str, Any]] = [
        {"text": "h", "thought": True},
        {"text": "m", "thought": True},
        {"text": "Fo"},
        {"text": "ur", "thoughtSignature": "s1"},
        {"text": "."},
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s2"},
    ]
    candidates: list[dict[str, Any]] = [{"content": {"parts": [part]}, "index": 0} for part in parts]
    events = [
        {"candidates": [candidate]} for candidate in (*candidates[:-1], candidates[-1] | {"finishReason": "STOP"})
    ]
    whole = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    streamed, read = (
        READERS["gemini"].read(reply) for reply in (stream("gemini", events), Reply(200, {}, json_of(whole)))
    )
    assert streamed == read
    assert isinstance(streamed, Completion)
    assert (streamed.reasoning, streamed.text) == ("hm", "Four.")
