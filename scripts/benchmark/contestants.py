"""The programs that are measured, each set up to do the same work: the same prompts, parameters, server and cores."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.schemas.limits import Limits


@dataclass(frozen=True, slots=True)
class Job:
    """One contestant's work."""

    prompts: Path
    """JSONL of {"id", "prompt"}."""
    url: str
    """The server's base URL."""
    folder: Path
    """An empty folder for what it writes."""
    told: Limits
    """The account's limits, as Stillhouse is given them."""
    max_tokens: int
    in_flight: int
    """How many requests at once the bare scripts send; they respect nothing else."""

    @property
    def started(self) -> Path:
        """Where a command that first starts something else writes the server's uptime at the real start, in seconds."""
        return self.folder / "started"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command, the process whose memory is reported, and where its records are."""

    title: str
    command: Callable[[Job], list[str]]
    worker: str
    """How the title of its worker processes begins."""
    records: str
    """Glob of its Parquet files in the job's folder."""


def recipe_of(job: Job, prompts: Path, *, name: str, workers: int, judged: bool = False) -> Path:
    """A recipe over these prompts into the job's folder; a judge may score each answer, and accepts it."""
    told = job.told.model_dump(exclude_none=True)
    teacher = {"name": "t", "api": "openai-chat", "base_url": job.url, "model": "m", "limits": told}
    teacher |= {"terms": {"training_use": "permitted"}}
    recipe: dict[str, Any] = {
        "name": name,
        "source": {"path": str(prompts), "prompt": "prompt", "id": "id"},
        "ask": {"temperature": 0.7, "max_tokens": job.max_tokens},
        "teachers": [teacher],
        "dataset": {"path": str(job.folder / name)},
        "run": {"workers": workers},
    }
    if judged:
        recipe["teachers"].append(teacher | {"name": "judge", "account": "judge", "role": "judge"})
        judge = {"teacher": "judge", "template": "How good is the answer, 1 to 5?\n{{ prompt }}", "accept_if": ">= 1"}
        recipe["checks"] = [{"judge": judge}]
    path = job.folder / f"{name}.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def _stillhouse(workers: int, *, judged: bool = False) -> Contestant:
    def command(job: Job) -> list[str]:
        recipe = recipe_of(job, job.prompts, name="dataset", workers=workers, judged=judged)
        return [str(Path(sys.executable).with_name("stillhouse")), "run", str(recipe), "--quiet", "--json"]

    title = "stillhouse" + f", {workers} workers" * (workers > 1) + ", judged" * judged
    return Contestant(title, command, "ray::TeacherWorker", "dataset/data/*.parquet")


def _stillhouse_on_a_cluster(jobs: int, workers: int) -> Contestant:
    """Jobs at the same time on one running cluster, each with its part of the prompts."""

    def command(job: Job) -> list[str]:
        lines = job.prompts.read_text().splitlines(keepends=True)
        recipes = []
        for number in range(jobs):
            part = job.folder / f"prompts-{number}.jsonl"
            part.write_text("".join(lines[number::jobs]))
            recipes.append(str(recipe_of(job, part, name=f"dataset-{number}", workers=workers)))
        return [sys.executable, "-m", "benchmark.jobs", str(job.started), job.url, *recipes]

    title = f"stillhouse, {jobs} jobs of {workers} workers"
    return Contestant(title, command, "ray::TeacherWorker", "dataset-*/data/*.parquet")


def _bare(title: str, module: str) -> Contestant:
    def command(job: Job) -> list[str]:
        script = [sys.executable, "-m", module, "--prompts", str(job.prompts), "--url", job.url]
        return [*script, "--out", str(job.folder / "records.parquet"), "--in-flight", str(job.in_flight)]

    return Contestant(title, command, module, "records.parquet")


STILLHOUSE = _stillhouse(1)
STILLHOUSE_2 = _stillhouse(2)
STILLHOUSE_4 = _stillhouse(4)
JUDGED = _stillhouse(1, judged=True)
CLUSTER_4 = _stillhouse_on_a_cluster(2, 2)
HTTPX = _bare("bare httpx + httpx-aiohttp", "benchmark.bare_httpx")
AIOHTTP = _bare("bare aiohttp", "benchmark.bare_aiohttp")
ALL = (STILLHOUSE, HTTPX, AIOHTTP)


def prompts_recorded(contestant: Contestant, job: Job) -> tuple[int, int]:
    """(rows, different prompts) in what it wrote."""
    rows, ids = 0, set[str]()
    for path in job.folder.glob(contestant.records):
        column = pq.read_table(path, columns=["prompt_id"])["prompt_id"]
        rows += len(column)
        ids.update(pc.unique(column).to_pylist())
    return rows, len(ids)
