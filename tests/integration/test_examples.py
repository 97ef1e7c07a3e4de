"""The example scripts run as a user runs them, on a dataset that the command line made."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's first 50 prompts, twice each: 100 records."""
    out = tmp_path_factory.mktemp("examples") / "ds"
    run(sys.executable, "-m", "cluster.cli", "run", "quickstart", "--limit", "50", "-o", f"dataset.path={out}")
    return out


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """The command's standard output; checks that it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | (env or {}))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_read(dataset: Path, tmp_path: Path) -> None:
    """Four readers print the same count."""
    printed = run(sys.executable, SCRIPTS / "example_read.py", dataset, env={"HF_HOME": str(tmp_path)})
    assert printed.splitlines() == ["datasets: 100", "duckdb: 100", "polars: 100", "ray data: 100"]


@pytest.fixture
def trl_python() -> str:
    """An interpreter with torch and TRL, which this project's own environment does not install; or skip."""
    python = os.environ.get("STILLHOUSE_TRL_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch, trl"], capture_output=True).returncode != 0:
        pytest.skip(f"{python} has no torch and trl; set STILLHOUSE_TRL_PYTHON to an interpreter that has them")
    return python


def test_example_sft(trl_python: str, dataset: Path, tmp_path: Path) -> None:
    """TRL trains on the records as they are: the loss falls, and the student is saved."""
    student = tmp_path / "student"
    script = SCRIPTS / "example_sft.py"
    printed = run(trl_python, script, dataset, "--output", student, env={"HF_HOME": str(tmp_path / "hf")})
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert (student / "model.safetensors").exists()
