"""Who is measured, and how each is told to do the same work: the same prompts, parameters, server and cores."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.teacher import Limits


@dataclass(frozen=True, slots=True)
class Job:
    """One contestant's work."""

    prompts: Path
    """JSONL of {"id", "prompt"}."""
    url: str
    """The server's base URL."""
    folder: Path
    """An empty folder for what it writes."""
    limits: Limits
    """What it is told of the account; the bare scripts heed `in_flight` alone."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command, the process whose memory is told, and where its records are."""

    title: str
    command: Callable[[Job], list[str]]
    worker: str
    """How the title of its worker processes begins."""
    records: str
    """Glob of its Parquet files in the job's folder."""


def _stillhouse(workers: int) -> Contestant:
    def command(job: Job) -> list[str]:
        terms = {"training_use": "permitted"}
        limits = job.limits.model_dump(exclude_none=True)
        teacher = {
            "name": "t",
            "api": "openai-chat",
            "base_url": job.url,
            "model": "m",
            "terms": terms,
            "limits": limits,
        }
        recipe = {
            "name": "bench",
            "source": {"path": str(job.prompts), "prompt": "prompt", "id": "id"},
            "ask": {"temperature": 0.7, "max_tokens": 512},
            "teachers": [teacher],
            "dataset": {"path": str(job.folder / "dataset")},
            "run": {"workers": workers},
        }
        path = job.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        return [str(Path(sys.executable).with_name("stillhouse")), "run", str(path), "--quiet", "--json"]

    title = "stillhouse" if workers == 1 else f"stillhouse, {workers} workers"
    return Contestant(title, command, "ray::TeacherWorker", "dataset/data/*.parquet")


def _bare(title: str, module: str) -> Contestant:
    def command(job: Job) -> list[str]:
        script = [sys.executable, "-m", module, "--prompts", str(job.prompts), "--url", job.url]
        return [*script, "--out", str(job.folder / "records.parquet"), "--in-flight", str(job.limits.in_flight)]

    return Contestant(title, command, module, "records.parquet")


STILLHOUSE = _stillhouse(1)
STILLHOUSE_2 = _stillhouse(2)
STILLHOUSE_4 = _stillhouse(4)
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
