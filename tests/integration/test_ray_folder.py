"""The folder in which a Ray that `run` starts keeps its files: if it is unusable, the message says what to do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CAPABILITIES = "-dac_override,-dac_read_search,-fowner"
"""By these root may write where others may not."""


def refused(folder: Path, *, variable: str = "RAY_TMPDIR", before: Sequence[str] = ()) -> str:
    """What `run` ends with where the variable names this folder, exit code 2; `before` starts the command."""
    command = [*before, sys.executable, "-m", "stillhouse.cluster.cli", "run", "quickstart", "--limit", "3"]
    command += ["-o", f"dataset.path={folder.parent / 'ds'}"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"} | {variable: str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_34_a_folder_of_another_user_is_reported(tmp_path: Path) -> None:
    """Case 34-tmp-ray: as /tmp/ray is where another user's Ray made it first."""
    theirs = tmp_path / "ray"
    theirs.mkdir()
    before: list[str] = []
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to be refused anything")
        os.chown(theirs, 65534, 65534)
        before = ["setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}"]
    theirs.chmod(0o555)
    line = refused(tmp_path, before=before)
    assert "Permission denied" in line
    assert f"keeps its files in {theirs}: set RAY_TMPDIR to" in line


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_path_too_long_for_sockets_is_reported(tmp_path: Path, variable: str) -> None:
    """Case 33-tmpdir; the message gives the system's limit."""
    folder = tmp_path / ("a" * 90)
    folder.mkdir()
    line = refused(folder, variable=variable)
    assert "cannot exceed 107 bytes" in line
    assert "set RAY_TMPDIR to a folder with a short path" in line


def test_a_full_disk_is_reported_before_ray_starts(tmp_path: Path) -> None:
    """On a full disk, Ray's processes die one after the other without a reason."""
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=100k none "$0" && exec "$@"', str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs root to mount a small disk")
    line = refused(tmp_path, before=mount)
    assert f"the disk of {tmp_path / 'ray'}, where it keeps its files, is full" in line
    assert "set RAY_TMPDIR" in line
