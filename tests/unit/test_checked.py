"""`stillhouse check`: a recipe's verdicts on the answers that a dataset holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import answer, body_of, chunk_of, index, open_chunk, recipe_of, sealed, write_source
from click.testing import CliRunner

from stillhouse.cluster.cli import main
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.views.checked import Checked, check, render
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe


def dataset(tmp_path: Path, answers: list[str], **changes: Any) -> Recipe:
    """A sealed chunk with one answer for each row; row n's known answer is n."""
    rows = [{"id": f"q{n}", "question": f"what is {n}?", "known": n} for n in range(len(answers))]
    recipe, held = chunk_of(tmp_path, rows, **changes)
    for number, text in enumerate(answers):
        answer(held, number, body_of(text))
    sealed(recipe, held)
    return recipe


def checked(recipe: Recipe, *checks: dict[str, Any], sample: int = 20) -> Checked:
    """The verdicts of these checks on the recipe's dataset."""
    with_checks = Recipe.model_validate(recipe.model_dump(mode="json") | {"checks": list(checks)})
    return check(with_checks, DatasetReader(open_dataset(recipe)), sample=sample)


def test_answers_are_judged_by_columns_of_the_source(tmp_path: Path) -> None:
    """A dataset made without checks, and without kept columns, is judged by the columns of its source."""
    recipe = dataset(tmp_path, ["#### 0", "#### 1", "#### 7", "It is 3.\x1b[31m", "#### 4"])
    said = checked(recipe, {"math": {"answer": "known"}}, {"contains": {"text": "####"}})
    assert (said.records, said.sampled, said.accepted) == (5, 5, 3)
    math, contains = said.checks
    assert (math.accepted, math.rejected, math.unchecked, math.not_run) == (4, 1, 0, 0)
    assert (contains.accepted, contains.rejected, contains.unchecked, contains.not_run) == (3, 1, 0, 1)
    (example,) = math.examples
    assert (example.prompt_id, example.sample, example.detail, example.answer) == (
        "q2",
        0,
        "expected 2, got 7",
        "#### 7",
    )
    shown = render(said)
    assert "accepted by all: 3 of 5 (60%)" in shown
    assert "contains: q3, sample 0, sim: ####: 0 times\n    It is 3.\\x1b[31m" in shown


def test_a_kept_column_replaces_the_source(tmp_path: Path) -> None:
    """Also under another name; the source may be gone."""
    recipe = dataset(tmp_path, ["#### 0", "#### 5"], source={"keep": [{"name": "known", "as": "right"}]})
    (tmp_path / "source" / "a.jsonl").unlink()
    assert checked(recipe, {"math": {"answer": "known"}}).accepted == 1


def test_inline_reasoning_is_not_judged_as_the_answer(tmp_path: Path) -> None:
    """It is split off the way the dataset joined it."""
    recipe = dataset(tmp_path, ["<think>\nlong thoughts\n</think>\n\nshort"], dataset={"reasoning": "inline"})
    assert checked(recipe, {"exact": {"answer": "id"}}, sample=1).checks[0].examples[0].answer == "short"
    assert checked(recipe, {"length": {"max": 5}}, {"reasoning": {"min_chars": 10}}).accepted == 1


def test_a_sample_is_spread_over_all_shards(tmp_path: Path) -> None:
    """At equal distances, the same ones each time, and never more than there are."""
    write_source(tmp_path, [{"id": f"q{n}", "question": f"what is {n}?"} for n in range(30)])
    recipe = recipe_of(tmp_path)
    index(recipe)
    for number in range(3):
        held = open_chunk(recipe, ChunkId(0, number))
        for ordinal in range(10):
            answer(held, ordinal, body_of("no"))
        sealed_chunk(recipe, held)
    said = checked(recipe, {"contains": {"text": "yes"}}, sample=3)
    assert [example.prompt_id for example in said.checks[0].examples] == ["q0", "q10", "q20"]
    assert (checked(recipe, {"contains": {"text": "yes"}}, sample=99).sampled, said.records) == (30, 30)


def sealed_chunk(recipe: Recipe, held: Any) -> None:
    """Seal a chunk that is not the first."""
    from stillhouse.gen.worker.sealing import Sealer

    Sealer(open_dataset(recipe), recipe, held).seal()


def test_nothing_to_check_is_refused(tmp_path: Path) -> None:
    """No checks, no answers, or a column that neither the dataset nor its source has."""
    recipe = dataset(tmp_path, ["#### 0"])
    with pytest.raises(UsageError, match="expected at least one in the recipe"):
        checked(recipe)
    with pytest.raises(SourceError, match=r"checks\.0\.math\.answer: none of the first 1 rows has the column 'knwon'"):
        checked(recipe, {"math": {"answer": "knwon"}})
    empty = recipe_of(tmp_path / "empty")
    with pytest.raises(UsageError, match="expected a dataset with answers to check, got none"):
        checked(empty, {"length": {"max": 3}})


def test_a_check_that_cannot_judge_anything_fails_the_command(tmp_path: Path) -> None:
    """It prints the check's message and exits with 1: the printed figures are no acceptance rate."""
    recipe = dataset(tmp_path, ["A", "B"], source={"keep": ["known"]})
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    command = ["check", str(file), str(tmp_path / "out"), "-o", "checks=[choice: {answer: known}]"]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, "sim: column 'known': expected one of A to Z, got 0" in done.stdout) == (1, True), (
        done.output
    )


def test_the_command_prints_the_result(tmp_path: Path) -> None:
    """As text, or as one JSON document; exit code 1 where a check can judge nothing."""
    recipe = dataset(tmp_path, ["#### 0", "#### 5"])
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    command = ["check", str(file), str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, "-o", "checks=[math: {answer: known}]"])
    assert (done.exit_code, "accepted by all: 1 of 2 (50%)" in done.stdout) == (0, True), done.output
    done = CliRunner().invoke(
        main, [*command, "--json", "--sample", "1", "-o", "checks=[length: {max: 99, unit: words}]"]
    )
    assert json.loads(done.stdout)["checks"][0]["accepted"] == 1
    done = CliRunner().invoke(main, [*command, "-o", "checks=[choice: {answer: known}]"])
    assert (done.exit_code, "expected one of A to Z, got other text" in done.stderr) == (2, True), done.output
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, "expected at least one in the recipe" in done.stderr) == (2, True), done.output
