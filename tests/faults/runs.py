"""Runs as processes of their own, which end with the test that started them.

A run that a failed test leaves behind would keep asking, sooner or later at a port that is another test's teacher's by
then.
"""

import subprocess
import sys
from pathlib import Path

from processes import kill_all

_started: "list[subprocess.Popen[str]]" = []


def start_run(recipe: Path, *, in_one_process: bool = False) -> "subprocess.Popen[str]":
    """Start `stillhouse run --json` in a separate session; its errors are appended to a file beside the recipe."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli", "run", str(recipe), "--json"]
    if in_one_process:
        command = [sys.executable, str(Path(__file__).with_name("one_process.py")), str(recipe)]
    with recipe.with_name("stderr.txt").open("a") as errors:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    _started.append(run)
    return run


def end_runs() -> None:
    """Kill the runs that have not ended, with all of their processes, and close what is left of their output."""
    while _started:
        if (run := _started.pop()).poll() is None:
            kill_all(run.pid)
        if run.stdout is not None:
            run.stdout.close()
