"""A dataset made by the first release of the format is read, verified, resumed and retried by this one."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from harness import run_in_process

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.views.summary import summarise
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import read_recipe

FIXTURE = Path(__file__).parents[1] / "fixtures" / "first_format"
MODIFIED = {"a.jsonl": 1795600000, "b.jsonl": 1795600060}
"""When its source files were written, which is their etag on a local disk."""
KINDS = ["too_long", "bad_request", "malformed", "ambiguous", "overload", "poison"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The fixture's recipe, in a copy of its folder that is the working directory."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    for name, at in MODIFIED.items():
        os.utime(tmp_path / "source" / name, (at, at))
    monkeypatch.chdir(tmp_path)
    return read_recipe("recipe.yaml")


def with_log(recipe: Recipe) -> Recipe:
    """The recipe with a teacher that logs its requests to `log`."""
    settings = {"log": "log", "output_tokens": (4, 30), "reasoning": "reasoning_content", "first_serial": 5000}
    teachers = [teacher.model_dump() | {"simulator": settings} for teacher in recipe.teachers]
    return Recipe.model_validate(recipe.model_dump() | {"teachers": teachers})


def requests() -> int:
    """What the teachers were asked."""
    return len(Path("log").read_text().splitlines())


def test_the_first_format_is_read(recipe: Recipe) -> None:
    """Its counts are what the first release counted."""
    summary = summarise(open_dataset(recipe))
    assert (summary.state, summary.prompts, summary.duplicates, summary.bad) == ("unfinished", 33, 1, 2)
    assert (summary.records, summary.rejected, summary.failed, summary.remaining) == (28, 5, 6, 51)
    assert summary.failed_by_kind == {"bad_request": 4, "overload": 2}
    assert (summary.input_tokens, summary.output_tokens, summary.maybe_billed) == (429, 1349, 3)


def test_verify_accepts_the_first_format(recipe: Recipe) -> None:
    """`verify` finds every promise kept."""
    report = verify(open_dataset(recipe))
    assert report.ok, report


async def test_the_first_format_is_resumed_and_retried(recipe: Recipe) -> None:
    """Answers in its journals are not asked again, but the rest is; its Failures are retried."""
    asked = with_log(recipe)
    summary = await run_in_process(asked)
    assert (summary.state, summary.remaining) == ("done", 0)
    assert requests() == summary.requests == 51 - 17
    assert summary.records + summary.rejected + summary.failed == 30 * 3
    rows = ds.dataset("dataset/data", format="parquet").to_table().to_pylist()
    per_sample = Counter((row["prompt_id"], row["sample"]) for row in rows)
    assert max(per_sample.values()) == 1
    assert {row["answer"] for row in rows} == {str(n + n % 7) for n in range(30)}
    before = summary.failed
    summary = await run_in_process(asked, retry=KINDS)
    assert before == 6
    assert (summary.state, summary.failed, summary.remaining) == ("done", 0, 0)
    assert requests() == 51 - 17 + 6
    assert verify(open_dataset(recipe)).ok
    again = await run_in_process(asked)
    assert again.requests == 0
    assert json.loads(again.as_line())["records"] == summary.records


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "open"])
async def test_the_first_format_takes_more_samples(recipe: Recipe, finished: bool) -> None:
    """Its plans don't say how many samples they had: the new ones are asked in addition, for every prompt."""
    asked = with_log(recipe)
    if finished:
        await run_in_process(asked)
    grown = asked.model_copy(update={"ask": asked.ask.model_copy(update={"samples": 5})})
    summary = await run_in_process(grown)
    assert (summary.state, summary.remaining) == ("done", 0)
    assert requests() == 51 - 17 + 30 * 2
    assert summary.records + summary.rejected + summary.failed == 30 * 5
    assert verify(open_dataset(recipe)).ok
    assert (await run_in_process(grown)).requests == 0
