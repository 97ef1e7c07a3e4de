"""Waits for events in other processes and threads."""

import subprocess
import time
from collections.abc import Callable

POLL_S = 0.05


def wait_until(
    holds: Callable[[], bool], *, what: str, within_s: float, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Poll until it holds; fails after `within_s`, or when the process that should bring it about has ended."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert process is None or process.poll() is None, f"the process ended with {process.returncode} before: {what}"
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(POLL_S)
