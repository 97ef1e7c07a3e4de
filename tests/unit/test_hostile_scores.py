"""Scores in a reply are stored as they came or refused: any value may have any type, be missing or be misplaced."""

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import small_pieces

from stillhouse.gen.teachers.given_scores import aligned
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Malformed
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher

PROMPT, TOP = [1, 2], 2
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://a.test", "seen_on": "2026-11-22"}
READERS = {
    api: Interpreter(
        Teacher.model_validate({"name": "t", "api": api, "model": "m", "base_url": "https://a.test", "terms": TERMS}),
        Ask.model_validate({"score": {"prompt_ids": "p", "completion_ids": "c", "top": TOP}}),
    )
    for api in ("vllm", "sglang")
}
JUNK: list[Any] = [
    *(None, True, False, -1, 1.5, 2**31, 2**70, 0.5, -1e300, "", "x", "-0.5", "3"),
    *([], {}, [1], [[-0.5]], [[-0.5, 3, None]], [[-0.5, 3.5, None]], [[[-0.5], [3], None]], {"3": {"logprob": -1}}),
]
NAMES = ["3", "-3", " 3", "1_0", "\u0663", "99999999999", "x", ""]


def vllm(ids: list[int]) -> dict[str, Any]:
    """A reply in vLLM's form."""
    items = [{str(each): {"logprob": -0.5}, "8": {"logprob": -1.5}, "9": {"logprob": -2.5}} for each in ids[1:]]
    return {"choices": [{"text": "", "prompt_logprobs": [None, *items], "prompt_token_ids": ids}]}


def sglang(ids: list[int]) -> dict[str, Any]:
    """A reply in SGLang's form."""
    given = ids[len(PROMPT) :]
    rows = [[None, PROMPT[-1], None], *([-0.5, each, None] for each in given)]
    tops = [None, *([[-0.5, each, None], [-1.5, 8, None]] for each in given)]
    return {"meta_info": {"id": "a", "input_token_logprobs": rows, "input_top_logprobs": tops}}


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for name, inner in inside for each in [(*path, name), *places_in(inner, (*path, name))]]


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, list[int], dict[str, Any]]:
    """(API, tokens to score, a reply with a fault or two)."""
    api = draw(st.sampled_from(["vllm", "sglang"]))
    ids = draw(st.lists(st.integers(3, 7), min_size=1, max_size=4))
    document = (vllm if api == "vllm" else sglang)([*PROMPT, *ids])
    for _ in range(draw(st.integers(1, 2))):
        if not (places := places_in(document)):
            break
        *path, last = draw(st.sampled_from(places))
        inside: Any = document
        for name in path:
            inside = inside[name]
        match draw(st.sampled_from(["junk", "gone", "again", "renamed"])):
            case "again" if isinstance(inside, list):
                inside.insert(last, json.loads(json.dumps(inside[last])))
            case "renamed" if isinstance(inside, dict):
                inside[draw(st.sampled_from(NAMES))] = inside.pop(last)
            case "gone":
                inside.pop(last)
            case _:
                inside[last] = json.loads(json.dumps(draw(st.sampled_from(JUNK))))
    return api, ids, document


def values_in(api: str, ids: list[int], document: Any) -> list[tuple[Any, list[tuple[Any, Any]]]]:
    """Per token its log-probability, and (id, log-probability) of the alternatives, as the reply has them."""
    if api == "vllm":
        items = document["choices"][0]["prompt_logprobs"][len(PROMPT) :]
        found = [(item[str(each)]["logprob"], item) for each, item in zip(ids, items, strict=True)]
        return [
            (
                own,
                [
                    (int(name) if name.isascii() and name.isdecimal() else name, each["logprob"])
                    for name, each in item.items()
                ],
            )
            for own, item in found
        ]
    meta = document["meta_info"]
    assert [row[1] for row in meta["input_token_logprobs"][1:]] == ids
    rows = zip(meta["input_token_logprobs"][1:], meta["input_top_logprobs"][1:], strict=True)
    return [(row[0], [(each[1], each[0]) for each in top]) for row, top in rows]


@settings(max_examples=600)
@given(reply=replies(), in_pieces=st.booleans())
def test_scores_are_stored_as_they_came_or_refused(
    reply: tuple[str, list[int], dict[str, Any]], *, in_pieces: bool
) -> None:
    """Numbers of the reply, in its order, and nothing else."""
    api, ids, document = reply
    with small_pieces() if in_pieces else nullcontext():
        read = READERS[api].read(Reply(200, {}, json.dumps(document).encode()))
        outcome = aligned(read, Scored.of(PROMPT, ids))
        if isinstance(outcome, Malformed):
            assert outcome.message
            return
        assert isinstance(outcome, Completion)
        columns = {name: column.to_pylist()[0] for name, column in score_columns([outcome.scores]).items()}
    stored = zip(columns["token_logprobs"], columns["top_ids"], columns["top_logprobs"], strict=True)
    for (own, top), (logprob, top_ids, top_logprobs) in zip(values_in(api, ids, document), stored, strict=True):
        assert type(own) in (int, float)
        assert np.float32(own) == np.float32(logprob)
        kept = [each for each in top if each[0] in top_ids]
        assert [name for name, _ in kept] == top_ids
        assert all(type(each) in (int, float) for _, each in kept)
        assert [np.float32(each) for _, each in kept] == [np.float32(each) for each in top_logprobs]
        assert len(top) - len(kept) <= (api == "vllm")  # the token that was sent
