"""Things that go wrong in a first run, through the command line; none of them needs Ray."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import questions, recipe_of, write_source
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main

DEAD = {
    "name": "t",
    "base_url": "http://127.0.0.1:9/v1",
    "model": "m",
    "terms": {"license": "MIT", "training_use": "permitted"},
}


def write_recipe(root: Path, **changes: Any) -> Path:
    """A recipe file over three prompts, and its source."""
    write_source(root, questions(3))
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(root, **changes).model_dump(mode="json", exclude_none=True)))
    return path


@pytest.mark.parametrize("reference", ["env:SH_NOT_SET", "file:{root}/no-such-key"])
def test_a_missing_key_leaves_nothing_behind(tmp_path: Path, reference: str) -> None:
    """Exit 2 with the reference, before a Ray is started or a folder is made."""
    path = write_recipe(tmp_path, teachers=[DEAD | {"api_key": reference.format(root=tmp_path)}])
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, ["run", str(path)])
    assert done.exit_code == 2, done.output
    assert "teachers.t.api_key" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def invoke(*args: object, code: int = 0) -> str:
    """The command's output, stderr included; checks its exit code."""
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, done.output
    return done.output


async def test_commands_take_the_recipe_of_a_dataset(tmp_path: Path) -> None:
    """In place of its path, with overrides as `run` takes them; `retry` then needs no last run's recipe."""
    path = write_recipe(tmp_path)
    await run_in_process(recipe_of(tmp_path))
    (tmp_path / "out" / "_stillhouse" / "last_run.yaml").unlink(missing_ok=True)
    assert json.loads(invoke("status", path, "--json"))["records"] == 3
    assert "sound" in invoke("verify", path)
    invoke("report", path, "-o", tmp_path / "page.html")
    assert "what is 0 + 1?" in (tmp_path / "page.html").read_text()
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = f"dataset.path={tmp_path / 'moved'}"
    assert json.loads(invoke("status", path, "--json", "-o", moved))["records"] == 3
    invoke("verify", path, "-o", moved)
    invoke("report", path, "--override", moved, "-o", tmp_path / "page.html")
    assert json.loads(await asyncio.to_thread(invoke, "retry", path, "--json", "-o", moved))["requests"] == 0
    assert "run its recipe first" in invoke("status", path, code=2)


@pytest.mark.parametrize("command", ["status", "verify", "report", "retry", "stop", "logs"])
def test_a_missing_or_invalid_recipe_is_named(tmp_path: Path, command: str) -> None:
    """Its path is not taken for a dataset's; a file that is not a recipe is refused with its line."""
    address = ["--address", "http://127.0.0.1:1"] if command in ("stop", "logs") else []
    assert "expected the path of a recipe" in invoke(command, tmp_path / "none.yaml", *address, code=2)
    (tmp_path / "wrong.yaml").write_text("name: x\nsauce: {}\n")
    assert "wrong.yaml:2: sauce: unknown field" in invoke(command, tmp_path / "wrong.yaml", *address, code=2)


@pytest.mark.parametrize("command", ["status", "verify"])
def test_overrides_need_a_recipe(tmp_path: Path, command: str) -> None:
    """On a dataset's path there is nothing for them to override."""
    assert "-o ask.samples=2: expected a recipe" in invoke(command, tmp_path, "-o", "ask.samples=2", code=2)
