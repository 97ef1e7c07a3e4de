"""Log-probabilities: cut out of a reply unparsed, and made into columns without an object per token."""

import json
import math
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import small_pieces

from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.token_scores import cut
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.columns import SCORES
from stillhouse.schemas.completion import Completion, Scores
from stillhouse.schemas.teacher import Teacher

TEACHER = Teacher.model_validate({"name": "sim", "api": "simulator"})
CUTS, READS = Interpreter(TEACHER, Ask(top_logprobs=2)), Interpreter(TEACHER, Ask())
"""The second is not asked for log-probabilities, and reads those that come with the rest of the reply."""
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://a.test", "seen_on": "2026-11-22"}
RESPONSES, GEMINIS = (
    Interpreter(
        Teacher.model_validate({"name": "t", "api": api, "model": "m", "base_url": "https://a.test", "terms": TERMS}),
        Ask(top_logprobs=2),
    )
    for api in ("openai-responses", "gemini")
)


def token(text: Any, logprob: Any = -0.5, **more: Any) -> dict[str, Any]:
    """A token or an alternative."""
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())} | more


def chat(content: Any, **choice: Any) -> dict[str, Any]:
    """A chat completion with these entries."""
    message = {"role": "assistant", "content": "four"}
    scores = {"content": content, "refusal": None}
    return {"choices": [{"index": 0, "message": message, "logprobs": scores, "finish_reason": "stop", **choice}]}


def response(entries: Any) -> dict[str, Any]:
    """A response of OpenAI's other API with these entries."""
    part = {"type": "output_text", "text": "four", "logprobs": entries}
    return {"status": "completed", "output": [{"type": "message", "content": [part]}]}


def completion(body: bytes, interpreter: Interpreter = CUTS) -> Completion:
    """The completion in a 200 with this body."""
    found = interpreter.read(Reply(200, {}, body, 0.0))
    assert isinstance(found, Completion), found
    return found


def columns(*bodies: Any) -> dict[str, list[Any]]:
    """The columns of these documents' answers."""
    made = score_columns([completion(orjson.dumps(body)).scores for body in bodies])
    for name, column in made.items():
        column.validate(full=True)
        assert column.type == SCORES[name]
    return {name: column.to_pylist() for name, column in made.items()}


def test_bytes_stand_in_for_ids() -> None:
    """As the server gives them, or else the UTF-8 of the token's text."""
    whole = token("fo", top_logprobs=[token("fo"), token("f", -2.5)])
    broken = {"token": "\ufffd", "logprob": -0.25, "bytes": [0xE2, 0x82], "top_logprobs": []}
    bare = {"token": "é", "logprob": -1, "top_logprobs": [{"token": "]}]}", "logprob": -9999.0, "bytes": None}]}
    assert columns(chat([whole, broken, bare]), chat([bare])) == {
        "token_ids": [None, None],
        "token_logprobs": [[-0.5, -0.25, -1.0], [-1.0]],
        "top_ids": [None, None],
        "top_logprobs": [[[-0.5, -2.5], [], [-9999.0]], [[-9999.0]]],
        "tokens": [[b"fo", b"\xe2\x82", "é".encode()], ["é".encode()]],
        "top_tokens": [[[b"fo", b"f"], [], [b"]}]}"]], [[b"]}]}"]]],
    }


@pytest.mark.parametrize(
    "content",
    [
        [token("token_id:7", top_logprobs=[token("token_id:7"), token("token_id:2147483647", -2)])],
        [token("a", id=7, top_logprobs=[token("a", id=7), token("b", -2, id=2**31 - 1)])],
    ],
    ids=["vLLM", "llama.cpp"],
)
def test_ids_need_no_bytes(content: list[Any]) -> None:
    """Where all tokens have one, whichever way the server writes it; an answer that lacks some has bytes."""
    lacks = chat([*content, {"token": "b", "logprob": -1}])
    assert columns(chat(content), lacks) == {
        "token_ids": [[7], None],
        "token_logprobs": [[-0.5], [-0.5, -1.0]],
        "top_ids": [[[7, 2**31 - 1]], [[7, 2**31 - 1], []]],
        "top_logprobs": [[[-0.5, -2.0]], [[-0.5, -2.0], []]],
        "tokens": [None, [content[0]["token"].encode(), b"b"]],
        "top_tokens": [None, None],
    }


def test_ids_beside_the_answer_belong_to_its_tokens() -> None:
    """Its alternatives have no ids; without alternatives there is nothing to identify."""
    found = columns(chat([token("a", top_logprobs=[token("b")])], token_ids=[5]), chat([token("a")], token_ids=[5]))
    assert (found["token_ids"], found["tokens"]) == ([[5], [5]], [None, None])
    assert (found["top_ids"], found["top_tokens"]) == ([None, [[]]], [[[b"b"]], None])


def test_an_answer_without_scores_has_nulls() -> None:
    """Between others that have them."""
    found = columns(chat(None), chat([token("a")]), chat([None]))
    assert [column for name, column in found.items() if "top" not in name] == [
        [None, None, None],
        [None, [-0.5], None],
        [None, [b"a"], None],
    ]


def test_unknown_log_probabilities_are_nan() -> None:
    """As llama.cpp writes null; OpenAI's -9999.0 stays."""
    (found,) = columns(chat([token("a", None), token("b", -9999.0)]))["token_logprobs"]
    assert math.isnan(found[0])
    assert found[1] == -9999.0


@pytest.mark.parametrize("value", [True, "-0.5", "nan", [], -1e39])
def test_what_is_not_a_log_probability_is_not_kept(value: Any) -> None:
    """Nor made into a number: the answer has no labels."""
    for content in ([token("a", value)], [token("a", top_logprobs=[token("b", value)])]):
        assert set(map(str, columns(chat(content)).values())) == {"[None]"}


@pytest.mark.parametrize("value", [True, 1.5, "7", -1, 2**31, None])
def test_what_is_not_an_id_is_not_kept(value: Any) -> None:
    """Nor rounded: the bytes stand in."""
    beside = columns(chat([token("a")], token_ids=[value]))
    found = columns(chat([token("a", id=value, top_logprobs=[token("b", id=value)])]))
    assert (beside["token_ids"], beside["tokens"]) == ([None], [[b"a"]])
    assert (found["top_ids"], found["top_tokens"]) == ([None], [[[b"b"]]])


def gemini(chosen: Any, tops: Any) -> dict[str, Any]:
    """A document of Gemini's with these lists."""
    result = {"chosenCandidates": chosen, "topCandidates": tops}
    return {
        "candidates": [{"content": {"parts": [{"text": "four"}]}, "finishReason": "STOP", "logprobsResult": result}]
    }


GEMINI = {"token": "a", "tokenId": 3, "logProbability": -0.5}


@pytest.mark.parametrize(
    ("chosen", "tops", "is_kept"),
    [
        ([GEMINI, GEMINI], [{"candidates": [GEMINI]}, {}], True),
        ([GEMINI, GEMINI], None, True),
        ([GEMINI, None, GEMINI], [{}, {}, {}], False),
        ([GEMINI, GEMINI], [{}], False),
        ([GEMINI, GEMINI], [{}, None], False),
        ([GEMINI, GEMINI], [{}, {"candidates": [None, GEMINI]}], False),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_no_position_of_gemini_s_is_left_out(*, chosen: Any, tops: Any, is_kept: bool, is_stream: bool) -> None:
    """Those after it would pass for others."""
    body = orjson.dumps(gemini(chosen, tops))
    found = completion(b"data: %b\n\n" % body if is_stream else body, GEMINIS)
    assert (found.scores is not None) is is_kept
    if is_kept:
        assert score_columns([found.scores])["token_ids"].to_pylist() == [[3, 3]]


@pytest.mark.parametrize("odd", ["x", 1, {}, [None], [{"token": "b"}]])
def test_no_piece_of_a_stream_is_left_out(odd: Any) -> None:
    """Those after it would pass for others; the text is kept."""
    pieces = [[token("a")], odd, [token("c")]]
    chunks = [{"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": each}}]} for each in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    found = completion(b"".join(b"data: %b\n\n" % orjson.dumps(each) for each in [*chunks, end]))
    assert found.text == "xxx"
    assert score_columns([found.scores])["token_logprobs"].to_pylist() == [None]


def test_labels_of_a_part_of_the_text_are_not_kept() -> None:
    """OpenAI's other API answers in parts."""
    document = response([token("a")])
    document["output"][0]["content"].append({"type": "output_text", "text": " more", "logprobs": None})
    assert completion(orjson.dumps(document), RESPONSES).scores is None


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_token_scores_are_cut_out_of_real_bodies(*, indent: int | None, ascii_only: bool) -> None:
    """With spaces and with escapes; one with line breaks is read whole."""
    text = json.dumps(chat([token('é"\\]}]'), token("b")]), indent=indent, ensure_ascii=ascii_only)
    assert (cut(text.encode()) is None) == (indent is not None)
    (found,) = score_columns([completion(text.encode()).scores])["tokens"].to_pylist()
    assert found == ['é"\\]}]'.encode(), b"b"]


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1.5, 2**31, 2**63, 1e300, "", "x", "token_id:3", "\ud800", [], {}, [1, 256], [None], "-0.5"]
)
TEXTS = st.text(st.sampled_from('ab"\\]}[{,:é\ufffd\0\n\u2028😀'), max_size=4) | st.sampled_from(
    ['"}]},"x":[{"', '}]},"message":{"content":"no"},"a":{"b":[{', "token_id:12", '"logprobs":{"content":[{"logprob":1']
)


@st.composite
def entries(draw: st.DrawFn, *, nested: bool = True) -> dict[str, Any]:
    """An entry of which some fields may be missing, or junk."""
    text = draw(TEXTS)
    found: dict[str, Any] = {"token": text, "logprob": draw(st.floats(-100, 0)), "bytes": list(text.encode())}
    if draw(st.booleans()):
        found["id"] = draw(st.integers(0, 2**31))
    if nested:
        found["top_logprobs"] = draw(st.lists(entries(nested=False), max_size=2))
    if draw(st.integers(0, 15)) == 0:
        found[draw(st.sampled_from(list(found)))] = draw(JUNK)
    if draw(st.integers(0, 15)) == 0:
        del found[draw(st.sampled_from(list(found)))]
    return found


def same(left: dict[str, pa.Array], right: dict[str, pa.Array]) -> bool:
    """True if all is equal, NaN included."""
    return repr([left[name].to_pylist() for name in SCORES]) == repr([right[name].to_pylist() for name in SCORES])


@settings(max_examples=150)
@given(
    answers=st.lists(st.tuples(st.lists(entries(), max_size=3), st.none() | st.lists(JUNK, max_size=3)), max_size=3),
    logprobs_first=st.booleans(),
    indent=st.sampled_from([None, 1]),
    in_pieces=st.booleans(),
)
def test_scores_cut_out_of_a_body_read_the_same(
    answers: list[Any], *, logprobs_first: bool, indent: int | None, in_pieces: bool
) -> None:
    """Whatever the entries hold, at once and in pieces: the same answer, and the same columns, alone and together."""
    found: list[Scores | None] = []
    expected = []
    for content, ids in answers:
        document = chat(content, **({} if ids is None else {"token_ids": ids}))
        if logprobs_first:
            choice = document["choices"][0]
            document["choices"][0] = {"logprobs": choice.pop("logprobs"), **choice}
        body = json.dumps(document, separators=(",", ":"), indent=indent).encode()
        other = completion(body, READS)
        alone = score_columns([other.scores])
        with small_pieces() if in_pieces else nullcontext():
            one = completion(body)
            assert one._replace(scores=None) == other._replace(scores=None)
            assert same(score_columns([one.scores]), alone)
        found.append(one.scores)
        expected.append(alone)
    with small_pieces() if in_pieces else nullcontext():
        together = score_columns(found)
    for name, column in together.items():
        assert repr(column.to_pylist()) == repr([value for each in expected for value in each[name].to_pylist()])


@pytest.mark.parametrize("where", ["chat", "response"])
def test_a_long_list_is_read_in_pieces(where: str) -> None:
    """However it is written: with line breaks, with halves of characters, with what is not a number."""
    content = [token("a\n", math.nan, top_logprobs=[token("b", -math.inf)]), *([token("]}")] * 9)]
    broken = {"token": "\ud800", "logprob": -1.5, "bytes": [240], "top_logprobs": []}
    document = chat([*content, broken]) if where == "chat" else response([*content, broken])
    interpreter = CUTS if where == "chat" else RESPONSES
    body = json.dumps(document, indent=1).encode()
    whole = score_columns([completion(body, interpreter).scores])
    with small_pieces():
        assert cut(body, where="content" if where == "chat" else "part") is not None
        pieces = score_columns([completion(body, interpreter).scores])
    assert same(whole, pieces)
    assert whole["tokens"].to_pylist()[0][-2:] == [b"]}", b"\xf0"]
    assert repr(whole["token_logprobs"].to_pylist()[0][:2]) == "[nan, -0.5]"


def test_entries_that_are_not_numbers_are_read_as_if_not_cut_out() -> None:
    """Compactly written ones too."""
    body = json.dumps(chat([token("a", math.nan), token("b", -math.inf)]), separators=(",", ":")).encode()
    assert cut(body) is not None
    (found,) = score_columns([completion(body).scores])["token_logprobs"].to_pylist()
    assert repr(found) == "[nan, -9999.0]"


def test_three_lines_of_code_make_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manual's own lines, with numpy instead of torch."""
    monkeypatch.chdir(tmp_path)
    content = [token("a", top_logprobs=[token("a"), token("b", -2)]), token("c", -1, top_logprobs=[token("c", -1)] * 2)]
    made = score_columns([completion(orjson.dumps(chat(content))).scores])
    (tmp_path / "out/soft/data").mkdir(parents=True)
    pq.write_table(pa.table(made), tmp_path / "out/soft/data/part.parquet")
    page = (Path(__file__).parents[2] / "schemas/README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(row = pq.*?)```", page, re.DOTALL)
    assert len(lines.splitlines()) == 3
    found: dict[str, Any] = {"pq": pq, "torch": SimpleNamespace(tensor=np.array)}
    exec(lines, found)
    assert (found["logprobs"].tolist(), found["logprobs"].dtype) == ([-0.5, -1.0], np.float32)
    assert (found["top_logprobs"].tolist(), found["top_logprobs"].dtype) == ([[-0.5, -2.0], [-1.0, -1.0]], np.float32)
