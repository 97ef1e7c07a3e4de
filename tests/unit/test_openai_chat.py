"""OpenAI's chat completions: what is asked, and what is read from answers good, odd and broken."""

import copy
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from replies import completed, outcome_of

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome, Overload, Rate, ServerError, Trouble
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Protocol, Request
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.arrow import RECORD
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, FinishReason, Usage
from stillhouse.schemas.teacher import Teacher

TERMS = {"training_use": "permitted"}


def teacher(**fields: Any) -> Teacher:
    """A teacher behind a URL."""
    return Teacher.model_validate({"name": "t", "base_url": "http://t/v1", "model": "m", "terms": TERMS} | fields)


API = protocol_of(teacher(), Ask())
NO_KEY = Credentials()
USED = Usage(10, output_tokens=3)
"""Of every `chat` here."""


def read(document: Any, *, status: int = 200) -> Outcome:
    """What a reply says."""
    return outcome_of(API, document, status=status)


def answer(document: Any) -> Completion:
    """The completion that it must be."""
    return completed(read(document))


def chat(message: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    """A whole document around a message."""
    message = {"role": "assistant", "content": "four"} if message is None else message
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }


# --- requests


def request_of(protocol: Protocol, ask: Request, *, key: Credentials = NO_KEY) -> HttpRequest:
    """The request to the only endpoint."""
    return protocol.request(ask, base_url="http://t/v1", key=key, now=0.0)


def sent(ask: Ask, *, sample: int = 0, **fields: Any) -> dict[str, Any]:
    """The request's body, read back; no name occurs in it more than once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    messages = (("system", "s"), ("user", 'q "1"\n\u2028é'))
    request = request_of(protocol_of(teacher(**fields), ask), Request(messages, sample))
    found: dict[str, Any] = json.loads(request.body, object_pairs_hook=once)
    return found


def test_a_bare_request_holds_model_and_messages() -> None:
    """What the recipe leaves open is left to the teacher."""
    assert sent(Ask()) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": 'q "1"\n\u2028é'}],
    }


def test_a_full_request_holds_every_parameter() -> None:
    """In OpenAI's names; `extra` as it is."""
    ask = Ask(
        temperature=0.7,
        top_p=0.9,
        stop=("a", "b"),
        seed=40,
        reasoning_effort="low",
        top_logprobs=5,
        max_tokens=99,
        extra={"chat_template_kwargs": {"enable_thinking": True}},
    )
    body = sent(ask, sample=2)
    del body["messages"]
    assert body == {
        "model": "m",
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["a", "b"],
        "seed": 42,
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 5,
        "max_tokens": 99,
        "chat_template_kwargs": {"enable_thinking": True},
    }


def test_samples_differ_only_in_their_seed() -> None:
    """A teacher that honours seeds gives different answers, and the same ones each time."""
    first, second = sent(Ask(seed=1)), sent(Ask(seed=1), sample=1)
    assert first | {"seed": 2} == second


OPENAI_TERMS = {"training_use": "by-authorisation", "authorisation": "letter of 2026-01-01"}


@pytest.mark.parametrize(
    ("host", "field"),
    [
        ("api.openai.com", "max_completion_tokens"),
        ("us.api.openai.com", "max_completion_tokens"),
        ("me.openai.azure.com", "max_completion_tokens"),
        ("notopenai.com", "max_tokens"),
        ("api.groq.com", "max_tokens"),
    ],
)
def test_the_output_limit_uses_the_hosts_field(host: str, field: str) -> None:
    """Its profile's; OpenAI's own models refuse the old one."""
    body = sent(Ask(max_tokens=5), base_url=f"https://{host}/v1", terms=OPENAI_TERMS)
    assert {name: body[name] for name in body if "tokens" in name} == {field: 5}


def test_a_recipe_may_name_the_profile_or_the_field() -> None:
    """For a server behind another host; the field, where given, goes before the profile's."""
    assert sent(Ask(max_tokens=5), profile="openai")["max_completion_tokens"] == 5
    assert sent(Ask(max_tokens=5), max_tokens_as="max_completion_tokens")["max_completion_tokens"] == 5
    assert sent(Ask(max_tokens=5), profile="openai", max_tokens_as="max_tokens")["max_tokens"] == 5


def test_mistral_gets_its_own_seed_field() -> None:
    """It refuses the usual one."""
    body = sent(Ask(seed=7), sample=1, profile="mistral")
    assert (body["random_seed"], "seed" in body) == (8, False)


def test_a_request_is_a_post_with_the_key_only_in_its_header() -> None:
    """And asks for an answer that needs no decompressing; what is constant is made once."""
    protocol, key = protocol_of(teacher(), Ask()), Credentials("k")
    request = request_of(protocol, Request(()), key=key)
    assert (request.method, request.url) == ("POST", "http://t/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["accept-encoding"] == "identity"
    assert request_of(protocol, Request(()), key=key).headers is request.headers
    assert "authorization" not in request_of(protocol, Request(())).headers


# --- answers


def test_a_plain_answer_is_read() -> None:
    """Text, finish reason, the model that answered, usage."""
    assert answer(chat()) == Completion(
        text="four",
        finish_reason="stop",
        finish_reason_raw="stop",
        model="m-2026",
        response_id="chatcmpl-1",
        usage=Usage(input_tokens=10, output_tokens=3),
    )


@pytest.mark.parametrize(
    ("message", "text", "reasoning", "source"),
    [
        ({"content": "4", "reasoning": "2+2"}, "4", "2+2", "reasoning"),
        ({"content": "4", "reasoning_content": "2+2"}, "4", "2+2", "reasoning_content"),
        ({"content": "4", "reasoning": "2+2", "reasoning_content": "2+2"}, "4", "2+2", "reasoning"),
        ({"content": "4", "reasoning": None, "reasoning_content": "2+2"}, "4", "2+2", "reasoning_content"),
        (
            {
                "content": "4",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "2"},
                    {"type": "reasoning.summary", "summary": "+2"},
                    {"type": "reasoning.encrypted", "data": "…"},
                ],
            },
            "4",
            "2+2",
            "reasoning_details",
        ),
        ({"content": "<think>\n2+2\n</think>\n\n4"}, "4", "2+2", "think_tag"),
        ({"content": "\n <think>2+2</think>4"}, "4", "2+2", "think_tag"),
        ({"content": "2+2\n</think>\n\n4"}, "4", "2+2", "think_tag"),
        ({"content": "<think>\n\n</think>\n\n4"}, "4", "", "think_tag"),
        ({"content": "<think>2+2 and so"}, "", "2+2 and so", "think_tag"),
        ({"content": "say <think>a</think> b"}, "say <think>a</think> b", None, None),
        (
            {"content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "4"}]},
            "4",
            "2+2",
            "content_part",
        ),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]}, {"type": "image"}]},
            None,
            "2+2",
            "content_part",
        ),
        ({"content": None, "reasoning": "2+2"}, None, "2+2", "reasoning"),
        ({"content": "4"}, "4", None, None),
        ({"content": "4", "reasoning": {"effort": "low"}, "reasoning_details": "x"}, "4", None, None),
    ],
    ids=str,
)
def test_reasoning_is_found_in_every_known_place(
    message: dict[str, Any], text: str | None, reasoning: str | None, source: str | None
) -> None:
    """One column for it, another for where it was; the text does not contain it."""
    found = answer(chat(message))
    assert (found.text, found.reasoning, found.reasoning_source) == (text, reasoning, source)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("EOS", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("completed", "stop"),
        ("normal", "stop"),
        ("max_length", "length"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        ("SAFETY", "content_filter"),
        ("content_filtered", "content_filter"),
        ("tool_use", "tool_calls"),
        ("repetition", "unknown"),
        ("weird", "unknown"),
    ],
)
def test_finish_reasons(raw: str, normal: FinishReason) -> None:
    """Normalised, with the raw word kept; an unknown one is not success."""
    found = answer(chat(finish_reason=raw))
    assert (found.finish_reason, found.finish_reason_raw) == (normal, raw)


@pytest.mark.parametrize(("raw", "kept"), [(None, None), ("", None), (3, "3"), (True, None), ({"type": "stop"}, None)])
def test_a_finish_reason_that_is_not_text_is_read(raw: Any, kept: str | None) -> None:
    """It is unknown why the answer ended, so it is not training data on its own."""
    found = answer(chat(finish_reason=raw))
    assert (found.finish_reason, found.finish_reason_raw) == ("unknown", kept)


@pytest.mark.parametrize("raw", ["error", "insufficient_system_resource", "abort", "cancelled"])
def test_an_answer_that_broke_off_is_the_servers_failure(raw: str) -> None:
    """Whatever text came until then."""
    document = chat(finish_reason=raw, error={"code": 502, "message": "Upstream idle timeout"})
    outcome = read(document)
    assert outcome == ServerError(f"the answer broke off (finish_reason {raw}): Upstream idle timeout", 200, USED)


@pytest.mark.parametrize(
    ("raw", "words", "normal"),
    [
        ("1", {"1": "stop"}, "stop"),
        (1, {"1": "stop"}, "stop"),
        (None, {"": "stop"}, "stop"),
        ("weird", {"weird": "length"}, "length"),
        ("length", {"length": "stop"}, "stop"),
    ],
)
def test_a_recipe_can_map_finish_reasons(raw: Any, words: dict[str, str], normal: FinishReason) -> None:
    """`finish_reasons` take precedence over known ones; an empty key stands for a missing reason."""
    api = protocol_of(teacher(finish_reasons=words), Ask())
    found = api.read(Reply(200, {}, json.dumps(chat(finish_reason=raw)).encode()))
    assert isinstance(found, Completion)
    assert found.finish_reason == normal


def test_tool_calls_are_kept_as_json() -> None:
    """As the wire gave them, the old single form included."""
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}}]
    found = answer(chat({"content": None, "tool_calls": calls}, finish_reason="tool_calls"))
    assert found.finish_reason == "tool_calls"
    assert found.text is None
    assert json.loads(found.tool_calls or "") == calls
    old = answer(chat({"content": None, "function_call": {"name": "f"}}, finish_reason="function_call"))
    assert json.loads(old.tool_calls or "") == [{"name": "f"}]


def test_a_refusal_is_an_answer() -> None:
    """Kept, whatever the finish reason; an empty one does not count."""
    found = answer(chat({"content": None, "refusal": "I can't."}))
    assert (found.finish_reason, found.refusal, found.finish_reason_raw) == ("refused", "I can't.", "stop")
    assert answer(chat({"content": "4", "refusal": ""})).refusal is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ([], Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(output_tokens=0)),
        ({"prompt_tokens": -1, "completion_tokens": "3"}, Usage()),
        ({"prompt_tokens": 12.0, "completion_tokens": 37.25}, Usage(12, output_tokens=38)),
        ({"prompt_tokens": 1.5, "completion_tokens": True}, Usage(2)),
        ({"prompt_tokens": math.nan, "completion_tokens": math.inf}, Usage()),
        ({"input_tokens": 12, "output_tokens": 37}, Usage(12, output_tokens=37)),
        ({"prompt_tokens": 30, "completion_tokens": 0, "total_tokens": 4126}, Usage(30, output_tokens=4096)),
        ({"prompt_tokens": 2**60, "completion_tokens": 10**30}, Usage()),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 4)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, Usage(9, 4)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}, Usage(None, None, 9, 4)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens_details": [1]}, Usage(9)),
    ],
    ids=str,
)
def test_implausible_usage_is_unknown(usage: Any, expected: Usage) -> None:
    """What is not a count is null, and the answer is kept."""
    assert answer(chat() | {"usage": usage}).usage == expected


# --- log-probabilities


def token(text: Any, logprob: Any, **more: Any) -> dict[str, Any]:
    """One place of an answer."""
    return {"token": text, "logprob": logprob, "bytes": None} | more


def test_log_probabilities_are_read() -> None:
    """A row a token, with the alternatives and the ids, where the server gives them."""
    content = [
        token("fo", -0.5, top_logprobs=[token("fo", -0.5), token("f", -9999.0)]),
        token("ur", 0, top_logprobs=None),
    ]
    assert answer(chat(logprobs={"content": content, "refusal": None}, token_ids=[7, 8])).logprobs == [
        {
            "token": "fo",
            "token_id": 7,
            "logprob": -0.5,
            "top": [
                {"token": "fo", "token_id": None, "logprob": -0.5},
                {"token": "f", "token_id": None, "logprob": -9999.0},
            ],
        },
        {"token": "ur", "token_id": 8, "logprob": 0.0, "top": []},
    ]


@pytest.mark.parametrize(
    ("text", "ids", "token_id"),
    [
        ("token_id:17", None, 17),
        ("token_id:17", [5], 5),
        ("token_id:x", None, None),
        ("token_id:99999999999", None, None),
        ("token_id:" + "9" * 5000, None, None),
        ("a", [2**31], None),
        ("a", [-1], None),
        ("a", ["5"], None),
        ("a", [1, 2], None),
        ("a", "5", None),
    ],
)
def test_token_ids(text: str, ids: Any, token_id: int | None) -> None:
    """From vLLM's list or its way of writing tokens; what is not an id, or has no place, is null."""
    rows = answer(chat(logprobs={"content": [token(text, -1)]}, token_ids=ids)).logprobs
    assert rows is not None
    assert rows[0]["token_id"] == token_id


def test_logprobs_outside_json_are_read() -> None:
    """-Infinity is OpenAI's -9999.0; NaN, and null as llama.cpp writes it, are not known."""
    text = json.dumps(chat(logprobs={"content": [token("a", x) for x in (-math.inf, math.nan, None)]}))
    rows = answer(text.encode()).logprobs
    assert rows is not None
    assert rows[0]["logprob"] == -9999.0
    assert all(math.isnan(row["logprob"]) for row in rows[1:])


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": "abc"},
        {"content": {"a": 1}},
        {"content": [None]},
        {"content": [{"token": "a"}]},
        {"content": [token(5, -1)]},
        {"content": [token("a", "x")]},
        {"content": [token("a", -1, top_logprobs={"a": 1})]},
        {"tokens": ["a"], "token_logprobs": [-1.0]},
    ],
    ids=str,
)
def test_logprobs_of_another_shape_do_not_cost_the_answer(logprobs: Any) -> None:
    """The text is paid for; they are left out."""
    found = answer(chat(logprobs=logprobs))
    assert (found.text, found.logprobs) == ("four", None)


# --- odd bodies


def test_leading_newlines_do_no_harm() -> None:
    """DeepSeek sends them while a request is queued."""
    assert answer(b"\n\n \r\n" + json.dumps(chat()).encode()).text == "four"


def test_a_byte_order_mark_does_no_harm() -> None:
    """Some gateways send one."""
    assert answer(b"\xef\xbb\xbf" + json.dumps(chat()).encode()).text == "four"


def test_lone_surrogates_are_replaced_everywhere() -> None:
    """A model may emit half a character; no UTF-8 file can hold it. Pairs stay characters."""
    half = "a\ud83d!"
    document = chat(
        {
            "content": half + "\U0001f600",
            "reasoning": half,
            "tool_calls": [{"id": half, half: half}],
            "refusal": half,
        },
        finish_reason=half,
        logprobs={"content": [token(half, -1, top_logprobs=[token(half, -1)])]},
    ) | {"model": half, "id": half}
    found = answer(document)
    assert found.text == "a\ufffd!\U0001f600"
    assert found.model == "a\ufffd!"
    storable(found)


def test_nan_in_a_tool_call_is_null() -> None:
    """The column holds JSON, and JSON has no NaN."""
    found = answer(json.dumps(chat({"tool_calls": [{"x": math.nan}]}, finish_reason="tool_calls")).encode())
    assert json.loads(found.tool_calls or "", parse_constant=pytest.fail) == [{"x": None}]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Ambiguous),
        (b"\n\n\n", Ambiguous),
        (json.dumps(chat()).encode()[:-20], Ambiguous),
        (b"<html>Bad gateway</html>", Malformed),
        (b'data: {"choices": []}\n\n', Ambiguous),
        (b"[" * 100_000, Ambiguous),
        (b'{"a": ' + b"9" * 5000 + b"}", Malformed),
        (b'{"a": 1e999}', Malformed),
        (b'{"choices": "\xff"}', Malformed),
        (b"null", Malformed),
        (b"[]", Malformed),
        (b'"four"', Malformed),
        (b"{}", Malformed),
        ({"choices": []}, Malformed),
        ({"choices": None}, Overload),  # no usage either: it was not served
        ({"choices": None, "usage": {"completion_tokens": 9}}, Malformed),
        ({"choices": {"0": 1}}, Malformed),
        ({"choices": ["four"]}, Malformed),
        ({"choices": [{"finish_reason": "stop"}]}, Malformed),
        ({"choices": [{"message": None}]}, Malformed),
        ({"choices": [{"message": {}}]}, Malformed),
        (chat({"content": None}), Malformed),
        (chat({"content": None}, finish_reason="tool_calls"), Malformed),
        (chat({"content": {"type": "image"}}), Malformed),
        (chat({"content": [{"type": "text", "text": None}]}), Malformed),
        ({"error": {"message": "m", "code": "server_error"}}, Malformed),
        ({"error": {"message": "m", "code": 429}}, Rate),
        ({"error": {"message": "m", "code": 502}, "choices": []}, Overload),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_200_without_an_answer_is_not_an_answer(body: Any, expected: type) -> None:
    """Never a Completion: asked again, a few times, or treated as the error it names."""
    assert type(read(body)) is expected


def test_empty_content_with_another_finish_reason_is_an_answer() -> None:
    """A filter or the length may leave nothing: that is data."""
    assert answer(chat({"content": None}, finish_reason="content_filter")).finish_reason == "content_filter"
    assert answer(chat({"content": None}, finish_reason="length")).finish_reason == "length"
    assert answer(chat({"content": ""})).text == ""


def test_deep_tool_calls_do_not_break_the_reader() -> None:
    """Nesting beyond what can be written again is not an answer."""
    deep = b'{"a":' * 990 + b"1" + b"}" * 990
    body = b'{"choices":[{"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[' + deep + b"]}}]}"
    assert isinstance(read(body), (Completion, Malformed))


def test_an_error_status_becomes_a_trouble() -> None:
    """Even with a document that would be an answer."""
    assert isinstance(read(chat(), status=503), Overload)


# --- anything


def storable(completion: Completion) -> None:
    """Fail unless every field goes into its column."""
    fields = {
        "reasoning": completion.reasoning,
        "reasoning_source": completion.reasoning_source,
        "finish_reason": completion.finish_reason,
        "finish_reason_raw": completion.finish_reason_raw,
        "tool_calls": completion.tool_calls,
        "refusal": completion.refusal,
        "model": completion.model,
        "response_id": completion.response_id,
        "input_tokens": completion.usage.input_tokens,
        "cached_tokens": completion.usage.cached_tokens,
        "output_tokens": completion.usage.output_tokens,
        "reasoning_tokens": completion.usage.reasoning_tokens,
    }
    for name, value in fields.items():
        pa.array([value], RECORD.field(name).type).validate(full=True)
    pa.array([completion.text], pa.string()).validate(full=True)
    for column in score_columns([completion.scores]).values():
        column.validate(full=True)


FULL = chat(
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": [{"text": "t"}]}, {"type": "text", "text": "x"}],
        "reasoning": "r",
        "reasoning_content": "r",
        "reasoning_details": [{"text": "t", "summary": "s"}],
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
        "function_call": {"name": "f"},
        "refusal": None,
    },
    token_ids=[1],
    logprobs={"content": [token("token_id:3", -1, top_logprobs=[token("a", -2)])]},
) | {
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
}

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 2**31, 2**63, 10**40, 1e308, math.nan, -math.inf, "", "<think>", "\ud800", [], {}]
    ),
    st.text(max_size=5),
    st.floats(),
    st.integers(),
    st.recursive(
        st.none() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["type", "text", "content", "token", "logprob"]), inner, max_size=3)
        ),
        max_leaves=4,
    ),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for name, value in items for place in places(value, (*path, name)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid document with one to four of its values replaced or removed."""
    document = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 4))):
        *path, last = draw(st.sampled_from(places(document)[1:]))
        inside: Any = document
        for name in path:
            inside = inside[name]
        if draw(st.booleans()):
            inside[last] = draw(VALUES)
        else:
            del inside[last]
        if not document:
            break
    return document


@given(document=mutated(), cut=st.none() | st.integers(0, 400))
def test_any_json_document_becomes_a_storable_outcome(document: Any, cut: int | None) -> None:
    """Valid documents with values replaced, removed or cut off: no exception, and no value that Parquet refuses."""
    outcome = read(json.dumps(document).encode()[:cut])
    assert isinstance(outcome, Completion | Trouble)
    if isinstance(outcome, Completion):
        storable(outcome)
    else:
        outcome.message.encode()


@given(body=st.binary(max_size=200), status=st.integers(200, 599))
@example(body=b"\xff\xfe{\x00}\x00", status=200)
def test_any_bytes_become_an_outcome(body: bytes, status: int) -> None:
    """Whatever comes over the wire."""
    assert isinstance(API.read(Reply(status, {}, body)), Completion | Trouble)


WHOLE = json.dumps(chat()).encode()
ODD = [
    WHOLE + b"\n\ndata: [DONE]\n\n",
    b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n",
    b": keep-alive\n\ndata: " + WHOLE + b"\n\n",
    b"\xef\xbb\xbf" + WHOLE,
    b"\0\0\n" + WHOLE + b"\0\0\0",
    json.dumps([chat()]).encode(),
    json.dumps({"code": 0, "data": chat()}).encode(),
    json.dumps({"result": {"response": [chat()]}}).encode(),
    WHOLE[:-1] + b', "x_cost": 1e999}',
    WHOLE[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    WHOLE[:-1] + b', "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"x": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"," + WHOLE[1:],
    WHOLE.replace(b'"id": "chatcmpl-1"', b'"id": "a\nb"'),
    json.dumps(chat({"content": ["fo", "ur"]})).encode(),
    json.dumps(chat({"content": [{"text": "four"}]})).encode(),
    json.dumps(chat({"content": {"text": "four"}})).encode(),
    json.dumps(chat({"content": [{"type": "text", "text": {"value": "four"}}]})).encode(),
    json.dumps(chat({"content": [{"type": "text", "text": None}, {"type": "text", "text": "four"}]})).encode(),
    json.dumps(chat({"content": [{"type": "text", "text": "four"}, {"type": "citation", "url": "x"}]})).encode(),
    json.dumps({"choices": [{"delta": {"content": "four"}, "finish_reason": "stop"}]}).encode(),
    json.dumps({"choices": [{"text": "four", "finish_reason": "stop"}]}).encode(),
    b"".join(
        b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode()
        for delta, finish in (({"role": "assistant"}, None), ({"content": "fo"}, None), ({"content": "ur"}, "stop"))
    ),
]


@pytest.mark.parametrize("body", ODD, ids=lambda body: repr(body[:40]))
def test_a_whole_answer_is_read_in_any_surroundings(body: bytes) -> None:
    """Stream trailers, padding, envelopes, numbers out of range and deep values in unused fields."""
    found = answer(body)
    assert (found.text, found.finish_reason) == ("four", "stop")
    storable(found)


def test_two_documents_are_not_an_answer() -> None:
    """It is unclear which one is meant."""
    assert isinstance(read(WHOLE + WHOLE), Ambiguous)


def test_an_answer_cut_before_any_text_counts_as_cut() -> None:
    """A choice of `length` without a message: rejected, not asked and paid for again."""
    document = chat() | {"choices": [{"index": 0, "finish_reason": "length"}]}
    assert (answer(document).text, answer(document).finish_reason) == (None, "length")


def test_ids_and_bytes_beside_tokens_are_kept() -> None:
    """llama.cpp puts the id next to each token and each alternative; a token of half a character is its bytes."""
    rows = answer(
        chat(
            logprobs={
                "content": [
                    {
                        "id": 433,
                        "token": " how",
                        "bytes": [32, 104, 111, 119],
                        "logprob": -0.5,
                        "top_logprobs": [
                            {"id": 905, "token": "\ufffd", "bytes": [0xE2, 0x82], "logprob": -1.5},
                            {"id": 244, "token": "", "bytes": [0xF1], "logprob": -2.0},  # as its server does, too
                        ],
                    }
                ]
            }
        )
    ).logprobs
    assert rows == [
        {
            "token": " how",
            "token_id": 433,
            "logprob": -0.5,
            "top": [
                {"token": "<0xE2><0x82>", "token_id": 905, "logprob": -1.5},
                {"token": "<0xF1>", "token_id": 244, "logprob": -2.0},
            ],
        }
    ]


def test_openrouter_is_asked_for_distillable_models_only() -> None:
    """The recipe's own settings for its providers are kept."""
    ask = Ask(extra={"provider": {"order": ["a"]}})
    body = sent(ask, base_url="https://openrouter.ai/api/v1", model="deepseek/deepseek-r1")
    assert body["provider"] == {"enforce_distillable_text": True, "order": ["a"]}
    assert "provider" not in sent(Ask())


def test_openrouters_details_tell_a_reasoning_summary_from_the_original() -> None:
    """What it wants back is kept as it came."""
    details = [
        {"type": "reasoning.summary", "summary": "Adds.", "index": 0},
        {"type": "reasoning.encrypted", "data": "gAAAA", "index": 1},
    ]
    found = answer(chat({"content": "4", "reasoning_details": details}))
    assert (found.reasoning, found.reasoning_is_summary) == ("Adds.", True)
    assert json.loads(found.reasoning_signatures or "") == details[1:]


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.groq.com", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://openrouter.ai", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/chat/completions"),
        ("https://api.deepseek.com", "https://api.deepseek.com/chat/completions"),
        ("http://vllm-0:8000", "http://vllm-0:8000/chat/completions"),
        ("https://api.openai.com/v2", "https://api.openai.com/v2/chat/completions"),
    ],
)
def test_a_known_hosts_path_may_be_omitted(base_url: str, url: str) -> None:
    """Elsewhere a base URL is taken as it is."""
    terms = {"training_use": "by-authorisation", "authorisation": "a"}
    protocol = protocol_of(teacher(base_url=base_url, terms=terms), Ask())
    assert protocol.request(Request((("user", "hi"),)), base_url=base_url, key=NO_KEY, now=0).url == url


@pytest.mark.parametrize(
    ("key", "header", "value"), [("abc", "api-key", "abc"), ("eyJ0.a.b", "authorization", "Bearer eyJ0.a.b")]
)
def test_azure_gets_keys_and_tokens_in_different_headers(key: str, header: str, value: str) -> None:
    """By what the key looks like."""
    one = teacher(base_url="https://r.openai.azure.com", model="deployment")
    request = request_of(protocol_of(one, Ask()), Request((("user", "hi"),)), key=Credentials(key))
    assert request.headers[header] == value
    assert {"api-key", "authorization"} & request.headers.keys() == {header}
