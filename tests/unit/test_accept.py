"""`ask.accept`: a prompt is asked until enough of its answers are accepted; each sample counts once over all runs."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from builders import answer, body_of, chunk_of, questions, recipe_of, sealed, stored, teachers_of, write_source
from harness import run_in_process

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.plans import read_plans
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.report import report
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS = 40
TEACHER = {"name": "sim", "api": "simulator", "max_attempts": 1, "limits": {"in_flight": 16}}
REFUSING = {"kind": "status", "status": 400, "share": 0.5}


def recipe_at(tmp_path: Path, *, accept: int = 2, at_most: int = 4) -> Recipe:
    """40 prompts in chunks of nine; one attempt each."""
    write_source(tmp_path, [*questions(PROMPTS), {"id": "twin", "question": "what is 3 + 1?"}, "{torn"])
    ask = {"accept": accept, "at_most": at_most}
    return recipe_of(tmp_path, ask=ask, teachers=[TEACHER], dataset={"prompts_per_shard": 9})


async def asked(recipe: Recipe, *faults: dict[str, Any], **how: Any) -> Summary:
    """A run or a retry against a teacher with these faults; what is stored is sound and adds up."""
    serial = 10_000 * len(read_plans(open_dataset(recipe)))
    given = {"faults": faults, "first_serial": serial} | how.pop("settings", {})
    settings = SimulatorSettings.model_validate(given)
    async with await serve(settings) as server:
        teachers = tuple(each.model_copy(update={"endpoints": (server.url,)}) for each in recipe.teachers)
        summary = await run_in_process(recipe.model_copy(update={"teachers": teachers}), **how)
    return adding_up(recipe, summary)


def adding_up(recipe: Recipe, summary: Summary) -> Summary:
    """The summary of a sound dataset, whose counts add up."""
    assert [finding.message for finding in verify(open_dataset(recipe)).findings] == []
    assert summary.prompts is not None
    assert summary.duplicates is not None
    assert summary.bad is not None
    assert summary.remaining is not None
    settled = summary.records + summary.rejected + summary.failed + summary.not_needed
    prompts = summary.prompts - summary.duplicates - summary.bad
    # The duplicate prompt stands in rejected/ too, and is no sample.
    assert prompts * recipe.ask.most_samples == settled + summary.remaining
    return summary


def samples(recipe: Recipe, kind: str = "data") -> dict[str, list[int]]:
    """By prompt id: the samples in these files, in order."""
    found = defaultdict(list)
    for row in ds.dataset(f"{recipe.dataset.path}/{kind}").to_table(["prompt_id", "sample"]).to_pylist():
        if row["sample"] is not None:
            found[row["prompt_id"]].append(row["sample"])
    return {prompt: sorted(numbers) for prompt, numbers in found.items()}


def with_ask(recipe: Recipe, **changes: int) -> Recipe:
    """The recipe with other numbers."""
    return recipe.model_copy(update={"ask": recipe.ask.model_copy(update=changes)})


async def test_a_prompt_is_asked_until_enough_answers_are_accepted(tmp_path: Path) -> None:
    """The first samples of each, as few as it takes; then retried, raised and raised again, nothing counted twice."""
    recipe = recipe_at(tmp_path)
    first = await asked(recipe, REFUSING)
    records, failed = samples(recipe), samples(recipe, "failed")
    short = 0
    for number in range(PROMPTS):
        mine, lost = records.get(f"q{number}", []), failed.get(f"q{number}", [])
        assert sorted(mine + lost) == list(range(len(mine + lost)))
        assert len(mine) == 2 or len(mine + lost) == 4
        assert not mine or len(mine) < 2 or mine[-1] > max(lost, default=-1)
        short += len(mine) < 2
    assert 0 < short < PROMPTS
    assert (first.short, first.remaining, first.requests) == (short, 0, first.records + first.failed)
    assert sum(first.short_by_reason.values()) == short
    assert first.not_needed == 4 * PROMPTS - first.requests

    again = await asked(recipe, {**REFUSING, "share": 0.8}, retry=RETRYABLE)
    assert again.requests <= first.failed
    assert first.records < again.records < 2 * PROMPTS
    assert sum(again.short_by_reason.values()) == again.short
    assert again.short == sum(len(samples(recipe).get(f"q{number}", [])) < 2 for number in range(PROMPTS))
    raised = with_ask(recipe, at_most=6)
    more = await asked(raised)
    assert (more.short, more.records) == (0, 2 * PROMPTS)
    assert more.requests == more.records - again.records
    both = await asked(with_ask(recipe, accept=3, at_most=7))
    assert (both.short, both.records, both.requests) == (0, 3 * PROMPTS, PROMPTS)
    assert (await asked(with_ask(recipe, accept=3, at_most=7))).requests == 0
    assert {len(numbers) for numbers in samples(recipe).values()} == {3}


def test_equal_answers_count_once_and_the_lowest_sample_is_kept(tmp_path: Path) -> None:
    """Another sample is asked in place of each duplicate, but not with `dedup.answers: false`."""
    recipe, held = chunk_of(tmp_path, questions(1), ask={"accept": 2, "at_most": 4})
    assert list(held.take()) == [0, 1]
    answer(held, 1, body_of("four"))
    answer(held, 0, body_of("four"))
    assert (list(held.take()), held.left) == ([2], 2)
    answer(held, 2, body_of("4"))
    assert held.left == 0
    meta, files = sealed(recipe, held)
    assert [row["sample"] for row in files["data"]] == [0, 2]
    assert [(row["sample"], row["reject_reason"]) for row in files["rejected"]] == [(1, "duplicate_answer")]
    assert (meta.counts.not_needed, meta.counts.prompts_by_accepted) == (1, {2: 1})


def test_equal_answers_all_count_if_all_are_kept(tmp_path: Path) -> None:
    """As `dedup.answers: false` says."""
    recipe, held = chunk_of(tmp_path, questions(1), ask={"accept": 2, "at_most": 4}, dedup={"answers": False})
    held = OpenChunk(held.chunk, held.journal, samples=4, teacher_of=teachers_of(recipe), equal_once=False)
    for ordinal in held.take():
        answer(held, ordinal, body_of("four"))
    assert held.left == 0


def test_a_surplus_answer_is_kept_beside_the_dataset(tmp_path: Path) -> None:
    """The answer belongs to a sample that one owner gave up, and that another had an answer to."""
    recipe, held = chunk_of(tmp_path, questions(1), ask={"accept": 1, "at_most": 3})
    late = body_of("late")
    assert list(held.take()) == [0]
    answer(held, 0, b'{"error": {"message": "what?"}}', status=400)
    assert list(held.take()) == [1]
    answer(held, 1, body_of("in time"))
    assert held.left == 0
    answer(held, 0, late, at=2000.0)
    assert held.left == 0
    meta, files = sealed(recipe, held)
    assert [row["sample"] for row in files["data"]] == [0]
    assert [(row["sample"], row["reject_reason"]) for row in files["rejected"]] == [(1, "not_selected")]
    assert meta.counts.prompts_by_accepted == {1: 1}
    assert stored(recipe)[0] == meta


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"accept": 2, "at_most": 4}, {"accept": 1, "at_most": 4}, r"ask\.accept: expected at least 2, .* got 1"),
        ({"accept": 2, "at_most": 4}, {"accept": 2, "at_most": 3}, r"ask\.at_most: expected at least 4, .* got 3"),
        (
            {"accept": 2, "at_most": 4},
            {"samples": 4},
            r"was created with ask\.accept .* got ask\.samples, .* dataset\.path",
        ),
        (
            {"samples": 4},
            {"accept": 2, "at_most": 4},
            r"was created with ask\.samples, got ask\.accept .* or ask\.samples",
        ),
    ],
)
async def test_accept_and_at_most_may_only_grow(
    tmp_path: Path, first: dict[str, int], second: dict[str, int], words: str
) -> None:
    """They can't be exchanged for each other either."""
    recipe = recipe_at(tmp_path).model_copy(update={"ask": Ask(**first)})
    await asked(recipe)
    with pytest.raises(DatasetError, match=words):
        await asked(recipe.model_copy(update={"ask": Ask(**second)}))
    assert summarise(open_dataset(recipe)).state == "done"


MATH = [{"length": {"min": 1}}, {"math": {"answer": "answer", "name": "right"}}]


def checked_recipe(tmp_path: Path, **ask: int) -> Recipe:
    """40 sums with their answers, in chunks of nine."""
    rows = [row | {"answer": str(number + 1)} for number, row in enumerate(questions(PROMPTS))]
    write_source(tmp_path, rows)
    return recipe_of(tmp_path, ask=ask, teachers=[TEACHER], dataset={"prompts_per_shard": 9}, checks=MATH)


async def test_checks_decide_what_is_accepted(tmp_path: Path) -> None:
    """Every record is right; wrong answers go to rejected/ with the check's reason, and all are counted."""
    recipe = checked_recipe(tmp_path, accept=2, at_most=4)
    crew: list[Worker] = []
    summary = await asked(recipe, settings={"accuracy": 0.5}, crew=crew.extend)
    tallies = [worker.counters.of("sim") for worker in crew]
    data = ds.dataset(f"{recipe.dataset.path}/data").to_table().to_pylist()
    rejected = ds.dataset(f"{recipe.dataset.path}/rejected").to_table().to_pylist()
    assert data
    for row in data:
        assert row["checks"]["right"] == {"accepted": True, "score": 1.0, "detail": row["checks"]["right"]["detail"]}
        assert row["checks"]["length"]["accepted"]
        assert f"#### {int(row['prompt_id'][1:]) + 1}" in row["completion"][0]["content"]
    assert {row["reject_reason"] for row in rejected} == {"check:right"}
    assert all(row["checks"]["right"]["detail"].startswith("expected ") for row in rejected)
    assert summary.rejected_by_reason == {"check:right": len(rejected)}
    assert [tally.accepted["right"] + tally.rejected["right"] for tally in tallies] == [len(data) + len(rejected)]
    (counts,) = summary.checks["right"].values()
    assert (counts.accepted, counts.rejected, counts.unchecked) == (len(data), len(rejected), 0)
    card = card_of(open_dataset(recipe), recipe, stored="")
    assert summary.short_by_reason == {"check:right": summary.short}
    why = f"(check:right {summary.short}, by the last sample of each)"
    assert f"| short | {summary.short} prompts with fewer accepted answers {why} |" in card
    assert f"| check right | accepts {len(data)} of {len(data) + len(rejected)} answers from sim |" in card
    page = report(open_dataset(recipe))
    assert "Check right" in page
    assert "expected " in page.partition("check:right")[2]
    asked_of = {row["prompt_id"]: 0 for row in data + rejected}
    for row in data + rejected:
        asked_of[row["prompt_id"]] += 1
    for prompt, count in asked_of.items():
        right = sorted(row["sample"] for row in data if row["prompt_id"] == prompt)
        assert count == (right[1] + 1 if len(right) == 2 else 4)


async def test_checks_without_accept_judge_all_samples(tmp_path: Path) -> None:
    """The checks don't change how many samples are asked."""
    recipe = checked_recipe(tmp_path, samples=3)
    summary = await asked(recipe, settings={"accuracy": 0.5})
    assert (summary.records + summary.rejected, summary.not_needed) == (3 * PROMPTS, 0)
    assert 0 < summary.records < 3 * PROMPTS
