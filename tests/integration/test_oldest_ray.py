"""The oldest Ray that the package says it takes, for clusters renew theirs seldom: a whole run on it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from installs import ROOT, install, make_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def oldest_ray() -> str:
    """The version that pyproject.toml names as the least."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (found,) = [match[1] for need in needs if (match := re.match(r"ray\[default\]>=([\d.]+)$", need))]
    return str(found)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with this package and that Ray."""
    python = make_environment(tmp_path_factory.mktemp("oldest"))
    done = install(python, f"ray[default]=={oldest_ray()}.*", "setuptools<81", "--editable", f"{ROOT}[checks]")
    if done.returncode:
        pytest.skip(f"that Ray can't be installed here: {done.stderr[-500:]}")
    return python


def test_the_oldest_supported_ray_completes_a_run(python: Path, tmp_path: Path) -> None:
    """Every part of it that Ray has changed since then is met in the first second of a run."""
    command: list[str | Path] = [python, "-m", "stillhouse.cluster.cli", "run", "quickstart", "--limit", "50", "--json"]
    done = subprocess.run(
        [*command, "-o", f"dataset.path={tmp_path}/ds"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["records"] >= 45
