"""The example scripts run as a user runs them; those that read with Ray Data join one cluster."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as pads
import pytest
from builders import SIMULATED, questions, recipe_of, write_source
from case_server import CaseServer, serving
from click.testing import CliRunner
from harness import run_in_process
from pictures import picture, write_images
from ray_nodes import ray_nodes
from s3_server import S3Server, rclone_s3

from stillhouse.cluster.cli import main
from stillhouse.cluster.commands.options import read
from stillhouse.gen.store import open_store
from stillhouse.schemas.recipe import Recipe

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's first 50 prompts, twice each: 100 records, with all columns that a dataset can have."""
    out = tmp_path_factory.mktemp("examples") / "ds"
    twice = ("ask.accept=null", "ask.at_most=null", "ask.samples=2", "checks=[]")
    recipe = read("quickstart", (f"dataset.path={out}", "ask.top_logprobs=5", "dataset.messages=true", *twice))
    asyncio.run(run_in_process(recipe, limit=50))
    return out


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that is in the environment, as a user's would be."""
    with rclone_s3(tmp_path_factory.mktemp("lake")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in (server.env | {"AWS_ENDPOINT_URL": server.endpoint_url}).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def cluster(lake: S3Server) -> Iterator[dict[str, str]]:
    """The environment of a script that should join the cluster: without it, Ray joins any cluster that it finds."""
    with ray_nodes(2) as ray:
        yield {"RAY_ADDRESS": ray.address}


@pytest.fixture
def on_s3(lake: S3Server, tmp_path: Path) -> Callable[[Path], str]:
    """Copies a dataset into the bucket and gives its URL."""

    def copy(dataset: Path) -> str:
        url = f"{lake.url}/{tmp_path.name}"
        store = open_store(url, endpoint_url=lake.endpoint_url)
        for file in dataset.rglob("*.parquet"):
            store.put(str(file.relative_to(dataset)), file)
        return url

    return copy


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """The command's standard output; checks that it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | (env or {}))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_example_read(dataset: Path, cluster: dict[str, str], tmp_path: Path) -> None:
    """Four readers print the same count, and no record appears twice."""
    printed = run(sys.executable, SCRIPTS / "example_read.py", dataset, env=cluster | {"HF_HOME": str(tmp_path)})
    assert printed.splitlines() == ["datasets: 100", "duckdb: 100", "polars: 100", "ray data: 100"]
    (counted,) = duckdb.execute(
        f"select count(distinct record_id), any_value(prompt[1].role) from '{dataset}/data/*.parquet'"
    ).fetchall()
    assert counted == (100, "user")


@pytest.fixture(scope="module")
def trl_python() -> str:
    """An interpreter with torch and TRL, which this project's own environment does not install; or skip."""
    python = os.environ.get("STILLHOUSE_TRL_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch, trl"], capture_output=True).returncode != 0:
        pytest.skip(f"{python} has no torch and trl; set STILLHOUSE_TRL_PYTHON to an interpreter that has them")
    return python


@pytest.mark.slow
def test_example_sft(trl_python: str, dataset: Path, tmp_path: Path) -> None:
    """TRL trains on the records as they are, all columns present: the loss falls, and the student is saved."""
    student = tmp_path / "student"
    script = SCRIPTS / "example_sft.py"
    printed = run(trl_python, script, dataset, "--output", student, env={"HF_HOME": str(tmp_path / "hf")})
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert (student / "model.safetensors").exists()


@pytest.mark.slow
def test_example_on_policy(trl_python: str, tmp_path: Path) -> None:
    """A followed run scores each round of the student's rollouts: all of them, and the divergence falls every time."""
    rollouts, scores = tmp_path / "rollouts", tmp_path / "scores"
    command = [sys.executable, "-m", "stillhouse.cluster.cli", "run", f"{SCRIPTS}/example_on_policy.yaml", "--follow"]
    command += ["-o", f"source.path={rollouts}", "-o", f"dataset.path={scores}", "--json"]
    student = ("--rounds", "4", "--output", tmp_path / "student")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as teacher:
        try:
            printed = run(trl_python, SCRIPTS / "example_on_policy.py", rollouts, scores, *student)
            teacher.send_signal(signal.SIGINT)
            out, err = teacher.communicate(timeout=60)
        finally:
            teacher.kill()
    losses = [float(loss) for loss in re.findall(r"^round \d+: reverse KL ([\d.]+),", printed, re.MULTILINE)]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert (tmp_path / "student" / "model.safetensors").exists()
    assert teacher.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["prompts"] == 4 * 256


@pytest.mark.slow
def test_example_sft_learns_tool_calls(trl_python: str, tmp_path: Path) -> None:
    """Some records call tools and others don't: the calls are in the text that is trained on."""
    write_source(
        tmp_path, [{"id": f"q{n}", "question": f"{'[[38-tool-calls/call]] ' * (n % 2)}{n}"} for n in range(16)]
    )
    terms = {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"}
    teacher = {"name": "t", "api": "openai-chat", "model": "made-up-8b", "terms": terms}
    tools = [{"type": "function", "function": {"name": "get_time"}}]

    async def ask() -> None:
        async with serving(CaseServer()) as server:
            teachers = [teacher | {"base_url": server.url}]
            await run_in_process(recipe_of(tmp_path, ask={"extra": {"tools": tools}}, teachers=teachers))

    asyncio.run(ask())
    student = tmp_path / "student"
    printed = run(
        trl_python, SCRIPTS / "example_sft.py", tmp_path / "out", "--steps", "3", "--output", student,
        env={"HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert "16 records, 8 of them with tool calls; student saved" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "form"), [("sft", "trl-sft"), ("sft", "messages-jsonl"), ("dpo", "trl-dpo")])
def test_trl_trains_on_exports(trl_python: str, tmp_path: Path, trainer: str, form: str) -> None:
    """SFTTrainer and DPOTrainer take the files as `datasets` loads them."""
    settings = ("ask={samples: 4}", "teachers.0.simulator.accuracy=0.5")
    checked = "checks=[{contains: {column: answer}}]"
    asyncio.run(run_in_process(read("quickstart", (f"dataset.path={tmp_path}/ds", checked, *settings)), limit=10))
    file = tmp_path / "train.jsonl"
    done = CliRunner().invoke(main, ["export", f"{tmp_path}/ds", "--format", form, "--out", str(file)])
    assert done.exit_code == 0, done.output
    step = Path(__file__).parents[1] / "trl_step.py"
    printed = run(trl_python, step, trainer, file, tmp_path / "out", env={"HF_HOME": str(tmp_path / "hf")})
    assert f"trained on {len(file.read_bytes().splitlines())} rows" in printed


@pytest.mark.slow
def test_a_text_becomes_preferences_in_a_chain(trl_python: str, tmp_path: Path) -> None:
    """Questions made of a text, drafts, judged revisions of these: three recipes, and DPOTrainer takes the pairs."""
    (tmp_path / "still.txt").write_text("The still has a copper pot.\n\nIts neck is long, and cools the spirit.")
    init = ["init", str(tmp_path / "still.txt"), "--template", "questions"]
    init += ["--out", str(tmp_path / "questions.yaml"), "--dataset", str(tmp_path / "questions")]
    assert CliRunner().invoke(main, init).exit_code == 0
    asyncio.run(run_in_process(read(str(tmp_path / "questions.yaml"), ("ask.samples=3",))))
    question = "{{ (completion[0].content | fromjson).question }}"
    revised = "{{ prompt[0].content }}\nImprove this answer: {{ completion[0].content }}"
    judge = {"judge": {"teacher": "judge", "template": "How good is it, 1 to 5?\n{{ prompt }}", "accept_if": ">= 3"}}
    _answer(tmp_path, "drafts", source="questions", template=question)
    _answer(tmp_path, "revisions", source="drafts", template=revised, samples=8, checks=[judge])
    file = tmp_path / "pairs.jsonl"
    export = ["export", str(tmp_path / "revisions"), "--format", "trl-dpo", "--out", str(file)]
    assert CliRunner().invoke(main, export).exit_code == 0
    step = Path(__file__).parents[1] / "trl_step.py"
    printed = run(trl_python, step, "dpo", file, tmp_path / "out", env={"HF_HOME": str(tmp_path / "hf")})
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    assert f"trained on {len(pairs)} rows" in printed
    made = (json.loads(row["completion"][0]["content"])["question"] for row in _records(tmp_path / "questions"))
    assert {row["prompt"][0]["content"].split("\n")[0] for row in pairs} <= set(made)


def _answer(root: Path, name: str, *, source: str, template: str, samples: int = 1, **more: Any) -> None:
    """Ask a built-in teacher about each record of another dataset."""
    simulated = {"api": "simulator"}
    document = {
        "name": name,
        "source": {"path": str(root / source), "id": "record_id"},
        "ask": {"template": template, "samples": samples},
        "teachers": [simulated | {"name": "sim"}],
        "dataset": {"path": str(root / name)},
    }
    if more:
        document["teachers"] = [simulated | {"name": "sim"}, simulated | {"name": "judge", "role": "judge"}]
    asyncio.run(run_in_process(Recipe.model_validate(document | more)))


def _records(dataset: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pads.dataset(dataset / "data").to_table().to_pylist()
    return found


@pytest.mark.slow
def test_trl_takes_embedded_images(trl_python: str, tmp_path: Path) -> None:
    """Its collator for vision models collates the records as they are."""
    if subprocess.run([trl_python, "-c", "import PIL"], capture_output=True).returncode != 0:
        pytest.skip(f"{trl_python} has no pillow beside TRL")
    images = [{"bytes": picture(number, kind="jpeg", size=(40, 30)), "path": None} for number in range(6)]
    write_images(tmp_path / "source" / "a.parquet", images)
    changes: dict[str, Any] = {"source": {"images": ["image"]}, "dataset": {"images": "embed"}}
    asyncio.run(run_in_process(recipe_of(tmp_path, teachers=[SIMULATED], **changes)))
    script = Path(__file__).parents[1] / "trl_collator.py"
    printed = run(trl_python, script, tmp_path / "out", env={"HF_HOME": str(tmp_path / "hf")})
    assert printed.strip() == "6 records, pixels (6, 3, 28, 28), all learned: True"


@pytest.mark.slow
def test_example_soft_labels(trl_python: str, dataset: Path, tmp_path: Path) -> None:
    """A student comes closer to the teacher's distributions; every answered token is counted, few have no label."""
    student = tmp_path / "student"
    script = SCRIPTS / "example_soft_labels.py"
    printed = run(trl_python, script, dataset, "--output", student, env={"HF_HOME": str(tmp_path / "hf")})
    losses = [float(loss) for loss in re.findall(r"^step \d+: KL ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 12
    assert losses[-1] < 0.9 * losses[0]
    assert (student / "model.safetensors").exists()
    counted = re.search(r"^alternatives left out (\d+), labels (\d+), tokens (\d+)$", printed, re.MULTILINE)
    assert counted is not None, printed
    left_out, labels, tokens = map(int, counted.groups())
    said = duckdb.execute(f"select len(token_logprobs) from '{dataset}/data/*.parquet' limit 96").fetchall()
    assert tokens == sum(count for (count,) in said)
    assert (
        0 < left_out == tokens - labels < tokens / 2
    )  # the simulator's other tokens are few, and the student has them


def test_example_soft_labels_says_what_to_install(dataset: Path) -> None:
    """Without torch it says so in one line and exits with 2."""
    # -S: nothing is installed
    command: list[str | Path] = [sys.executable, "-S", SCRIPTS / "example_soft_labels.py", dataset]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"found no \w+; install it: pip install torch transformers datasets\n", done.stderr)


@pytest.mark.slow
def test_example_stream(dataset: Path, on_s3: Callable[[Path], str], cluster: dict[str, str], tmp_path: Path) -> None:
    """Both readers see every record in S3; Ray Data says in what kind of batches."""
    command: list[str | Path] = [sys.executable, SCRIPTS / "example_stream.py", on_s3(dataset)]
    printed = run(*command, env=cluster | {"HF_HOME": str(tmp_path)})
    assert printed.startswith("first record: q0001, 'Let us ")
    assert "\ndatasets: 100 rows\n" in printed
    assert re.search(r"^ray data: 100 rows in 4 (NumPy|torch) batches", printed, re.MULTILINE)


@pytest.mark.slow
def test_example_stream_gives_tensors(trl_python: str, dataset: Path, cluster: dict[str, str], tmp_path: Path) -> None:
    """From a disk, with torch next to Ray: the batches are padded tensors as wide as the longest answer in bytes."""
    if subprocess.run([trl_python, "-c", "import ray, torch"], capture_output=True).returncode != 0:
        pytest.skip(f"{trl_python} has no ray beside torch; install ray[data] there, or torch here")
    printed = run(trl_python, SCRIPTS / "example_stream.py", dataset, env=cluster | {"HF_HOME": str(tmp_path)})
    answers = duckdb.execute(f"select completion[1].content from '{dataset}/data/*.parquet' limit 32").fetchall()
    widest = max(len(answer.encode()) for (answer,) in answers)
    assert f"\nray data: 100 rows in 4 torch batches, the first (32, {widest})\n" in printed


@pytest.mark.parametrize("place", ["local", "s3"])
async def test_example_sql(place: str, on_s3: Callable[[Path], str], tmp_path: Path) -> None:
    """Records by teacher, nothing twice, and Failures with what a retry made of them, from a disk and from S3."""
    write_source(tmp_path, [*questions(30), "no JSON"])
    refusing = {"faults": [{"kind": "status", "status": 400, "share": 0.3}]}
    recipe = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "simulator": refusing}])
    first = await run_in_process(recipe)
    mended = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "simulator": {"first_serial": 1000}}])
    done = await run_in_process(mended, retry=["bad_request"])
    dataset = on_s3(tmp_path / "out") if place == "s3" else str(tmp_path / "out")
    printed = run(sys.executable, SCRIPTS / "example_sql.py", dataset)
    cells = [tuple(line.strip("│").replace(" ", "").split("│")) for line in printed.splitlines()]
    refused = first.failed
    assert refused
    assert ("sim", "stop", "30", str(done.input_tokens), str(done.output_tokens)) in cells
    assert ("0", "0") in cells
    assert ("bad_request", str(refused), str(refused)) in cells
    assert ("bad_row", "1", "0") in cells
