"""A stream of chat completions reads the same as the answer unstreamed, or is not an answer at all."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.teachers.outcome import Ambiguous, Outcome, Overload, Rate, ServerError
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.teacher import Teacher

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 1}}
FRAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m-2026"}
DONE = b"data: [DONE]\n\n"
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def protocol(**fields: Any) -> Any:
    """Of a teacher behind a URL."""
    terms = {"training_use": "permitted"}
    given = {"name": "t", "base_url": "http://t/v1", "model": "m", "terms": terms} | fields
    return protocol_of(Teacher.model_validate(given), Ask())


API = protocol()


def read(body: bytes, api: Any = API) -> Outcome:
    """What a reply says."""
    outcome: Outcome = api.read(api.fold(Reply(200, {}, body)))
    return outcome


def event(document: Any) -> bytes:
    """A document as an event."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: Any = None, **choice: Any) -> bytes:
    """An event of one choice."""
    return event(FRAME | {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": None} | choice]})


def last(finish: Any = "stop") -> bytes:
    """The end of a stream: finish reason, usage, marker."""
    return chunk(finish_reason=finish) + event(FRAME | {"choices": [], "usage": USAGE}) + DONE


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def score(token: str) -> dict[str, Any]:
    """The log-probability of a token, with one alternative."""
    entry = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
    return entry | {"top_logprobs": [entry]}


@st.composite
def twins(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(an answer as one document, the same answer as a stream)."""
    kind = draw(st.sampled_from(["text", "calls", "refusal", "reasoning only", "n"]))
    message: dict[str, Any] = {"role": "assistant", "content": None}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": draw(st.sampled_from([None, ""]))}]
    scores: list[dict[str, Any]] = []
    if kind == "reasoning only" or draw(st.booleans()):
        name = draw(st.sampled_from(["reasoning", "reasoning_content"]))
        message[name] = draw(TEXTS)
        deltas += [{name: piece} for piece in pieces(draw, message[name])]
    if kind in ("text", "n"):
        message["content"] = draw(TEXTS)
        parts = pieces(draw, message["content"])
        deltas += [{"content": piece} for piece in parts]
        scores = [score(piece) for piece in parts if piece and draw(st.just(kind == "text"))]
    elif kind == "refusal":
        message["refusal"] = draw(TEXTS)
        deltas += [{"refusal": piece} for piece in pieces(draw, message["refusal"])]
    elif kind == "calls":
        message["tool_calls"] = []
        for index in range(draw(st.integers(1, 3))):
            function = {"name": draw(TEXTS), "arguments": draw(TEXTS)}
            call = {"id": f"call_{index}", "type": "function"}
            message["tool_calls"].append(call | {"function": function})
            begun = call | {"index": index, "function": {"name": function["name"], "arguments": ""}}
            deltas.append({"tool_calls": [begun]})
            for piece in pieces(draw, function["arguments"]):
                deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    logprobs = {"content": scores, "refusal": None} if scores else None
    choices = [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}]
    chunks = []
    for delta in deltas:
        part = delta.get("content")
        given = {"content": [score(part)], "refusal": None} if scores and part else None
        chunks.append({"index": 0, "delta": delta, "logprobs": given, "finish_reason": None})
    chunks.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish})
    if kind == "n":
        choices.append({"index": 1, "message": {"content": "other"}, "finish_reason": "stop"})
        other = {"index": 1, "delta": {"role": "assistant", "content": "other"}, "finish_reason": "stop"}
        chunks.insert(draw(st.integers(0, len(chunks))), other)
    whole = {"id": "chatcmpl-1", "model": "m-2026", "choices": choices, "usage": USAGE}
    frame = FRAME | draw(st.sampled_from([{}, {"usage": None}]))
    noise = st.sampled_from([b"", b"", b": ping\n\n", b'event: ping\ndata: {"type": "ping"}\n\n'])
    stream = b"".join(draw(noise) + event(frame | {"choices": [each]}) for each in chunks)
    stream += event(frame | {"choices": [], "usage": USAGE}) + DONE
    return json.dumps(whole, ensure_ascii=False).encode(), stream


@settings(max_examples=60)
@given(twins())
def test_a_stream_reads_like_an_unstreamed_reply(twin: tuple[bytes, bytes]) -> None:
    """Text, reasoning, tool calls, log-probabilities and refusals, whatever pieces they come in."""
    unstreamed, streamed = twin
    assert read(streamed) == read(unstreamed)


@settings(max_examples=60)
@given(twins(), st.data())
def test_a_stream_that_ends_early_is_not_an_answer(twin: tuple[bytes, bytes], data: st.DataObject) -> None:
    """At any byte before the last finish reason it is ambiguous; behind it, what may be missing is the usage."""
    whole, stream = read(twin[0]), twin[1]
    found = read(stream[: data.draw(st.integers(1, len(stream) - 1))])
    if isinstance(found, Completion):
        assert isinstance(whole, Completion)
        assert found.text == whole.text
        assert found.usage in (Usage(), whole.usage)
    else:
        assert isinstance(found, Ambiguous), found


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "delta",
                        "message",
                        "content",
                        "index",
                        "tool_calls",
                        "function",
                        "name",
                        "arguments",
                        "id",
                        "error",
                        "usage",
                        "logprobs",
                        "reasoning_details",
                        "type",
                        "text",
                        "finish_reason",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_nothing_in_a_stream_raises(document: Any) -> None:
    """Whatever is in its events."""
    read(event(document) + last())
    read(chunk({"content": "a"}) + event(document) + event({"choices": [document]}) + last())


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        (
            [
                {"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "a"}]},
                {
                    "reasoning": "b",
                    "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "b", "signature": None}],
                },
                {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]},
                {"content": "4"},
            ],
            {
                "content": "4",
                "reasoning": "ab",
                "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"}],
            },
        ),
        (
            [
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2+"}]}]},
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2"}]}]},
                {"content": "4"},
            ],
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                    {"type": "text", "text": "4"},
                ]
            },
        ),
        (
            [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}],
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
    ],
    ids=["openrouter", "mistral", "function"],
)
def test_deltas_of_other_servers_are_read(deltas: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Details of reasoning, content in parts, and the older function call."""
    whole = FRAME | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    assert read(b"".join(map(chunk, deltas)) + last()) == read(json.dumps(whole).encode())


@pytest.mark.parametrize(
    "fragments",
    [
        [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        ],
        [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        ],
        [
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}},
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": "}"}},
            {"index": 0, "id": "", "function": {"name": None, "arguments": "}"}},
        ],
    ],
    ids=["no index", "one index", "interleaved, the name again"],
)
def test_parallel_calls_are_kept_apart(fragments: list[dict[str, Any]]) -> None:
    """By index, and by id where the index does not do it."""
    found = read(b"".join(chunk({"tool_calls": [each]}) for each in fragments) + last("tool_calls"))
    assert isinstance(found, Completion)
    assert found.tool_calls is not None
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in json.loads(found.tool_calls)
    ]
    assert calls == [("a", "f", "{}"), ("b", "g", "{}")]


def test_usage_is_found_wherever_it_is_sent() -> None:
    """With every chunk, where the last counts; under Groq's name; or never."""
    counted = [
        event(
            FRAME | {"choices": [{"delta": {"content": "4"}}], "usage": {"prompt_tokens": 10, "completion_tokens": n}}
        )
        for n in (1, 2, 3)
    ]
    for body, output in [
        (b"".join(counted) + chunk(finish_reason="stop"), 3),
        (
            chunk({"content": "4"})
            + event({"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": USAGE}}),
            3,
        ),
        (chunk({"content": "4"}) + chunk(finish_reason="stop") + DONE, None),
    ]:
        found = read(body)
        assert isinstance(found, Completion)
        assert found.usage.output_tokens == output


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (event({"error": {"message": "Slow down", "type": "rate_limit_error", "code": 429}}), Rate),
        (event({"error": {"message": "overloaded", "code": 503}}), Overload),
        (b'{"error": {"message": "overloaded", "code": 503}}\n', Overload),
        (b'event: error\ndata: {"message": "overloaded", "code": 503}\n\n', Overload),
        (
            event({"object": "error", "message": "The engine died", "type": "InternalServerError", "code": 500}),
            ServerError,
        ),
        (
            event(
                FRAME
                | {"error": {"message": "gone", "code": 502}, "choices": [{"delta": {}, "finish_reason": "error"}]}
            ),
            Overload,
        ),
    ],
)
def test_an_error_after_a_200_is_classified(error: bytes, kind: type) -> None:
    """Before the answer it is what it says; within an answer, that broke off and may cost."""
    begun = chunk({"role": "assistant", "content": ""})
    assert isinstance(read(error), kind)
    assert isinstance(read(begun + error + DONE), kind)
    broken = read(begun + chunk({"content": "Four"}) + error + DONE)
    assert isinstance(broken, ServerError)
    assert "broke off" in broken.message


def test_missing_finish_reasons_need_a_setting_in_the_recipe() -> None:
    """An end marker alone does not make an answer whole; the recipe has to confirm it."""
    body = chunk({"content": "Four."}) + DONE
    assert isinstance(read(body), Ambiguous)
    known = read(body, protocol(finish_reasons={"": "stop"}))
    assert isinstance(known, Completion)
    assert (known.text, known.finish_reason) == ("Four.", "stop")
    assert isinstance(read(chunk({"content": "Four."}), protocol(finish_reasons={"": "stop"})), Ambiguous)


def test_a_whole_message_in_one_event_is_read() -> None:
    """Gateways that wrap an unstreamed answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Four."}, "finish_reason": "stop"}
    for document in ({"choices": [choice]}, {"data": {"choices": [choice]}}):
        found = read(event(document) + DONE)
        assert isinstance(found, Completion)
        assert found.text == "Four."
