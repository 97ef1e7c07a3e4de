"""`stillhouse init --template` writes a recipe for a common task that runs as it is, alone and in a chain."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
import yaml
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.cluster.commands.options import read
from stillhouse.cluster.commands.template import TASKS

PASSAGES = "The still has a copper pot.\n\nIts neck is long, and the spirit is cut into heads, hearts and tails."


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three prompts of the quickstart, answered once each."""
    out = tmp_path_factory.mktemp("first") / "ds"
    fast = ("teachers.0.simulator.latency_s=0", "ask.accept=null", "ask.at_most=null", "checks=[]")
    asyncio.run(run_in_process(read("quickstart", (f"dataset.path={out}", *fast)), limit=3))
    return out


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the user types, with a document in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "still.md").write_text(PASSAGES)
    return tmp_path


def init(source: object, task: str, *args: str, code: int = 0) -> str:
    """What the command says."""
    given = ["init", str(source), "--template", task, "--out", f"{task}.yaml", "--dataset", task, *args]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == code, done.output
    return done.output


def ran(recipe: str, *overrides: str) -> list[dict[str, Any]]:
    """The records of the recipe's run."""
    chosen = read(recipe, ("teachers.0.simulator.latency_s=0", *overrides))
    summary = asyncio.run(run_in_process(chosen))
    assert (summary.bad, summary.failed) == (0, 0)
    rows: list[dict[str, Any]] = pads.dataset(f"{chosen.dataset.path}/data").to_table().to_pylist()
    assert len(rows) == summary.records > 0
    return rows


@pytest.mark.parametrize("task", [task for task in TASKS if task != "questions"])
def test_a_template_runs_on_a_dataset(dataset: Path, task: str) -> None:
    """Its records are judged, rewritten or evolved, and kept in the new records."""
    init(dataset, task)
    for row in ran(f"{task}.yaml"):
        asked, of = row["prompt"][-1]["content"], row["source_completion"][0]["content"]
        assert (row["source_prompt"][-1]["content"] in asked) == (task != "rewrite")
        assert (of in asked) == (task != "evolve")
        if task == "judge":
            assert json.loads(row["completion"][0]["content"])["score"] in range(1, 6)


def test_documents_become_answered_questions_in_a_chain() -> None:
    """Questions from a document; these asked; the answers judged; and the good ones exported for a trainer."""
    init("docs", "questions")
    made = ran("questions.yaml", "ask.samples=1")
    assert "copper pot" in made[0]["prompt"][0]["content"]
    assert made[0]["text"] == PASSAGES
    answer = {
        "name": "answers",
        "source": {"path": "questions", "id": "record_id", "keep": [{"name": "completion", "as": "made"}]},
        "ask": {"template": "{{ (completion[0].content | fromjson).question }}", "samples": 2},
        "teachers": [{"name": "sim", "api": "simulator"}],
        "dataset": {"path": "answers"},
    }
    Path("answers.yaml").write_text(yaml.safe_dump(answer))
    answers = ran("answers.yaml")
    assert answers[0]["prompt"][0]["content"] == json.loads(made[0]["completion"][0]["content"])["question"]
    init("answers", "judge")
    assert len(ran("judge.yaml")) == len(answers)
    done = CliRunner().invoke(main, ["export", "answers", "--format", "messages-jsonl", "--out", "train.jsonl"])
    assert done.exit_code == 0, done.output
    assert len(Path("train.jsonl").read_text().splitlines()) == len(answers)


@pytest.mark.parametrize("task", TASKS)
def test_a_template_takes_plain_files_too(task: str) -> None:
    """The column to ask holds the question, a column of answers the answer."""
    Path("plain.jsonl").write_text(json.dumps({"prompt": "Why is it so?", "answer": "Because."}) + "\n")
    init("plain.jsonl", task)
    recipe = yaml.safe_load(Path(f"{task}.yaml").read_text())
    assert recipe["source"]["keep"] == [{"name": "prompt", "as": "source_prompt"}, {"name": "answer", "as": "answer"}]
    assert "{{ prompt }}" in recipe["ask"]["template"]
    assert ("{{ answer }}" in recipe["ask"]["template"]) == (task == "judge")


def test_a_source_that_does_not_fit_the_task_is_refused() -> None:
    """With what is missing; nothing is written."""
    assert "expected a dataset's folder, or files with a column of answers" in init("docs", "judge", code=2)
    Path("odd.jsonl").write_text('{"the question": "Why?"}\n')
    assert "no template can name the column 'the question'" in init("odd.jsonl", "evolve", code=2)
    assert not Path("judge.yaml").exists()
