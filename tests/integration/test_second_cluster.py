"""What `cluster/deploy/README.md` says of a lost head and a second cluster: real Ray clusters, a real S3 server."""

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
from pyarrow.fs import FileSystem
from ray_head import RayHead, ray_head, wait_until
from s3_server import S3Server

from gen import simulator
from schemas.simulator import SimulatorSettings

pytestmark = pytest.mark.slow

ROWS = 200
IN_FLIGHT = 16
STILLHOUSE = [sys.executable, "-m", "cluster.cli"]


@pytest.fixture
def recipe(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """200 prompts in chunks of 20 for a teacher that outlives any cluster; some 30 s of work."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    monkeypatch.setenv("T_KEY", "x")
    write_source(tmp_path, questions(ROWS))
    with simulator.start(SimulatorSettings(latency_s=2.5, log=str(tmp_path / "requests.jsonl"))) as teacher:
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
        yield path


def asked(folder: Path) -> int:
    """Requests that the teacher answered so far."""
    log = folder / "requests.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def sealed(s3: S3Server) -> int:
    """Shards that are there."""
    return len(list((s3.data / s3.bucket / "twice" / "data").glob("*.parquet")))


def holder(s3: S3Server) -> int:
    """The process that the dataset's run.json names."""
    return int(json.loads((s3.data / s3.bucket / "twice" / "_stillhouse" / "run.json").read_bytes())["pid"])


@contextmanager
def running(recipe: Path, head: RayHead) -> Iterator["subprocess.Popen[str]"]:
    """`run` on that cluster, in a process group of its own, as a driver on its head is."""
    command = [*STILLHOUSE, "run", str(recipe), "--json", "--address", head.gcs]
    with subprocess.Popen(
        command, env=head.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        try:
            yield driver
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)


def run_to_end(recipe: Path, head: RayHead) -> dict[str, Any]:
    """The Summary of a run that is done, and what it said."""
    with running(recipe, head) as driver:
        out, said = driver.communicate(timeout=200)
    assert driver.returncode == 0, said
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    return summary | {"said": said}


def check_whole(s3: S3Server) -> None:
    """Every prompt has one record, and `verify` finds nothing."""
    fs, path = FileSystem.from_uri(f"{s3.url}/twice/data")
    ids = pyarrow.dataset.dataset(path, filesystem=fs).to_table(columns=["prompt_id"]).column(0).to_pylist()
    assert len(ids) == len(set(ids)) == ROWS
    done = subprocess.run([*STILLHOUSE, "verify", f"{s3.url}/twice"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_cluster_goes_on_where_a_lost_head_ended(recipe: Path, s3: S3Server, tmp_path: Path) -> None:
    """Head, driver, queue and workers are killed at once; what was under way then is all that is asked again."""
    with ray_head(token=None) as first, running(recipe, first) as driver:
        wait_until(lambda: sealed(s3) >= 3, what="three shards are sealed", within_s=100)
        os.killpg(driver.pid, signal.SIGKILL)
    before = asked(tmp_path)
    with ray_head(token=None) as second:
        summary = run_to_end(recipe, second)
    assert (summary["state"], summary["records"]) == ("done", ROWS)
    assert 0 < summary["requests"] < ROWS
    assert ROWS <= asked(tmp_path) <= ROWS + 2 * IN_FLIGHT, before
    check_whole(s3)


def test_a_second_cluster_takes_over_from_a_silent_one(recipe: Path, s3: S3Server, tmp_path: Path) -> None:
    """The second waits for a run that may be alive, then goes on; the first, back again, stops; no answer is twice."""
    with ray_head(token=None) as first, ray_head(token=None) as second, running(recipe, first) as old:
        wait_until(lambda: sealed(s3) >= 2, what="two shards are sealed", within_s=100)
        os.kill(old.pid, signal.SIGSTOP)  # silent, as a driver is that a partition cut off
        with running(recipe, second) as new:
            assert new.stderr is not None
            assert any("another run works on" in line for line in new.stderr)
            wait_until(lambda: holder(s3) == new.pid, what="the second run takes over", within_s=60)
            os.kill(old.pid, signal.SIGCONT)
            _, said = old.communicate(timeout=100)
            assert old.returncode == 3, said
            out, said = new.communicate(timeout=200)
            assert new.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["records"] == ROWS
    check_whole(s3)
