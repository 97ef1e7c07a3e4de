"""`run` from Python: in a notebook, which a real kernel executes, and in a program."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import run_in_process
from nbclient import NotebookClient

from stillhouse import read_recipe, run
from stillhouse.gen.errors import UsageError
from stillhouse.gen.views.result import RunResult

RECIPE = """\
name: noted
source: {path: prompts, prompt: q, keep: [label]}
ask: {samples: 2}
teachers: [{name: sim, api: simulator, limits: {in_flight: 8}}]
dataset: {path: out, prompts_per_shard: 5}
"""

DRAW = """\
import asyncio
from stillhouse import read_recipe
from stillhouse.cluster.actors.prompt_queue import PromptQueue
from stillhouse.cluster.progress.notebook import Notebook
recipe = read_recipe("recipe.yaml")
shown = Notebook(recipe)
shown.step("a <step>")
shown.update(await PromptQueue(recipe, workers=1).stats())
shown.note("the end")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and prompts, and a file that is not a recipe."""
    monkeypatch.chdir(tmp_path)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    rows = [{"q": f"How much is {n} + {n}?", "label": n} for n in range(12)]
    (prompts / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (prompts / "notes.md").write_text("#")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def executed(*cells: str) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, less what libraries print."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    return [[output for output in cell.outputs if output.output_type != "stream"] for cell in notebook.cells]


async def test_a_notebook_shows_the_run_and_its_result(folder: Path) -> None:
    """One output, redrawn; then the summary as text, and its records. The dataset is finished: Ray is not needed."""
    await run_in_process(read_recipe("recipe.yaml"))
    started, loaded, drawn = executed(
        "from stillhouse import read_recipe, run\nrun(read_recipe('recipe.yaml'))",
        "table = _.load(['prompt_id', 'label'])\n(type(table).__name__, table.num_rows, table.column_names)",
        DRAW,
    )
    progress, result = started
    assert progress["output_type"] == "display_data"
    assert "source: skipped 1 file of other kinds: notes.md" in progress["data"]["text/html"]
    assert result["data"]["text/plain"].startswith(f"done: {folder}/out\n  prompts    12 ")
    assert result["data"]["text/html"].startswith(f"<pre>done: {folder}/out\n")
    assert loaded[0]["data"]["text/plain"] == "('Table', 24, ['prompt_id', 'label'])"
    (panel,) = drawn
    assert "noted" in panel["data"]["text/plain"]
    assert "shards" in panel["data"]["text/plain"]
    assert "<div>a &lt;step&gt;</div><div>the end</div>" in panel["data"]["text/html"]


async def test_a_program_gets_the_records_and_no_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All columns, or those that are named; a misspelt one is refused."""
    await run_in_process(read_recipe("recipe.yaml"))
    result = run(read_recipe("recipe.yaml"))
    table = result.load()
    whole = pa.concat_tables(pq.read_table(path) for path in sorted((folder / "out" / "data").iterdir()))
    assert table.equals(whole.replace_schema_metadata(None))
    assert table.num_rows == result.records == 24
    assert result.load(["label"]).schema == pa.schema([("label", pa.string())])
    with pytest.raises(UsageError, match=r"no column 'lable' in the records; did you mean `label`\?"):
        result.load(["lable"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "source: skipped 1 file of other kinds: notes.md\n"
    assert RunResult.model_validate_json(result.as_line()).load().equals(table)


def test_a_dataset_without_shards_has_its_columns(folder: Path) -> None:
    """When nothing is sealed yet."""
    table = RunResult(state="unfinished", dataset=str(folder / "out")).load(["record_id", "completion"])
    assert (table.num_rows, table.column_names) == (0, ["record_id", "completion"])


@pytest.mark.slow
def test_a_run_works_in_a_notebook() -> None:
    """With a Ray that it starts itself."""
    ((progress, result),) = executed("from stillhouse import read_recipe, run\nrun(read_recipe('recipe.yaml'))")
    assert "24 of 24 settled" in progress["data"]["text/html"]
    assert "records    24" in result["data"]["text/plain"]
