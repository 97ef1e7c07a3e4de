"""The first commands that a new user types, one after the other, in a fresh folder."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.schemas.recipe_file import read_recipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 60 prompts."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": n, "question": f"How much is {n} + {n}?", "answer": 2 * n} for n in range(60)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def said(*args: str, code: int = 0) -> str:
    """The command's standard output."""
    done = CliRunner().invoke(main, args)
    assert done.exit_code == code, done.output
    return done.stdout


def test_plan_with_a_sample_runs_a_pilot_and_then_projects() -> None:
    """The pilot's result is printed before the plan, except in JSON; nothing is left to ask here."""
    said("init", "prompts.jsonl")
    asyncio.run(run_in_process(read_recipe("recipe.yaml")))
    both = said("plan", "recipe.yaml", "--sample", "20")
    assert both.startswith("done: ")
    assert "  records    60\n" in both.partition("\n\n")[0]
    assert both.partition("\n\n")[2].startswith("source: 1 file")
    assert json.loads(said("plan", "recipe.yaml", "--sample", "20", "--json"))["settled"] == 60
    assert (
        "--sample or --limit, got both"
        in CliRunner().invoke(main, ["plan", "recipe.yaml", "--sample", "2", "--limit", "2"]).output
    )


@pytest.mark.parametrize(
    ("command", "option", "other"),
    [("run", "--follow", ("--limit", "2")), ("submit", "--follow-source", ("--finish",))],
)
def test_following_a_source_never_ends_by_itself(command: str, option: str, other: tuple[str, ...]) -> None:
    """Options for a run that ends and options for one that doesn't are refused together."""
    done = CliRunner().invoke(main, [command, "recipe.yaml", option, *other])
    assert done.exit_code == 2
    assert f"expected {option} or {other[0]}, got both" in done.output


@pytest.mark.slow
def test_from_prompts_to_a_dataset() -> None:
    """init, plan, a sample that projects the rest, run, verify; on the Ray that each starts."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli"]

    def typed(*args: str) -> str:
        done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    typed("init", "prompts.jsonl")
    assert "to ask        60 samples" in typed("plan", "recipe.yaml")
    sampled = typed("plan", "recipe.yaml", "--sample", "20")
    assert "  records    20\n" in sampled
    assert "projection    of what is left, from 20 answers to 20 prompts" in sampled
    assert json.loads(typed("run", "recipe.yaml", "--json"))["records"] == 60
    typed("verify", "out/prompts")
