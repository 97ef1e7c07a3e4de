"""What `cluster/deploy/README.md` promises about a lost head and a second cluster: each run has its own Ray, and all
share one S3.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
import yaml
from builders import questions, write_source
from processes import kill_all
from pyarrow.fs import FileSystem
from s3_server import S3Server
from waiting import wait_until

from stillhouse.gen import simulator
from stillhouse.gen.simulator.process import SimulatorProcess
from stillhouse.schemas.simulator import SimulatorSettings

pytestmark = pytest.mark.slow

ROWS = 200
IN_FLIGHT = 16
STILLHOUSE = [sys.executable, "-m", "stillhouse.cluster.cli"]


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """One that outlives any cluster."""
    with simulator.start(SimulatorSettings(latency_s=2.0, log=str(tmp_path / "requests.jsonl"))) as process:
        yield process


@pytest.fixture
def recipe(tmp_path: Path, teacher: SimulatorProcess, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200 prompts in chunks of 20; some 25 s of work."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    monkeypatch.setenv("T_KEY", "x")
    write_source(tmp_path, questions(ROWS))
    document = {
        "name": "twice",
        "source": {"path": str(tmp_path / "source"), "prompt": "question", "id": "id"},
        "teachers": [
            {
                "name": "t",
                "api": "openai-chat",
                "base_url": teacher.url,
                "model": "m",
                "api_key": "env:T_KEY",
                "limits": {"in_flight": IN_FLIGHT},
                "terms": {"license": "MIT", "training_use": "permitted", "url": "https://example.org/terms"},
            }
        ],
        "dataset": {"path": f"{s3.url}/twice", "prompts_per_shard": 20},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def asked(folder: Path) -> int:
    """Requests that the teacher answered so far."""
    log = folder / "requests.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def sealed(s3: S3Server) -> int:
    """The shards that exist."""
    return len(list((s3.data / s3.bucket / "twice" / "data").glob("*.parquet")))


def holder(s3: S3Server) -> int | None:
    """The process that the dataset's run.json names; None while the server puts another in its place."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return int(json.loads((s3.data / s3.bucket / "twice" / "_stillhouse" / "run.json").read_bytes())["pid"])
    return None


@contextmanager
def running(recipe: Path) -> Iterator["subprocess.Popen[str]"]:
    """`run` with its own Ray, all of which is killed at the end."""
    command = [*STILLHOUSE, "run", str(recipe), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        try:
            yield driver
        finally:
            kill_all(driver.pid)


def end_of(driver: "subprocess.Popen[str]", *, code: int) -> dict[str, Any]:
    """What its last line says; checks its exit code."""
    out, said = driver.communicate(timeout=200)
    assert driver.returncode == code, said
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    return summary


def check_whole(s3: S3Server) -> None:
    """Every prompt has one record, and `verify` finds nothing."""
    fs, path = FileSystem.from_uri(f"{s3.url}/twice/data")
    ids = pyarrow.dataset.dataset(path, filesystem=fs).to_table(columns=["prompt_id"]).column(0).to_pylist()
    assert len(ids) == len(set(ids)) == ROWS
    done = subprocess.run([*STILLHOUSE, "verify", f"{s3.url}/twice"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_cluster_resumes_where_a_lost_head_stopped(recipe: Path, s3: S3Server, tmp_path: Path) -> None:
    """Head, driver, queue and workers are killed at once; only requests in flight then are repeated."""
    with running(recipe) as driver:
        wait_until(lambda: sealed(s3) >= 3, what="three shards are sealed", within_s=200)
    with running(recipe) as driver:
        summary = end_of(driver, code=0)
    assert (summary["state"], summary["records"]) == ("done", ROWS)
    assert 0 < summary["requests"] < ROWS
    assert ROWS <= asked(tmp_path) <= ROWS + 2 * IN_FLIGHT
    check_whole(s3)


def test_a_second_cluster_takes_over_from_a_silent_one(recipe: Path, teacher: SimulatorProcess, s3: S3Server) -> None:
    """The second waits while the first may be alive, then resumes; the first stops when it is back; no duplicates."""
    with running(recipe) as old:
        wait_until(lambda: sealed(s3) >= 2, what="two shards are sealed", within_s=200)
        os.kill(teacher.pid, signal.SIGSTOP)  # so that work is left, however long the second takes to start
        os.kill(old.pid, signal.SIGSTOP)  # silent, as a driver is that a partition cut off
        with running(recipe) as new:
            assert new.stderr is not None
            assert any("another run is working on" in line for line in new.stderr)
            wait_until(lambda: holder(s3) == new.pid, what="the second run takes over", within_s=100)
            os.kill(teacher.pid, signal.SIGCONT)
            os.kill(old.pid, signal.SIGCONT)
            end_of(old, code=3)
            assert end_of(new, code=0)["records"] == ROWS
    check_whole(s3)
