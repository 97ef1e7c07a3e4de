"""The sources of `tests/cases`: each is read as what it is, or refused with a message that says how it can be read."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml
from harness import run_in_process
from s3_server import S3Server

from stillhouse.gen.errors import Paused, SourceError
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

CASES = Path(__file__).parent.parent / "cases"


def case(tmp_path: Path, name: str, recipe: str = "recipe.yaml", **changes: Any) -> Recipe:
    """The case's recipe over a copy of its files, asking a simulator; `changes` are of `source` and `ask`."""
    folder = tmp_path / name
    shutil.copytree(CASES / name, folder, dirs_exist_ok=True)
    document = yaml.safe_load((folder / recipe).read_text())
    for section, fields in changes.items():
        document[section] = document.get(section, {}) | fields
    document["ask"].pop("max_tokens", None)  # the simulator's answers are longer
    document["source"]["path"] = str(folder / document["source"]["path"])
    document["teachers"] = [{"name": "t", "api": "simulator"}]
    document["dataset"]["path"] = str(folder / document["dataset"]["path"])
    return Recipe.model_validate(document)


def stored(recipe: Recipe, folder: str = "data") -> pa.Table:
    """All rows of data/, rejected/ or failed/."""
    return ds.dataset(Path(recipe.dataset.path) / folder, format="parquet").to_table()


async def records(recipe: Recipe, *columns: str) -> list[tuple[Any, ...]]:
    """What a run stores of these columns, ordered by their text; every row of the source is a record."""
    summary = await run_in_process(recipe)
    assert (summary.state, summary.bad, summary.failed, summary.rejected) == ("done", 0, 0, 0)
    found = stored(recipe)
    return sorted(zip(*(found[name].to_pylist() for name in columns), strict=True), key=str)


async def asked(recipe: Recipe) -> list[list[tuple[str, str]]]:
    """The prompts that a run asks, of which every one becomes a record."""
    prompts = [prompt for (prompt,) in await records(recipe, "prompt")]
    return [[(message["role"], message["content"]) for message in prompt] for prompt in prompts]


async def run_with_bad_rows(recipe: Recipe) -> tuple[Summary, list[str]]:
    """A run's summary and why rows were bad."""
    summary = await run_in_process(recipe)
    return summary, sorted(stored(recipe, "failed")["message"].to_pylist())


def refusal(recipe: Recipe) -> str:
    """What `plan` refuses the source with."""
    with pytest.raises(SourceError) as caught:
        preview(recipe)
    return str(caught.value)


UNIFIED = [
    ("20-null-column", "answer", [None, None, "42"], pa.string()),
    ("20b-int32-int64", "answer", [1, 2**40], pa.int64()),
    ("20d-string-large", "answer", ["a", "b"], pa.large_string()),
    (
        "21-struct-grows",
        "meta",
        [{"source": "x", "license": None}, {"source": "y", "license": "MIT"}],
        pa.struct([("source", pa.string()), ("license", pa.string())]),
    ),
    (
        "21c-struct-missing",
        "meta",
        [{"source": "x", "license": "MIT"}, {"source": "y", "license": None}],
        pa.struct([("source", pa.string()), ("license", pa.string())]),
    ),
    ("21e-struct-jsonl", "meta", ['{"source":"x"}', '{"source":"y","license":"MIT"}'], pa.string()),
]


@pytest.mark.parametrize(("name", "column", "values", "kind"), UNIFIED, ids=[name for name, *_ in UNIFIED])
async def test_kept_types_are_unified_where_no_value_changes(
    tmp_path: Path, name: str, column: str, values: list[Any], kind: pa.DataType
) -> None:
    """Over all files, as the plan is made; every row is asked and keeps its value."""
    recipe = case(tmp_path, name)
    prompt = recipe.source.prompt
    assert prompt is not None
    kept = {messages[-1]["content"]: value for messages, value in await records(recipe, "prompt", column)}
    assert [kept[question] for question in sorted(kept)] == values
    assert stored(recipe).schema.field(column).type == kind


@pytest.mark.parametrize(
    ("name", "declared", "values"),
    [
        ("20c-int64-double", "float64", [0.5, 1.0]),
        ("20g-string-int", "string", ["7", "a"]),
        ("20h-int-string", "string", ["7", "a"]),
    ],
)
async def test_types_without_a_common_type_are_refused_naming_both_files(
    tmp_path: Path, name: str, declared: str, values: list[Any]
) -> None:
    """At plan time, with nothing written; a declared type is the way out."""
    recipe = case(tmp_path, name)
    said = refusal(recipe)
    assert all(part in said for part in ("a.parquet", "b.parquet", f"`keep: [{{answer: {declared}}}]`"))
    with pytest.raises(SourceError, match=r"a\.parquet"):
        await run_in_process(recipe)
    assert not (Path(recipe.dataset.path) / "data").exists()
    typed = case(tmp_path, name, source={"keep": [{"answer": declared}]})
    assert [value for (value,) in await records(typed, "answer")] == values


async def test_22_a_struct_of_lists_is_a_conversation(tmp_path: Path) -> None:
    """As columnar tools make it of a list of structs."""
    assert await asked(case(tmp_path, "22-struct-of-lists")) == [
        [("system", "Be brief."), ("user", "Name a prime.")],
        [("user", "Hi")],
    ]


async def test_23_sharegpt_is_a_conversation(tmp_path: Path) -> None:
    """from and value, human and gpt."""
    assert await asked(case(tmp_path, "23-sharegpt")) == [[("system", "Be brief."), ("user", "2+2?")]]


async def test_24_messages_after_the_last_user_message_may_be_dropped(tmp_path: Path) -> None:
    """They go into their own column; without the option the row is bad, with that advice, and there is no column."""
    refused = case(tmp_path, "24-ends-with-assistant")
    summary, reasons = await run_with_bad_rows(refused)
    assert (summary.records, summary.bad) == (1, 1)
    assert "set source.answer to drop" in reasons[0]
    assert "source_answer" not in stored(refused).column_names
    dropping = case(tmp_path, "24-ends-with-assistant", source={"answer": "drop"})
    dropping = dropping.model_copy(
        update={"dataset": dropping.dataset.model_copy(update={"path": str(tmp_path / "o")})}
    )
    rows = await records(dropping, "prompt", "source_answer")
    assert [(prompt[-1]["content"], answer) for prompt, answer in rows] == [
        ("Name a prime", "4"),
        ("Name a square", None),
    ]
    assert len(rows[0][0]) == 3


async def test_25_odd_values_matter_only_where_they_are_used(tmp_path: Path) -> None:
    """All rows are asked; one that keeps a value without a text form is bad, and the message names the column."""
    assert len(await asked(case(tmp_path, "25-nan-unused"))) == 4
    assert len(await asked(case(tmp_path, "25-nan-unused", "all.yaml"))) == 2
    summary, reasons = await run_with_bad_rows(case(tmp_path, "25-nan-unused", "used.yaml"))
    assert (summary.records, summary.bad) == (2, 2)
    assert all(reason.startswith("column 'score': ") for reason in reasons)


async def test_26_hive_folders_are_columns(tmp_path: Path) -> None:
    """In a template and kept; the folder itself may be the source, with the dataset and other files inside it."""
    rows = await records(case(tmp_path, "26-hive"), "prompt", "lang")
    assert [(prompt[0]["content"], lang) for prompt, lang in rows] == [
        ("Answer in de: q1", "de"),
        ("Answer in fr: q2", "fr"),
    ]
    whole = case(tmp_path, "26-hive", "folder.yaml")
    assert await asked(whole) == [[("user", "q1")], [("user", "q2")]]
    again = await run_in_process(whole)
    assert (again.state, again.prompts, again.requests) == ("done", 2, 0)
    text = render(preview(whole))
    assert "skipped 3 files of other kinds: expect.txt, folder.yaml, recipe.yaml" in text


async def test_27_a_dotted_name_means_the_flat_column(tmp_path: Path) -> None:
    """It appears once, and the nested one never takes its place."""
    recipe = case(tmp_path, "27-dotted")
    assert await records(recipe, "prompt", "meta.tags") == [([{"role": "user", "content": "q dotted"}], ["a", "b"])]
    assert stored(recipe).column_names.count("meta.tags") == 1


def test_40_plan_warns_of_many_small_files(tmp_path: Path) -> None:
    """With the setting and a value for it."""
    recipe = case(tmp_path, "40-many-files")
    lines = "".join(json.dumps({"id": str(n), "q": f"Say {n}."}) + "\n" for n in range(10_002))
    (tmp_path / "big.jsonl").write_text(lines)
    source = recipe.source.model_copy(update={"path": str(tmp_path / "big.jsonl")})
    dataset = recipe.dataset.model_copy(update={"prompts_per_shard": 1})
    shown = preview(recipe.model_copy(update={"source": source, "dataset": dataset}))
    (warning,) = shown.warnings
    assert "10,002 files in data/, each smaller than a megabyte: set dataset.prompts_per_shard to " in warning


@pytest.mark.parametrize(
    ("recipe", "prompts"),
    [
        ("exp-jsonl.yaml", ["Hi", "Ho"]),
        ("array-json.yaml", ["Hi", "Ho"]),
        ("rs-jsonl.yaml", ["Hi", "Ho"]),
        ("ls-jsonl.yaml", ["Hi\u2028there"]),
        ("dup-jsonl.yaml", ["Ho"]),
    ],
)
async def test_64_shapes_of_json_are_read(tmp_path: Path, recipe: str, prompts: list[str]) -> None:
    """Whatever is in columns that nobody uses."""
    assert [messages[0][1] for messages in await asked(case(tmp_path, "64-jsonl-shapes", recipe))] == prompts


@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("pretty-jsonl.yaml", "JSON spread over several lines"),
        ("concat-jsonl.yaml", "several objects on one line"),
        ("comma-jsonl.yaml", "an object followed by a comma"),
        ("cr-jsonl.yaml", "bare carriage returns"),
    ],
)
def test_64_other_shapes_of_json_are_refused_by_name(tmp_path: Path, recipe: str, form: str) -> None:
    """When the plan is made, not row by row."""
    assert form in refusal(case(tmp_path, "64-jsonl-shapes", recipe))


def on_the_server(recipe: Recipe, s3: S3Server, tmp_path: Path) -> Recipe:
    """The recipe with its dataset in the test's bucket."""
    place = {"path": f"{s3.url}/set", "endpoint_url": s3.endpoint_url}
    run = recipe.run.model_copy(update={"journal_dir": str(tmp_path / "journals"), "ship_every_s": 0.1})
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update=place), "run": run})


async def test_28_a_bucket_that_demands_checksums_gets_them(tmp_path: Path, s3: S3Server) -> None:
    """A bucket with object lock does, from the first object on."""
    s3.gate.demands = "checksum"
    summary = await run_in_process(on_the_server(case(tmp_path, "28-object-lock"), s3, tmp_path))
    assert (summary.state, summary.records) == ("done", 20)


@pytest.mark.parametrize("renewed", [True, False])
async def test_30_renewed_keys_are_picked_up_during_a_run(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, renewed: bool
) -> None:
    """Expired keys pause it otherwise, and the same call resumes with new ones; nothing is asked again."""
    path = tmp_path / "credentials"

    def write(token: str) -> None:
        keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
        path.write_text(f"[default]\n{keys}aws_session_token = {token}\n")

    write("old")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    recipe = on_the_server(case(tmp_path, "30-renewed-keys"), s3, tmp_path)
    log = tmp_path / "log"
    settings = {"latency_s": 0.05, "log": str(log)}
    async with await serve(SimulatorSettings.model_validate(settings)) as teacher:
        teachers = tuple(each.model_copy(update={"endpoints": (teacher.url,)}) for each in recipe.teachers)
        recipe = recipe.model_copy(update={"teachers": teachers})
        running = asyncio.ensure_future(run_in_process(recipe))
        while not any(seen.method == "PUT" and "/data/part-" in seen.path for seen in s3.gate.seen):
            await asyncio.wait((running,), timeout=0.01)
        if renewed:
            write("new")
        s3.gate.tokens = {"new"}
        if renewed:
            summary = await running
        else:
            with pytest.raises(Paused, match="the credentials have expired"):
                await running
            write("new")
            summary = await run_in_process(recipe)
    assert (summary.state, summary.records, len(log.read_text().splitlines())) == ("done", 60, 60)
