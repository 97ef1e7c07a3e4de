"""Which processes belong to which, according to /proc."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def below(root: int) -> dict[int, bytes]:
    """The command lines of all descendants of a process, by pid."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[pid] = (entry / "cmdline").read_bytes()
    found: dict[int, bytes] = {}
    for pid, title in titles.items():
        ancestor = pid
        while ancestor > 1 and ancestor != root:
            ancestor = parents.get(ancestor, 0)
        if ancestor == root and pid != root:
            found[pid] = title
    return found


def runs(pid: int) -> bool:
    """True if the process exists; one that has ended but was not waited for does not count."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_all(root: int) -> None:
    """Kill a process and all its descendants, as a lost machine does."""
    for pid in [root, *below(root)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
