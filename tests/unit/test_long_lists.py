"""Long lists are taken out of a body, and searched and parsed in pieces."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import PIECE_BYTES, small_pieces

from stillhouse.gen.teachers import long_lists
from stillhouse.gen.teachers.given_scores import GivenScores, Misaligned, ScoresReply
from stillhouse.gen.teachers.in_pieces import holds, is_utf8, recoded, replaced, search
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.lenient_json import document_in
from stillhouse.gen.teachers.long_lists import CUT_LIST, MAX_LISTS, list_in, list_pattern, take_out
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher

TEXTS = st.text(st.sampled_from('ab"\\]}[{,: é\n😀'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
LISTS = list_pattern(("long",))


@given(values=st.lists(VALUES, min_size=1), before=VALUES, after=VALUES, indent=st.sampled_from([None, 0, 2]))
def test_a_list_in_pieces_is_the_list(values: list[Any], before: Any, after: Any, *, indent: int | None) -> None:
    """Whatever it holds, and whatever comes before and after it."""
    body = json.dumps({"before": before, "in": {"long": values, "after": after}}, indent=indent).encode()
    whole = document_in(body)
    with small_pieces():
        taken = take_out(body, LISTS)
        if taken is None:
            assert len(json.dumps(values, indent=indent)) <= PIECE_BYTES + 2
            return
        (found,) = taken.lists
        assert [each for part in found.parts() for each in part] == whole["in"]["long"]
        assert len(found) == len(values)
    assert document_in(taken.rest) == {**whole, "in": {**whole["in"], "long": CUT_LIST}}


@given(values=st.lists(VALUES, min_size=1), skip=st.integers(0, 40))
def test_elements_can_be_skipped(values: list[Any], skip: int) -> None:
    """The pieces that contain only such elements are not parsed."""
    with small_pieces():
        found = list_in(json.dumps(values).encode())
        assert found is not None
        assert [each for part in found.parts(skip=skip) for each in part] == document_in(json.dumps(values).encode())[
            skip:
        ]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"[1", b"[1] 2", b'["]'])
def test_what_is_not_a_list_is_none(text: bytes) -> None:
    """Nor one that is empty, cut off, or followed by anything."""
    assert list_in(text) is None


def test_no_call_gets_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the list is; only an element that is longer is parsed whole."""
    sizes: list[int] = []

    def parse(body: bytes) -> Any:
        sizes.append(len(body))
        return document_in(body)

    monkeypatch.setattr(long_lists, "document_in", parse)
    values: list[Any] = [{"logprob": -0.5, "top": [[1, "]"], [2, '"']]}] * 500
    values[250] = "x" * 1000
    with small_pieces():
        taken = take_out(orjson.dumps({"long": values}), LISTS)
        assert taken is not None
        longest = len(orjson.dumps(values[0])) + PIECE_BYTES
        assert [each for part in taken.lists[0].parts() for each in part] == values
    above = [size for size in sizes if size > longest]
    assert len(above) == 1
    assert above[0] <= 1002 + longest


def test_lists_that_are_short_or_do_not_end_stay() -> None:
    """In a large body, of several lists those that are long are taken out."""
    long, short = list(range(100)), [1, 2]
    with small_pieces():
        taken = take_out(orjson.dumps([{"long": short}, {"long": long}, {"long": short}]), LISTS)
        assert taken is not None
        assert orjson.loads(taken.rest) == [{"long": short}, {"long": CUT_LIST}, {"long": short}]
        assert take_out(b'{"long":[1,' + b"2," * 100, LISTS) is None
    assert take_out(orjson.dumps({"long": long}), LISTS) is None


def test_only_the_first_lists_are_looked_at() -> None:
    """A hostile body may hold a million."""
    body = orjson.dumps([*([{"long": [1]}] * MAX_LISTS), {"long": list(range(100))}])
    with small_pieces():
        assert take_out(body, LISTS) is None
        assert take_out(body.replace(b'{"long":[1]},', b"", 1), LISTS) is not None


@given(
    body=st.text(st.sampled_from("ab\\"), max_size=200), text=st.text(st.sampled_from("ab\\"), min_size=1, max_size=4)
)
def test_searches_in_pieces_find_the_same(body: str, text: str) -> None:
    """Where a match lies across two pieces too."""
    raw, pattern = body.encode(), re.compile(b"a(?=b)" + re.escape(text.encode()))
    with small_pieces():
        found, there = search(pattern, raw, longest=6), holds(raw, text.encode())
        one = replaced(re.compile(re.escape(text.encode())), b"-", raw, longest=len(text))
    expected = pattern.search(raw)
    assert (found and found.span()) == (expected and expected.span())
    assert there == (text in body)
    assert one == raw.replace(text.encode(), b"-")


@given(text=st.text(min_size=30), broken=st.booleans())
def test_charsets_in_pieces_are_the_same(text: str, *, broken: bool) -> None:
    """Characters of several bytes too; what is not in the charset is refused."""
    raw = text.encode("utf-8") + (b"\xc3" if broken else b"")
    wide = text.encode("utf-16")
    with small_pieces():
        assert is_utf8(raw) is not broken
        assert recoded(wide, "utf-16") == text.encode()
        with pytest.raises(UnicodeError):
            recoded(wide + b"x", "utf-16")
        with pytest.raises(LookupError):
            recoded(wide, "base64")


SCORE = Ask.model_validate({"score": {"prompt_ids": "p", "completion_ids": "c", "top": 2}})
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://a.test", "seen_on": "2026-11-22"}


def reader(api: str, ask: Ask) -> Interpreter:
    """For one API."""
    fields = {"name": "t", "api": api, "model": "m", "base_url": "https://a.test", "terms": TERMS}
    return Interpreter(Teacher.model_validate(fields), ask)


def vllm(ids: list[int], junk: Any) -> dict[str, Any]:
    """A reply in vLLM's form about these ids."""
    items: list[Any] = [None, *({str(each): {"logprob": -0.5}, "3": {"logprob": -1.5}} for each in ids[1:])]
    if junk is not None:
        items[len(items) // 2] = junk
    return {"choices": [{"text": "", "prompt_logprobs": items, "prompt_token_ids": ids}]}


def sglang(ids: list[int], junk: Any) -> dict[str, Any]:
    """A reply in SGLang's form about these ids, of which the first is the prompt."""
    rows: list[Any] = [[None, ids[0], None], *([-0.5, each, None] for each in ids[1:])]
    tops: list[Any] = [None, *([[-0.5, each, None], [-1.5, 3, None]] for each in ids[1:])]
    if junk is not None:
        tops[len(tops) // 2] = junk
    return {"meta_info": {"id": "a", "input_token_logprobs": rows, "input_top_logprobs": tops}}


@given(
    ids=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=12),
    form=st.sampled_from([("vllm", vllm), ("sglang", sglang)]),
    junk=st.sampled_from([None, None, 1, "x", [], {}, [[None]], {"7": 1}, {"7": {"logprob": 1}}, [[-1, -1]]]),
)
def test_scores_read_in_pieces_are_the_same(ids: list[int], form: Any, junk: Any) -> None:
    """And what is wrong with them is found."""
    api, make = form
    scored, interpreter = Scored.of(ids[:1], ids[1:]), reader(api, SCORE)
    body = orjson.dumps(make(ids, junk))

    def read() -> GivenScores | str:
        outcome = interpreter.read(Reply(200, {}, body))
        assert isinstance(outcome, Completion), outcome
        assert isinstance(outcome.scores, ScoresReply)
        try:
            return outcome.scores.aligned(scored)
        except Misaligned as error:
            return str(error)

    whole = read()
    with small_pieces():
        pieces = read()
    assert repr(whole) == repr(pieces)


@settings(max_examples=50)
@given(
    tokens=st.lists(st.tuples(TEXTS, st.integers(0, 9) | st.none(), st.floats(-9, 0)), min_size=1, max_size=9),
    junk=st.sampled_from([None, None, None, "x", {}, {"token": 1}]),
)
def test_gemini_s_scores_read_in_pieces_are_the_same(tokens: list[Any], junk: Any) -> None:
    """Chosen tokens and alternatives are in lists of their own."""
    chosen: list[Any] = [{"token": text, "tokenId": id_, "logProbability": value} for text, id_, value in tokens]
    tops: list[Any] = [{"candidates": chosen[:2]} for _ in chosen]
    if junk is not None:
        chosen[-1] = junk
    candidate = {
        "content": {"parts": [{"text": "four"}]},
        "finishReason": "STOP",
        "logprobsResult": {"chosenCandidates": chosen, "topCandidates": tops},
    }
    interpreter, body = reader("gemini", Ask(top_logprobs=2)), orjson.dumps({"candidates": [candidate]})

    def read() -> tuple[Any, Any]:
        outcome = interpreter.read(Reply(200, {}, body))
        assert isinstance(outcome, Completion), outcome
        columns = score_columns([outcome.scores])
        return outcome._replace(scores=None), {name: column.to_pylist() for name, column in columns.items()}

    whole = read()
    with small_pieces():
        pieces = read()
    assert repr(whole) == repr(pieces)
