"""Installed from a wheel or as an editable checkout, a run is not misled by what the user's folder holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from installs import LOCK, build_wheel, install, make_environment, make_hostile


def run_quickstart(stillhouse: Path, *, cwd: Path) -> None:
    """A pilot of the quickstart, by the console command, is done."""
    command = [stillhouse, "run", "quickstart", "--limit", "50", "--json", "-o", f"dataset.path={cwd}/ds"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["records"], end["requests"]) == (100, 100)


def test_an_editable_install_runs_in_a_hostile_folder(tmp_path: Path) -> None:
    """Driver, simulator and Ray's workers each import ours, and the standard library's `queue`."""
    run_quickstart(Path(sys.executable).with_name("stillhouse"), cwd=make_hostile(tmp_path, "queue.py"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_runs_in_a_hostile_folder(tmp_path: Path) -> None:
    """In an environment that holds nothing but the wheel from the sdist, and what it needs."""
    python = make_environment(tmp_path / "environment")
    done = install(python, build_wheel(tmp_path / "dist"), "--constraint", LOCK)
    assert done.returncode == 0, done.stderr
    run_quickstart(python.with_name("stillhouse"), cwd=make_hostile(tmp_path / "hostile", "queue.py"))
