"""The end of a run's output: one answer, and what to do next."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import SIMULATED, answer, body_of, chunk_of, questions, recipe_of, sealed, write_source
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.cluster.commands.ending import Ending
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import BudgetSpent, Interrupted, Paused, StillhouseError, TeacherPaused, UsageError
from stillhouse.gen.views.glimpse import MAX_CHARS, glimpse
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.schemas.recipe import Recipe


def one_answer(tmp_path: Path, body: bytes, *, ask: dict[str, Any] | None = None, **row: Any) -> Recipe:
    """A dataset of one record."""
    recipe, held = chunk_of(tmp_path, [{"id": "q0", "question": "how?"} | row], ask=ask or {})
    answer(held, 0, body)
    sealed(recipe, held)
    return recipe


def seen(recipe: Recipe) -> str | None:
    """What is shown of the dataset."""
    return glimpse(DatasetReader(open_dataset(recipe)))


def commands(text: str) -> list[str]:
    """The commands shown."""
    lines = text.partition("next:\n")[2].splitlines()
    return [line.strip().partition("   ")[0] for line in lines]


def test_an_answer_is_shown_on_its_own_lines(tmp_path: Path) -> None:
    """What acts on a terminal is escaped, line breaks are spaces, and long texts lose their middle."""
    recipe = one_answer(
        tmp_path, body_of("first\n\x1b[2J\u202esecond" + 5000 * "x" + "\x1b the end"), id="q\x1b0", question="a\n\tb"
    )
    shown = seen(recipe)
    assert shown is not None
    title, asked, answered = shown.splitlines()
    assert title == r"one answer by sim, to q\x1b0:"
    assert asked == "  asked      a b"
    assert answered.startswith(r"  answered   first \x1b[2J\u202esecondxxx")
    assert r"x…x" in answered
    assert answered.endswith(r"xx\x1b the end")
    assert len(answered) < MAX_CHARS + 40


def test_an_answer_that_is_only_a_tool_call_is_shown(tmp_path: Path) -> None:
    """Its text is empty."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ask = {"extra": {"tools": [{"type": "function", "function": {"name": "look"}}]}}
    shown = seen(one_answer(tmp_path, body_of(None, finish="tool_calls", tool_calls=[call]), ask=ask))
    assert shown is not None
    assert '"look"' in shown.splitlines()[-1]


def test_a_dataset_without_records_shows_no_answer(tmp_path: Path) -> None:
    """Neither does a dataset that does not exist."""
    assert seen(recipe_of(tmp_path)) is None
    recipe, held = chunk_of(tmp_path, questions(1))
    answer(held, 0, b"{}", status=404)
    sealed(recipe, held)
    assert seen(recipe) is None


def test_what_comes_next_depends_on_how_it_went(tmp_path: Path) -> None:
    """Failures are asked again, a pilot continues, and what is not there yet is not looked at."""
    recipe = one_answer(tmp_path, body_of("so"))
    typed = ["my recipe.yaml", "-o", "ask.samples=2"]
    out = str(tmp_path / "out")
    done = Ending(recipe, typed).done(summarise(open_dataset(recipe)))
    assert done.startswith("one answer by sim, to q0:")
    reading = f"datasets.load_dataset({out!r})"
    assert commands(done) == [f"stillhouse report {out}", f"stillhouse verify {out}", reading]
    pilot = Summary(state="done", dataset=out, records=1, failed=3, pilot=True)
    assert commands(Ending(recipe, typed).done(pilot))[2:-1] == [
        f"stillhouse retry {out}",
        "stillhouse plan 'my recipe.yaml' -o ask.samples=2",
        "stillhouse run 'my recipe.yaml' -o ask.samples=2",
    ]
    assert "my recipe.yaml" not in Ending(recipe).done(pilot)


@pytest.mark.parametrize(
    ("error", "first", "resumes"),
    [
        (TeacherPaused("no money"), "stillhouse doctor r.yaml", True),
        (StillhouseError("useless"), "stillhouse doctor r.yaml", False),
        (Interrupted("a signal"), "stillhouse status", True),
        (Paused("the store is away"), "stillhouse doctor r.yaml", True),
    ],
)
def test_a_stopped_run_says_what_helps(tmp_path: Path, error: StillhouseError, first: str, resumes: bool) -> None:
    """Depending on what stopped it."""
    recipe = one_answer(tmp_path, body_of("so"))
    said = commands(Ending(recipe, ["r.yaml"]).stopped(error))
    assert said[0].startswith(first)
    assert f"stillhouse report {tmp_path / 'out'}" in said
    assert ("the same command" in said) == resumes


@pytest.mark.parametrize("judged", [True, False])
def test_verdicts_that_a_budget_did_not_cover_are_asked_for_by_a_retry(tmp_path: Path, judged: bool) -> None:
    """The same command asks only what is not sealed."""
    recipe = recipe_of(tmp_path)
    if judged:
        judge = {"name": "good", "role": "judge", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
        check = {"judge": {"teacher": "good", "template": "Score it.\n{{ prompt }}", "accept_if": ">= 4"}}
        check["judge"]["judging_allowed_because"] = "it is ours"
        recipe = recipe_of(tmp_path, teachers=[judge, SIMULATED], checks=[check])
    bind(open_dataset(recipe), recipe)
    shown = commands(Ending(recipe, ["r.yaml"]).stopped(BudgetSpent("9 of 9 requests used")))
    assert shown[-1] == ("stillhouse retry r.yaml" if judged else "the same command")


def test_a_mistake_is_printed_alone(tmp_path: Path) -> None:
    """Its message says what to do; without a dataset there is nothing else to look at."""
    assert Ending(recipe_of(tmp_path), ["r.yaml"]).stopped(UsageError("wrong")) == ""
    assert commands(Ending(recipe_of(tmp_path), ["r.yaml"]).stopped(StillhouseError("x"))) == [
        "stillhouse doctor r.yaml"
    ]


def test_commands_name_the_store_of_a_dataset_on_s3(tmp_path: Path) -> None:
    """As they have to be typed."""
    dataset = {"path": "s3://lake/my out", "endpoint_url": "http://127.0.0.1:1", "path_style": True}
    shown = Ending(recipe_of(tmp_path, dataset=dataset)).done(Summary(state="done", dataset="", records=1))
    where = "'s3://lake/my out' --endpoint-url http://127.0.0.1:1 --path-style"
    reading = "ray.data.read_parquet('s3://lake/my out/data')"
    assert commands(shown) == [f"stillhouse report {where}", f"stillhouse verify {where}", reading]


async def test_next_steps_are_printed_only_on_a_terminal(tmp_path: Path) -> None:
    """`--json` stays one document, and `--quiet` the summary."""
    write_source(tmp_path, questions(3))
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    told, quiet, document = (
        CliRunner().invoke(main, ["run", str(path), *options]) for options in ([], ["--quiet"], ["--json"])
    )
    assert told.stdout.startswith(quiet.stdout)
    assert told.stdout.removeprefix(quiet.stdout).startswith("one answer by sim, to q")
    assert (quiet.stderr, document.stderr) == ("", "")
    (line,) = document.stdout.splitlines()
    assert json.loads(line)["records"] == 3
