"""Installed from a wheel or as an editable checkout, a run is not misled by what the user's folder holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import questions, write_source
from installs import LOCK, build_wheel, install, make_environment, make_hostile
from ray_head import ray_head
from waiting import wait_until


def run_quickstart(stillhouse: Path, *, cwd: Path) -> None:
    """A pilot of the quickstart, by the console command, is done."""
    command: list[str | Path] = [
        stillhouse,
        "run",
        "quickstart",
        "--limit",
        "50",
        "--json",
        "-o",
        f"dataset.path={cwd}/ds",
    ]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["records"] >= 45
    assert end["requests"] == end["records"] + end["rejected"]


def test_an_editable_install_runs_in_a_hostile_folder(tmp_path: Path) -> None:
    """Driver, simulator and Ray's workers each import ours, and the standard library's `queue`."""
    run_quickstart(Path(sys.executable).with_name("stillhouse"), cwd=make_hostile(tmp_path, "queue.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console command in its own environment: the wheel from the sdist with the extra `checks`, nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    python = make_environment(folder / "environment")
    done = install(python, f"{build_wheel(folder / 'dist')}[checks]", "--constraint", LOCK)
    assert done.returncode == 0, done.stderr
    return python.with_name("stillhouse")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_runs_in_a_hostile_folder(installed: Path, tmp_path: Path) -> None:
    """Whatever in it has the names of our folders."""
    run_quickstart(installed, cwd=make_hostile(tmp_path, "queue.py"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_without_extras_runs_what_needs_none(tmp_path: Path) -> None:
    """From a file of prompts to records and a report: nothing that it imports comes with an extra alone."""
    python = make_environment(tmp_path / "environment")
    done = install(python, build_wheel(tmp_path / "dist"), "--constraint", LOCK)
    assert done.returncode == 0, done.stderr
    write_source(tmp_path, questions(20))
    for command in ("init source/a.jsonl", "plan recipe.yaml", "run recipe.yaml", "report recipe.yaml"):
        given: list[str | Path] = [python.with_name("stillhouse"), *command.split()]
        done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_is_submitted_without_pip(installed: Path, tmp_path: Path) -> None:
    """To a head in its own environment, as uv makes them; stopped and submitted again, it finishes and is sound."""
    python = installed.with_name("python")
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        pytest.skip("this environment was made without uv, so it has pip")
    with ray_head(python=python, token=None) as head:

        def stillhouse(*args: object) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [installed, *map(str, args)], cwd=tmp_path, env=head.env, capture_output=True, text=True, timeout=240
            )

        submit = ["submit", "quickstart", "--json", "-o", "dataset.path=ds", "--address", head.dashboard]
        slow = ["-o", "teachers.0.simulator.latency_s=2", "-o", "teachers.0.limits.in_flight=8"]
        with subprocess.Popen([installed, *submit, *slow], cwd=tmp_path, env=head.env, stderr=subprocess.PIPE) as first:
            journals = tmp_path / "ds" / "_stillhouse" / "journal"
            wait_until(lambda: any(journals.glob("*/*.journal")), what="it asks", within_s=200)
            stopped = stillhouse("stop", "ds", "--address", head.dashboard)
            assert stopped.returncode == 0, stopped.stderr
            said = first.communicate()[1].decode()
        assert first.returncode == 3, said
        assert "a Python without pip" in said
        again = stillhouse(*submit)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["records"] + json.loads(again.stdout)["short"] == 594
    verified = stillhouse("verify", "ds")
    assert verified.returncode == 0, verified.stdout
