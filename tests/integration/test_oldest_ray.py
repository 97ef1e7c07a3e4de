"""The oldest Ray that the package says it takes, for clusters renew theirs seldom: a whole run on it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def oldest_ray() -> str:
    """The version that pyproject.toml names as the least."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (found,) = [match[1] for need in needs if (match := re.match(r"ray\[default\]>=([\d.]+)$", need))]
    return str(found)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with this package and that Ray."""
    folder = tmp_path_factory.mktemp("oldest")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    venv.create(folder, with_pip=uv is None)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    wanted = [f"ray[default]=={oldest_ray()}.*", "setuptools<81", "--editable", ROOT]
    done = subprocess.run([*install, *wanted], capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"that Ray can't be installed here: {done.stderr[-500:]}")
    return python


def test_the_oldest_ray_runs_it(python: Path, tmp_path: Path) -> None:
    """Every part of it that Ray has changed since then is met in the first second of a run."""
    command = [python, "-m", "stillhouse.cluster.cli", "run", "quickstart", "--limit", "50", "--json"]
    done = subprocess.run(
        [*command, "-o", f"dataset.path={tmp_path}/ds"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 100
