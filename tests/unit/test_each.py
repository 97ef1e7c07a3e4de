"""`route: each`: every teacher answers every prompt; what counts per prompt counts per prompt and teacher."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from builders import answer, body_of, chunk_of, questions, recipe_of, sealed, write_source
from harness import run_in_process
from pydantic import ValidationError

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.plans import read_plans
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.report import report
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

NAMES = ("a", "b", "c")
PROMPTS = 12
REFUSING = {"kind": "status", "status": 400, "share": 0.4}


def each_of(tmp_path: Path, *names: str, **changes: Any) -> Recipe:
    """Twelve prompts in chunks of five, and a teacher of each name."""
    write_source(tmp_path, [*questions(PROMPTS), {"id": "twin", "question": "what is 3 + 1?"}, "{torn"])
    teachers = [
        {"name": name, "api": "simulator", "max_attempts": 1, "price": {"input": 1, "output": 2}} for name in names
    ]
    return recipe_of(
        tmp_path, **({"route": "each", "teachers": teachers, "dataset": {"prompts_per_shard": 5}} | changes)
    )


@asynccontextmanager
async def served(recipe: Recipe, *faults: dict[str, Any], **settings: Any) -> AsyncIterator[Recipe]:
    """The recipe with a simulator for each of its teachers; the faults are the second one's."""
    async with AsyncExitStack() as stack:
        teachers = []
        for place, teacher in enumerate(recipe.teachers):
            given = settings | {"seed": place, "faults": faults if place == 1 else ()}
            server = await stack.enter_async_context(await serve(SimulatorSettings.model_validate(given)))
            teachers.append(teacher.model_copy(update={"endpoints": (server.url,)}))
        yield recipe.model_copy(update={"teachers": tuple(teachers)})


async def asked(recipe: Recipe, *faults: dict[str, Any], retry: bool = False, **settings: Any) -> Summary:
    """A run or a retry; what is stored is sound and adds up to prompts x teachers x samples."""
    settings = {"first_serial": 10_000 * len(read_plans(open_dataset(recipe)))} | settings
    async with served(recipe, *faults, **settings) as ready:
        summary = await run_in_process(ready, retry=RETRYABLE if retry else None)
    assert [finding.message for finding in verify(open_dataset(recipe)).findings] == []
    settled = summary.records + summary.rejected + summary.failed + summary.not_needed
    assert settled + (summary.remaining or 0) == PROMPTS * len(recipe.teachers) * recipe.ask.most_samples
    return summary


def rows(recipe: Recipe, folder: str = "data") -> list[dict[str, Any]]:
    """All rows of data/, rejected/ or failed/ that are of a sample."""
    path = Path(recipe.dataset.path) / folder
    found: list[dict[str, Any]] = ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []
    return [row for row in found if row["record_id"] is not None]


def test_equal_answers_are_kept_once_for_each_teacher(tmp_path: Path) -> None:
    """The ordinal says whose sample it is; equal answers of two teachers are the comparison, and both are kept."""
    recipe, held = chunk_of(
        tmp_path,
        questions(2),
        route="each",
        ask={"samples": 2},
        teachers=[{"name": n, "api": "simulator"} for n in "ab"],
    )
    assert [held.samples.teacher(ordinal).teacher.name for ordinal in range(8)] == [*"aabb"] * 2
    assert [held.samples.prompt(ordinal).id for ordinal in range(8)] == ["q0"] * 4 + ["q1"] * 4
    for ordinal in held.take():
        answer(held, ordinal, body_of("the same"))
    meta, files = sealed(recipe, held)
    assert [(row["prompt_id"], row["teacher"], row["sample"]) for row in files["data"]] == [
        ("q0", "a", 0), ("q0", "b", 0), ("q1", "a", 0), ("q1", "b", 0),
    ]  # fmt: skip
    kept = {(row["prompt_id"], row["teacher"]): row["record_id"] for row in files["data"]}
    for row in files["rejected"]:
        assert (row["reject_reason"], row["sample"]) == ("duplicate_answer", 1)
        assert row["duplicate_of"] == kept[row["prompt_id"], row["teacher"]]
    assert meta.identity["route"] == "each"


async def test_failures_are_retried_and_samples_added_for_each_teacher(tmp_path: Path) -> None:
    """A retry asks the failed teacher's samples alone; raised samples are asked of every teacher."""
    recipe = each_of(tmp_path, *NAMES)
    first = await asked(recipe, REFUSING)
    assert first.failed > 0
    assert {row["teacher"] for row in rows(recipe, "failed")} == {"b"}
    again = await asked(recipe, retry=True)
    assert (again.state, again.failed, again.requests) == ("done", 0, first.failed)
    grown = recipe.model_copy(update={"ask": Ask(samples=2)})
    more = await asked(grown, REFUSING)
    assert more.requests == PROMPTS * len(NAMES)
    last = await asked(grown, retry=True)
    assert (last.state, last.records, last.requests) == ("done", PROMPTS * len(NAMES) * 2, more.failed)
    assert Counter(row["teacher"] for row in rows(recipe)) == dict.fromkeys(NAMES, PROMPTS * 2)
    assert "route: each" in card_of(open_dataset(recipe))
    assert all(f">{name}<" in report(open_dataset(recipe)) for name in NAMES)


async def test_each_teacher_is_asked_until_enough_of_its_own_answers_are_accepted(tmp_path: Path) -> None:
    """`short` counts prompts x teachers; a raised `accept` and a retry continue where each teacher stands."""
    recipe = each_of(tmp_path, "a", "b", ask={"accept": 2, "at_most": 4})
    first = await asked(recipe, REFUSING, distinct=3)
    accepted = Counter((row["prompt_id"], row["teacher"]) for row in rows(recipe))
    assert max(accepted.values()) == 2
    assert first.short == sum(count < 2 for count in accepted.values()) + PROMPTS * 2 - len(accepted)
    assert sum(first.prompts_by_accepted.values()) == PROMPTS * 2
    await asked(recipe, retry=True, distinct=3)
    grown = recipe.model_copy(update={"ask": Ask(accept=3, at_most=6)})
    last = await asked(grown, distinct=3)
    assert last.state == "done"
    for teacher in "ab":
        mine = Counter(row["prompt_id"] for row in rows(recipe) if row["teacher"] == teacher)
        assert max(mine.values()) == 3


async def test_each_teachers_answers_have_their_own_majority(tmp_path: Path) -> None:
    """One vote per prompt and teacher, even after Failures are retried."""
    recipe = each_of(tmp_path, "a", "b", ask={"samples": 3}, select={"majority": {"answer": "math"}})
    first = await asked(recipe, REFUSING, accuracy=0.5)
    assert first.failed > 0
    last = await asked(recipe, retry=True, accuracy=0.5)
    assert (last.state, last.failed) == ("done", 0)
    kept: dict[tuple[str, str], set[str]] = {}
    for row in rows(recipe):
        said = row["completion"][0]["content"].rpartition("####")[2].strip()
        kept.setdefault((row["prompt_id"], row["teacher"]), set()).add(said)
    assert len(kept) == PROMPTS * 2
    assert {len(said) for said in kept.values()} == {1}
    others = {row["reject_reason"] for row in rows(recipe, "rejected")} - {"duplicate_prompt"}
    assert others <= {"not_selected", "duplicate_answer"}
    assert "not_selected" in others
    assert "select" in card_of(open_dataset(recipe))
    assert all(f">{name}<" in report(open_dataset(recipe)) for name in "ab")


def test_a_plan_counts_and_prices_every_teacher(tmp_path: Path) -> None:
    """Samples are asked of each teacher; each has its equal part."""
    recipe = each_of(tmp_path, "a", "b", ask={"samples": 2, "max_tokens": 10})
    planned = preview(recipe)
    assert (planned.to_ask, [each.share for each in planned.teachers]) == (PROMPTS * 2 * 2, [0.5, 0.5])
    assert planned.output_tokens == PROMPTS * 2 * 2 * 10
    assert planned.usd == pytest.approx((planned.input_tokens + 2 * planned.output_tokens) / 1e6)
    assert "2 per prompt and teacher" in render(planned)


def test_more_samples_than_a_shard_can_number_are_refused(tmp_path: Path) -> None:
    """Prompts, samples and teachers multiply; the refusal names the field that makes them fewer."""
    shard = {"dataset": {"prompts_per_shard": 100_000}, "ask": {"samples": 10_000}}
    assert each_of(tmp_path, *"abcd", **shard).samples_per_prompt == 40_000
    with pytest.raises(ValidationError, match=r"dataset.prompts_per_shard: expected at most .* got 5,000,000,000"):
        each_of(tmp_path, *"abcde", **shard)


async def test_an_added_teacher_needs_a_new_dataset(tmp_path: Path) -> None:
    """Each teacher's answers belong to every prompt: the refusal names the field and the way out."""
    recipe = each_of(tmp_path, "a", "b")
    await asked(recipe)
    with pytest.raises(DatasetError, match="differ in teachers"):
        await asked(each_of(tmp_path, *NAMES))
