"""The wheel as a release makes it, environments to install it into, and a folder that is hard on imports."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
NAMES_OF_OURS = ("schemas/__init__.py", "gen/__init__.py", "cluster.py")
"""What users call their own modules, as we call our folders."""


def build_wheel(folder: Path) -> Path:
    """Build the sdist from this checkout, and from the sdist the wheel."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path) -> Path:
    """The interpreter of a new environment in the folder, in which nothing is installed."""
    venv.create(folder, with_pip=_uv() is None)
    return folder / "bin" / "python"


def install(python: Path, *wanted: str | Path) -> "subprocess.CompletedProcess[str]":
    """Install these into its environment, by uv where there is one; as it ended."""
    uv = _uv()
    command: list[str | Path] = [python, "-m", "pip", "install"]
    if uv:
        command = [uv, "pip", "install", "--compile-bytecode", "--python", python]
    return subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=800)


def _uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


def make_hostile(folder: Path, *more: str) -> Path:
    """The folder with modules of our folders' names, and `more`, all of which raise when they are imported."""
    for name in (*NAMES_OF_OURS, *more):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('{name} of the working directory was imported')\n")
    return folder
