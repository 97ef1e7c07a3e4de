"""One command with all of its descendants: its cost is reported once all of them have ended.

`measured` does it in a process of its own, a child subreaper, so that daemons a command leaves behind (Ray's) are its
children in the end: they are counted and ended, and nothing else is.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

POLL_S = 0.2
LINGER_S = 5.0
"""How long what a command leaves behind has to end by itself."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
TICKS = os.sysconf("SC_CLK_TCK")


class TreeCost(BaseModel):
    """What a command and its descendants used."""

    model_config = ConfigDict(frozen=True)

    exit_code: int | None
    """Exit code; None if it ran out of time."""
    wall_s: float
    """Until the command itself ended."""
    cpu_s: float
    """User and system, of all processes."""
    peaks_mb: dict[str, list[float]]
    """Peak resident memory of every process, by its title."""


def measured(command: Sequence[str], *, env: Mapping[str, str], log: Path, timeout_s: float) -> TreeCost:
    """Run the command to its end, its output into `log`."""
    with log.open("wb") as output:
        helper = subprocess.Popen(
            [sys.executable, "-m", "benchmark.process_tree", str(timeout_s), *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
        )
        try:
            told, _ = helper.communicate()
        finally:
            helper.terminate()
            helper.wait()  # it ends the tree first
    return TreeCost.model_validate_json(told)


class _Tree:
    """The descendants of this process, living and dead."""

    def __init__(self) -> None:
        self._cpu_ticks: dict[int, int] = {}
        self._peaks_mb: dict[int, float] = {}
        self._titles: dict[int, str] = {}
        self.exits: dict[int, int] = {}

    def look(self) -> list[int]:
        """Note what every living descendant has used so far; their ids."""
        living = descendants()
        for pid, ticks in living.items():
            self._cpu_ticks[pid] = max(ticks, self._cpu_ticks.get(pid, 0))
            with contextlib.suppress(OSError):
                self._note_memory(pid)
        return list(living)

    def _note_memory(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        _, found, rest = status.partition("VmHWM:")
        if found:
            self._peaks_mb[pid] = int(rest.split(None, 1)[0]) / 1024
            self._titles[pid] = _title(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))

    def reap(self) -> None:
        """Collect all that ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.exits[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def end(self) -> None:
        """Wait until nothing is left; kill what doesn't end by itself."""
        patience_until = time.monotonic() + LINGER_S
        while living := self.look():
            if time.monotonic() > patience_until:
                for pid in living:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            self.reap()

    @property
    def cpu_s(self) -> float:
        """CPU of the dead, whichever way knows more of it.

        The kernel's sum lacks processes whose parent ignores their death, as Ray's raylet does; the sum of what was
        seen lacks the last moment of each.
        """
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return max(used.ru_utime + used.ru_stime, sum(self._cpu_ticks.values()) / TICKS)

    @property
    def peaks_mb(self) -> dict[str, list[float]]:
        """As in TreeCost."""
        peaks: dict[str, list[float]] = {}
        for pid, title in self._titles.items():
            peaks.setdefault(title, []).append(round(self._peaks_mb[pid], 1))
        return peaks


def _title(cmdline: str) -> str:
    """A program by its name alone, a Python by what it runs."""
    names = [word.rpartition("/")[2] for word in cmdline.replace("\0", " ").split() if not word.startswith("-")]
    return next((name for name in names if not name.startswith("python")), "")


def descendants() -> dict[int, int]:
    """(process id: CPU ticks) of all that descends from this process; those that wait to be reaped are not living."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
                if state != "Z":
                    ticks[int(entry.name)] = int(rest[9]) + int(rest[10])
                children.setdefault(int(parent), []).append(int(entry.name))
    found, todo = {}, list(children.get(os.getpid(), []))
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        if pid in ticks:
            found[pid] = ticks[pid]
    return found


def _run(command: Sequence[str], *, timeout_s: float) -> TreeCost:
    tree, start = _Tree(), time.monotonic()
    pid = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr).pid
    ended = os.pidfd_open(pid)
    try:
        while pid not in tree.exits and time.monotonic() - start < timeout_s:
            select.select([ended], [], [], POLL_S)
            wall_s = time.monotonic() - start
            tree.look()
            tree.reap()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        in_time = pid in tree.exits
        tree.end()
    exit_code = tree.exits[pid] if in_time else None
    return TreeCost(exit_code=exit_code, wall_s=wall_s, cpu_s=tree.cpu_s, peaks_mb=tree.peaks_mb)


def main() -> None:
    """The process of its own: TIMEOUT_S COMMAND …; prints the cost as JSON."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    print(_run(sys.argv[2:], timeout_s=float(sys.argv[1])).model_dump_json())


if __name__ == "__main__":
    main()
