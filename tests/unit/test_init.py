"""`stillhouse init` writes a recipe that plans and runs, from files as people have them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.recipe_file import read_recipe

CHAT = [{"role": "user", "content": "Why?"}]
ANSWERED = [*CHAT, {"role": "assistant", "content": "Because."}]
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
REAL = ("--url", "http://localhost:8000/v1", "--model", "Qwen/Qwen3-8B")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder, in which the user types."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    return tmp_path


def init(*args: str, code: int = 0) -> str:
    """What the command says, on stdout and stderr."""
    done = CliRunner().invoke(main, ["init", *args])
    assert done.exit_code == code, done.output
    return done.output


def rows(*values: dict[str, Any], name: str = "prompts.jsonl") -> None:
    """A file of these rows."""
    Path(name).write_text("".join(json.dumps(value) + "\n" for value in values))


def test_an_often_empty_column_is_taken_only_without_a_better_one() -> None:
    """By its rows with a value."""
    rows({"prompt": None}, {"prompt": None}, {"prompt": "Why?"})
    init("prompts.jsonl")
    assert yaml.safe_load(Path("recipe.yaml").read_text())["source"]["prompt"] == "prompt"
    rows(
        {"prompt": None, "question": "Why?"}, {"prompt": None, "question": "How?"}, {"prompt": "x", "question": "Who?"}
    )
    init("prompts.jsonl", "--out", "other.yaml")
    assert yaml.safe_load(Path("other.yaml").read_text())["source"]["prompt"] == "question"


@pytest.mark.parametrize(
    ("row", "source", "template"),
    [
        ({"id": 1, "question": "Why?", "answer": "42"}, {"prompt": "question", "id": "id", "keep": ["answer"]}, None),
        ({"text": "Why?", "prompt": "Why not?"}, {"prompt": "prompt"}, None),
        ({"messages": CHAT, "text": "Why?"}, {"messages": "messages"}, None),
        ({"messages": ANSWERED, "prompt": "Why?"}, {"prompt": "prompt"}, None),
        ({"prompt": CHAT, "answer": 3}, {"messages": "prompt", "keep": ["answer"]}, None),
        ({"conversations": SHAREGPT, "source": "web"}, {"messages": "conversations", "answer": "drop"}, None),
        ({"messages": json.dumps(ANSWERED)}, {"messages": "messages", "answer": "drop"}, None),
        ({"dialog_of_mine": CHAT}, {"messages": "dialog_of_mine"}, None),
        ({"data": {"question": "Why?"}, "uid": "a"}, {"prompt": "data.question", "id": "uid"}, None),
        ({"Question": "Why?", "n": 3}, {"prompt": "Question"}, None),
        ({"frage": "Warum?", "n": 3}, {"prompt": "frage"}, None),
        ({"frage": "Warum?", "meta": {"source": "web"}}, {"prompt": "frage"}, None),
        (
            {"instruction": "Say why.", "input": "", "output": "Because."},
            {"prompt": "instruction"},
            "{{ instruction }}{% if input %}\n\n{{ input }}{% endif %}",
        ),
    ],
)
def test_the_column_to_ask_is_found(row: dict[str, Any], source: dict[str, Any], template: str | None) -> None:
    """By its name and content; the recipe plans without a bad row."""
    rows(row)
    init("prompts.jsonl")
    written = yaml.safe_load(Path("recipe.yaml").read_text())
    assert written["source"] == {"path": "prompts.jsonl"} | source
    assert written["ask"].get("template") == template
    shown = preview(read_recipe("recipe.yaml"))
    assert (shown.prompts, shown.bad, shown.to_ask, shown.warnings) == (1, 0, 1, ())


def write_three(name: str) -> None:
    """Three prompts, in a file or folder of that kind."""
    table = pa.table({"nr": [1, 2, 3], "question": ["Why?", "How?", 'Is "this" it?'], "label": [0.5, 1.5, 2.5]})
    if name == "folder/":
        Path(name).mkdir()
        pq.write_table(table, Path(name) / "a.parquet")
    elif name.endswith(".parquet"):
        pq.write_table(table, name)
    elif name.endswith(".csv"):
        Path(name).write_text("nr;question;label\n1;Why?;0.5\n2;How?;1.5\n3;Is this it?;2.5\n")
    else:
        lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        with pa.CompressedOutputStream(name, "gzip") as file:
            file.write(lines.encode())


@pytest.mark.parametrize("name", ["some.csv", "a b's.parquet", "folder/", "gzip.jsonl.gz"])
async def test_the_written_recipe_runs_against_the_simulator(name: str) -> None:
    """Whatever kind of file, with a name that a shell has to quote."""
    write_three(name)
    init(name, "--out", "my recipe.yaml")
    summary = await run_in_process(read_recipe("my recipe.yaml"))
    assert (summary.state, summary.records, summary.bad) == ("done", 3, 0)


async def test_a_column_of_two_types_is_kept_as_text() -> None:
    """Otherwise a recipe without a type would be refused."""
    for name, answer in (("a", 1), ("b", "one")):
        pq.write_table(pa.table({"question": [f"Why {name}?"], "answer": [answer]}), f"{name}.parquet")
    init("*.parquet")
    recipe = read_recipe("recipe.yaml")
    summary = await run_in_process(recipe)
    assert [(keep.name, keep.type) for keep in recipe.source.keep] == [("answer", "string")]
    assert summary.records == 2


def test_next_commands_can_be_pasted() -> None:
    """They are in the order in which they make sense."""
    rows({"q": "Why?"})
    said = init("prompts.jsonl", "--out", "my recipe.yaml")
    following = ("plan 'my recipe.yaml'", "run 'my recipe.yaml' --limit 20")
    assert said.endswith("wrote my recipe.yaml; next:\n" + "".join(f"  stillhouse {each}\n" for each in following))
    assert "the built-in simulator" in said
    assert "stillhouse plan 'my recipe.yaml'" in Path("my recipe.yaml").read_text()


def test_the_given_teacher_is_written() -> None:
    """A local server needs no key, and known terms no statement; others need both, and get a warning about the key."""
    rows({"q": "Why?"})
    init("prompts.jsonl", *REAL, "--dataset", "s3ish/ds")
    recipe = read_recipe("recipe.yaml")
    (teacher,) = recipe.teachers
    assert (teacher.base_url, teacher.model, teacher.api_key) == ("http://localhost:8000/v1", "Qwen/Qwen3-8B", None)
    assert (teacher.name, recipe.dataset.path) == ("qwen3-8b", "s3ish/ds")
    acme = ("--url", "https://api.acme.ai/v1", "--model", "m 1", "--out", "acme.yaml")
    terms = ("--training-use", "permitted", "--license", "MIT: really")
    said = init("prompts.jsonl", *acme, *terms)
    assert "warning: acme.yaml:" in said
    assert "ACME_API_KEY" in said
    (teacher,) = read_recipe("acme.yaml").teachers
    assert (teacher.api_key, teacher.name) == ("env:ACME_API_KEY", "m-1")
    assert teacher.terms is not None
    assert (teacher.terms.training_use, teacher.terms.license) == ("permitted", "MIT: really")


def test_a_recipe_can_be_written_to_stdout() -> None:
    """The recipe alone."""
    rows({"q": "Why?"})
    done = CliRunner().invoke(main, ["init", "prompts.jsonl", "--out", "-"])
    assert yaml.safe_load(done.stdout)["source"] == {"path": "prompts.jsonl", "prompt": "q"}
    assert "column   q of prompts.jsonl; rows tried: 1 (0 bad)" in done.stderr
    assert not Path("recipe.yaml").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("nothing.jsonl",), "PROMPTS: expected files at nothing.jsonl"),
        (("prompts.jsonl", "--prompt", "qustion"), "no column 'qustion'; did you mean `question`?"),
        (("prompts.jsonl", "--prompt", "question", "--messages", "m"), "--prompt or --messages, got both"),
        (("two.jsonl",), "it may be 'this', 'that'; give --prompt COLUMN"),
        (("none.jsonl",), "the columns are 'n'; give --prompt COLUMN"),
        (("prompts.jsonl", "--model", "m"), "--model needs --url"),
        (("prompts.jsonl", "--url", "http://localhost/v1"), "--model is missing"),
        (("prompts.jsonl", *REAL, "--api", "simulator"), "leave out --url"),
        (("prompts.jsonl", *REAL[:3], "mine"), "--training-use is missing"),
        (
            ("prompts.jsonl", "--url", "https://api.openai.com/v1", "--model", "m"),
            "training on its answers is prohibited",
        ),
        (("prompts.jsonl", "--url", "localhost/v1", *REAL[2:]), "--url: expected a URL"),
        (("prompts.jsonl", *REAL, "--api-key", "sk-abcdefgh"), "--api-key: expected a reference"),
        (("prompts.jsonl", "--dataset", "prompts.jsonl/x"), "prompts.jsonl"),
        (("",), "PROMPTS: expected a path or an s3:// URL, got ''"),
        (("a\nb.jsonl",), "PROMPTS: expected a path or an s3:// URL, got 'a\\nb.jsonl'"),
        (("n" * 300,), "can't be resolved: File name too long"),
        (("loop.jsonl",), "can't be resolved: Symlink loop"),
        (("prompts.jsonl", "--out", ""), "--out: expected the path of a file, got ''"),
        (("prompts.jsonl", "--out", "n" * 300), "can't be written (File name too long)"),
    ],
)
def test_mistakes_are_reported_by_flag_and_nothing_is_written(args: tuple[str, ...], told: str) -> None:
    """With the way out; a key is never repeated."""
    rows({"question": "Why?"})
    rows({"this": "Why?", "that": "How?"}, name="two.jsonl")
    rows({"n": 1}, name="none.jsonl")
    Path("loop.jsonl").symlink_to("loop.jsonl")
    said = init(*args, code=2)
    assert told in said
    assert "sk-abcdefgh" not in said
    assert not Path("recipe.yaml").exists()


def test_no_file_is_overwritten() -> None:
    """Whatever it holds; a dataset of another recipe is not taken either."""
    rows({"q": "Why?"})
    Path("recipe.yaml").write_text("mine")
    assert "recipe.yaml exists and is not overwritten" in init("prompts.jsonl", code=2)
    assert Path("recipe.yaml").read_text() == "mine"


async def test_another_recipes_dataset_is_not_reused() -> None:
    """It would refuse to run; the flag for another place is named."""
    rows({"q": "Why?"})
    init("prompts.jsonl")
    await run_in_process(read_recipe("recipe.yaml"))
    said = init("prompts.jsonl", *REAL, "--out", "real.yaml", code=2)
    assert "was created with a different recipe" in said
    assert "--dataset PATH" in said
