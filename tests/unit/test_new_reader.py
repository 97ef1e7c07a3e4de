"""First mistakes of a new user, and how a run's last lines help."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from stillhouse.cluster.cli import main
from stillhouse.gen.counted import counted
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify.findings import Checked, Report, render
from stillhouse.schemas.near_path import near_path

RECIPE = """\
name: mine
source:
  path: {path}
  prompt: question
ask: {{max_tokens: 8}}
teachers: [{{name: sim, api: simulator}}]
dataset: {{path: out}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with prompts and a recipe for them."""
    (tmp_path / "prompts.jsonl").write_text('{"question": "why?"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(path="prompts.jsonl"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("prompt.jsonl", ("recipe.yaml:3: source.path: expected files at prompt.jsonl", "did you mean prompts.jsonl?")),
        ("recipe.yaml", ("recipe.yaml:3: source.path: recipe.yaml is of an unsupported kind",)),
        ("'a[z-a].jsonl'", ("recipe.yaml:3: source.path: a[z-a].jsonl is not a valid glob",)),
        ("empty.jsonl", ("recipe.yaml:3: source.path: expected rows, got none in ", "empty.jsonl: write prompts")),
        ("https://example.com/a.jsonl", ("recipe.yaml:3: source.path: https:// can't be read",)),
    ],
)
def test_a_wrong_source_is_placed_in_the_recipe(folder: Path, path: str, words: tuple[str, ...]) -> None:
    """With the file and the line of the path, once."""
    (folder / "recipe.yaml").write_text(RECIPE.format(path=path))
    result = CliRunner().invoke(main, ["plan", "recipe.yaml"])
    assert result.exit_code == 2
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stderr.count("recipe.yaml:3: ") == 1


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("recipe.yml", "recipe.yml: no such file; expected the path of a recipe (YAML); did you mean recipe.yaml?"),
        ("prompts.jsonl", "expected a recipe (YAML), got a file of prompts; `stillhouse init prompts.jsonl` writes"),
        (".", "is a folder; expected the path of a recipe (YAML); `stillhouse init .` writes"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused_with_the_command_to_type(folder: Path, recipe: str, words: str) -> None:
    """A misspelt name, the prompts themselves, their folder."""
    result = CliRunner().invoke(main, ["plan", recipe])
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_a_path_unlike_any_other_gets_no_suggestion(folder: Path) -> None:
    """Neither does one in a folder that does not exist, or one that no file can have."""
    assert [near_path(path) for path in ("zebra", "no/prompts.jsonl", "a\0b", "", "/")] == [""] * 5
    (folder / "zebra").symlink_to(folder / "nothing")
    assert near_path(str(folder / "zebra")) == ""
    assert near_path(str(folder / "PROMPTS.jsonl")) == f"; did you mean {folder / 'prompts.jsonl'}?"


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 retries"), (1, "1 retry"), (1200, "1,200 retries")], ids=["none", "one", "many"]
)
def test_a_count_agrees_with_its_noun(count: int, words: str) -> None:
    """One takes the singular."""
    assert counted(count, "retry", "retries") == words


def test_verify_says_which_rows_a_run_does_not_count() -> None:
    """Duplicate prompts and bad rows are in its files, and were never samples."""
    checked = Checked(records=4, rejected=1, failed=2, duplicates=1, bad_rows=2, source_rows=7)
    text = render(Report(dataset="out", checked=checked, findings=()))
    assert "4 records, 1 in rejected/ (1 duplicate prompt), 2 in failed/ (2 bad rows), 7 of the source" in text


def test_a_summary_says_why_prompts_are_short() -> None:
    """How many of the answers asked were accepted, and what asks more."""
    summary = Summary(
        state="done", dataset="out", accept=2, at_most=3, short=10, prompts_by_accepted={0: 1, 1: 9, 2: 20}, bad=1
    )
    few = "10 prompts with fewer than 2 accepted answers (1 has none, 9 have 1) among at most 3 asked"
    for reasons, words in (
        ({"check:math": 10}, "(check:math 10); a higher ask.at_most asks more"),
        ({"budget": 8, "overload": 2}, "(budget 8, overload 2); a larger budget or `stillhouse retry` asks more"),
    ):
        assert f"{few} {words}" in summary.model_copy(update={"short_by_reason": reasons}).as_text()
    assert "1 row makes no prompt (failed/ says where and why)" in summary.as_text()
    assert "short" not in summary.model_copy(update={"accept": 0}).as_text()


def test_only_a_dataset_can_be_retried(folder: Path) -> None:
    """It is named as what it is, as by every other command."""
    result = CliRunner().invoke(main, ["retry", str(folder / "nothing")])
    assert (result.exit_code, "not a Stillhouse dataset" in result.stderr) == (2, True), result.stderr
