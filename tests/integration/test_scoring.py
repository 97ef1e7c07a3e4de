"""Scores of given tokens: no answer is asked for, but the teacher's log-probabilities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import recipe_of, write_source
from harness import run_in_process
from pydantic import ValidationError

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.simulator.dialects.scoring import likeliest, logprob_of, rank_of
from stillhouse.gen.simulator.server import serve
from stillhouse.gen.teachers.given_scores import GivenScores, aligned
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Malformed, ServerError
from stillhouse.gen.teachers.retry import GiveUp, Tries, decide, note
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.teacher import Teacher

SCORE = {"score": {"prompt_ids": "p", "completion_ids": "c", "top": 3}}
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://example.com", "seen_on": "2026-11-22"}


def teacher(api: str, url: str = "http://127.0.0.1:1/v1") -> dict[str, Any]:
    """A teacher that scores."""
    return {"name": "t", "api": api, "base_url": url, "model": "m", "terms": TERMS}


@pytest.mark.parametrize("api", ["vllm", "sglang"])
async def test_tokens_are_scored(tmp_path: Path, api: str) -> None:
    """Each with its likeliest; equal rows once, rows without tokens in failed/, and all is as it was sent."""
    given: list[dict[str, Any]] = [{"id": f"r{n}", "p": [5, n], "c": [n, 7, 9][: 1 + n % 3]} for n in range(12)]
    bad: list[dict[str, Any]] = [{"p": [], "c": [1]}, {"p": [1], "c": [-1]}, {"p": [1], "c": [1.5]}, {"p": [1]}]
    odd = [{"id": f"b{n}", **row} for n, row in enumerate(bad)]
    write_source(tmp_path, [*given, given[0] | {"id": "again"}, *odd])
    async with await serve(SimulatorSettings()) as server:
        recipe = recipe_of(tmp_path, source={"prompt": None}, ask=SCORE, teachers=[teacher(api, server.url)])
        summary = await run_in_process(recipe)
    assert (summary.records, summary.duplicates, summary.bad) == (12, 1, 4)
    assert verify(open_dataset(recipe)).ok
    table = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "out/data").glob("*.parquet"))))
    by_id = {row["prompt_id"]: row for row in table.to_pylist()}
    assert len(by_id) == 12
    for row in given:
        found = by_id[row["id"]]
        assert (found["prompt_ids"], found["completion_ids"]) == (row["p"], row["c"])
        places = list(enumerate(row["c"], 2))
        assert found["token_logprobs"] == pytest.approx([logprob_of(rank_of(token, at)) for at, token in places])
        assert [sorted(top) for top in found["top_ids"]] == [
            sorted(each for each, _ in likeliest(token, at, 3)) for at, token in places
        ]
        for top in found["top_logprobs"]:
            assert np.exp(top).sum() == pytest.approx(1 - 2**-3)
    assert not {"prompt", "completion", "reasoning", "tool_calls"} & by_id["r0"].keys()
    assert {"record_id", "prompt_key", "teacher", "model", "endpoint", "input_tokens"} <= by_id["r0"].keys()


SCORED = Scored.of([1, 2], [3, 4])
VLLM = {
    "prompt_token_ids": [1, 2, 3, 4],
    "prompt_logprobs": [
        None,
        {"2": {"logprob": -1, "rank": 1}},
        {"3": {"logprob": -2.5, "rank": 9}, "8": {"logprob": -0.5, "rank": 1}},
        {"4": {"logprob": -0.25, "rank": 1}},
    ],
}
SGLANG = {
    "input_token_logprobs": [[None, 2, None], [-2.5, 3, None], [-0.25, 4, None]],
    "input_top_logprobs": [None, [[-0.5, 8, None]], [[-0.25, 4, None]]],
    "finish_reason": {"type": "length", "length": 0},
}


def read(api: str, found: dict[str, Any], *, top: int = 1) -> Any:
    """The outcome of a reply with these scores."""
    score = {"score": {"prompt_ids": "p", "completion_ids": "c", "top": top}}
    interpreter = Interpreter(Teacher.model_validate(teacher(api)), Ask.model_validate(score))
    document = {"choices": [{"text": "", **found}]} if api == "vllm" else {"text": "", "meta_info": found}
    return aligned(interpreter.read(Reply(200, {}, json.dumps(document).encode(), 0.0)), SCORED)


@pytest.mark.parametrize(("api", "reply"), [("vllm", VLLM), ("sglang", SGLANG)])
def test_scores_align_with_their_tokens(api: str, reply: dict[str, Any]) -> None:
    """A given token that is not one of the likeliest is not among them; those that are fewer stay fewer."""
    found = read(api, reply)
    assert isinstance(found, Completion)
    assert isinstance(found.scores, GivenScores)
    assert found.scores.logprobs.tolist() == [-2.5, -0.25]
    assert (found.scores.top_ids.tolist(), found.scores.top_logprobs.tolist()) == ([8, 4], [-0.5, -0.25])
    assert (found.scores.ends.tolist(), found.scores.least_top) == ([0, 1, 2], 1)
    none = read(api, reply | {"input_top_logprobs": None}, top=0)
    assert none.scores.least_top == 0


def change(reply: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    """The reply with another value in this place."""
    changed: dict[str, Any] = orjson.loads(orjson.dumps(reply))
    inside: Any = changed
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("api", "path", "value"),
    [
        ("vllm", ["prompt_token_ids"], [1, 2, 3, 5]),
        ("vllm", ["prompt_logprobs"], None),
        ("vllm", ["prompt_logprobs"], [None]),
        ("vllm", ["prompt_logprobs", 3], None),
        ("vllm", ["prompt_logprobs", 3], {"5": {"logprob": -1}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": None}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": "x"}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": 0.5}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": []}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": False}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": "-0.5"}}),
        ("vllm", ["prompt_logprobs", 3], {"4": {"logprob": -1e300}}),
        ("vllm", ["prompt_logprobs", 2, "8"], -1),
        ("vllm", ["prompt_logprobs", 2, "-8"], {"logprob": -0.5}),
        ("vllm", ["prompt_logprobs", 2, " 8"], {"logprob": -0.5}),
        ("vllm", ["prompt_logprobs", 2, "1_0"], {"logprob": -0.5}),
        ("vllm", ["prompt_logprobs", 2, str(2**31)], {"logprob": -0.5}),
        ("vllm", ["prompt_logprobs", 2, "9" * 30], {"logprob": -0.5}),
        ("sglang", ["input_token_logprobs"], None),
        ("sglang", ["input_token_logprobs", 2], [-1, 5, None]),
        ("sglang", ["input_token_logprobs", 2], [None, 4, None]),
        ("sglang", ["input_token_logprobs", 2], 5),
        ("sglang", ["input_top_logprobs"], [None, []]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, 2**31, None]]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, 8.5, None]]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, "8", None]]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, True, None]]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, [8], None]]),
        ("sglang", ["input_top_logprobs", 1], [[-0.5, -0.5, 8]]),
        ("sglang", ["input_top_logprobs", 1], "x"),
        ("sglang", ["input_top_logprobs", 1], None),
        ("sglang", ["input_top_logprobs", 2], [[-0.5, 4, None]]),
    ],
)
def test_scores_of_other_tokens_are_malformed(api: str, path: list[Any], value: Any) -> None:
    """Of another length, of other ids, or no log-probabilities."""
    found = read(api, change(VLLM if api == "vllm" else SGLANG, path, value))
    assert isinstance(found, Malformed)
    assert "not those of the tokens that were sent" in found.message


def test_more_alternatives_than_requested_are_kept() -> None:
    """The token that was sent is among them unless it is the least likely, which vLLM adds to them."""
    items = [
        None,
        {"2": {"logprob": -1}},
        {"3": {"logprob": -0.5}, "8": {"logprob": -1.5}, "9": {"logprob": -2.5}},
        {"4": {"logprob": -2.5}, "8": {"logprob": -0.5}, "9": {"logprob": -1.5}},
    ]
    found = read("vllm", VLLM | {"prompt_logprobs": items}, top=1)
    assert isinstance(found, Completion)
    assert isinstance(found.scores, GivenScores)
    assert (found.scores.top_ids.tolist(), found.scores.ends.tolist()) == ([3, 8, 9, 8, 9], [0, 3, 5])


@pytest.mark.parametrize(("api", "reply"), [("vllm", VLLM), ("sglang", SGLANG)])
def test_the_same_fault_is_not_asked_for_a_third_time(api: str, reply: dict[str, Any]) -> None:
    """Each such reply may be paid for; other last digits don't make it another."""
    name = "prompt_logprobs" if api == "vllm" else "input_token_logprobs"
    tries = Tries()
    for usage in (4, 5):
        bad = change(reply, [name], reply[name][:-1]) | {"usage": usage}
        note(outcome := read(api, bad), tries)
    assert isinstance(decide(outcome, tries, max_attempts=9), GiveUp)


def test_an_aborted_request_is_a_failure() -> None:
    """Though its status is 200."""
    assert isinstance(read("sglang", SGLANG | {"finish_reason": {"type": "abort", "message": "no"}}), ServerError)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers": [teacher("openai-chat")]}, "`ask.score` takes `vllm` or `sglang`"),
        ({"ask": SCORE | {"temperature": 0.5}}, "takes no parameters for one"),
        ({"ask": SCORE | {"samples": 2}}, "expected 1, got 2"),
        ({"ask": SCORE | {"system": "Be brief."}}, "token ids and no text"),
        ({"source": {"prompt": "question"}}, "token ids and no text"),
        ({"ask": {"score": {"prompt_ids": "p", "completion_ids": "p"}}}, "expected a different column"),
    ],
)
def test_settings_that_scoring_ignores_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """The message names the field."""
    recipe: dict[str, Any] = {"source": {"prompt": None}, "ask": SCORE, "teachers": [teacher("vllm")]}
    with pytest.raises(ValidationError, match=words):
        recipe_of(tmp_path, **(recipe | changes))
