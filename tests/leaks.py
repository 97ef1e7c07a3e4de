"""The six leaks of a sandbox, looked for from outside after each program.

Run as a script, this is the process that judges programs, one per line of its input. It is separate from the tests
because orphaned processes must come to it, and to nothing else.
"""

import ctypes
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
from processes import below
from waiting import wait_until

from stillhouse.gen.checks.base import Answer, CannotSay
from stillhouse.gen.checks.python import Python
from stillhouse.schemas.python_check import PythonCheck

MEMORY_MB = 256
_MAX_WRITTEN_BYTES = 2**20
_LOOKS_EVERY_S = 0.003
_PR_SET_CHILD_SUBREAPER = 36
_HONEST = "def add(a, b): return a + b"
_ADDS = "assert add(1, 2) == 3"


class Outside:
    """Everything around the sandbox: a home with a key, three servers, and the process that judges."""

    def __init__(self, root: Path) -> None:
        self.secret = f"sk-{secrets.token_hex(8)}"
        self.mark = f"left-{secrets.token_hex(8)}"
        self.home = root / "home"
        self.home.mkdir()
        self._key = self.home / "key"
        self._key.write_text(self.secret)
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        self._servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
        self._servers.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._servers[1].bind(f"\0{self.mark}")
        self._servers[1].listen()
        self._servers[2].bind(("127.0.0.1", 0))
        self.port, self.udp = (self._servers[place].getsockname()[1] for place in (0, 2))
        self._judging = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(self.scratch), "HOME": str(self.home), "SECRET_KEY": self.secret},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        assert self._judging.stdin is not None
        self._judging.stdin.close()
        self._judging.wait()
        assert self._judging.stdout is not None
        self._judging.stdout.close()
        for server in self._servers:
            server.close()

    def judged(self, program: str, **job: Any) -> tuple[str, dict[str, Any]]:
        """The detail of the verdict on a program, and what leaked, by the leak's name.

        The program finds `home`, `key` (a file there), `mark` (for the names of files), `port` and `udp` defined.
        """
        known = {"home": str(self.home), "key": str(self._key), "mark": self.mark, "port": self.port, "udp": self.udp}
        text = "".join(f"{name} = {value!r}\n" for name, value in known.items()) + program
        assert self._judging.stdin is not None
        assert self._judging.stdout is not None
        self._judging.stdin.write(orjson.dumps({"program": text} | job) + b"\n")
        self._judging.stdin.flush()
        said = json.loads(self._judging.stdout.readline())
        left = [*self.scratch.iterdir(), *(path for path in self.home.iterdir() if path != self._key)]
        folders = (Path.cwd(), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
        left += [path for folder in folders for path in folder.glob(f"*{self.mark}*")]
        if self._key.read_text() != self.secret:
            left.append(self._key)
        leaks = {
            "files read outside": self.secret in said["detail"] and self.secret,
            "files left": list(map(str, left)),
            "sockets": len(select.select(self._servers, [], [], 0)[0]),
            "processes alive after": said["alive"],
            "memory over": said["peak_bytes"] > MEMORY_MB * 2**20 and said["peak_bytes"],
            "disk over": said["written_bytes"] > _MAX_WRITTEN_BYTES and said["written_bytes"],
        }
        if not said["still_judges"]:
            leaks["processes alive after"] = "the process that starts programs is gone"
        return said["detail"], {name: seen for name, seen in leaks.items() if seen}


class _Peak:
    """The most memory that any one process below this one used, and the bytes they all wrote to disk.

    Read every few milliseconds while they run: what ends together with its PID namespace is missing from getrusage.
    """

    def __init__(self) -> None:
        self.memory_bytes = 0
        self._written: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def written_bytes(self) -> int:
        return sum(self._written.values())

    def _look(self) -> None:
        while not self._ended.wait(_LOOKS_EVERY_S):
            for pid in _descendants(os.getpid()):
                with suppress(OSError, LookupError):
                    status = _fields(Path(f"/proc/{pid}/status"))
                    self.memory_bytes = max(self.memory_bytes, int(status["VmHWM"].split()[0]) * 1024)
                    self._written[pid] = int(_fields(Path(f"/proc/{pid}/io"))["write_bytes"])


def _fields(file: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in file.read_text().splitlines())


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _descendants(child)


def _judge() -> None:
    """Judge each program with its own launcher, and print its verdict and what it used."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        job = json.loads(line)
        with _Peak() as peak:
            said = _bare(job["program"]) if job.get("bare") else _walled(job)
        said |= {"peak_bytes": peak.memory_bytes, "written_bytes": peak.written_bytes}
        print(json.dumps(said), flush=True)


def _walled(job: dict[str, Any]) -> dict[str, Any]:
    check = Python(PythonCheck(tests="tests", timeout_s=1, memory_mb=MEMORY_MB))
    try:
        try:
            found = check.judge(Answer(f"```python\n{job['program']}\n```"), _row([{"input": "", "output": "?"}]))
            detail = f"accepted: {found.detail}" if found.accepted else found.detail
        except CannotSay as error:
            detail = f"unchecked: {error}"
        with suppress(AssertionError):  # a sandbox may end a moment after bubblewrap does
            wait_until(lambda: not _alive(check.launcher_pid), what="no process left", within_s=5)
        alive = _alive(check.launcher_pid)
        still_judges = check.judge(Answer(_HONEST), _row(_ADDS)).accepted
    finally:
        check.close()
    return {"detail": detail, "alive": alive or _alive(os.getpid()), "still_judges": still_judges}


def _bare(program: str) -> dict[str, Any]:
    """Run a program without a sandbox, to show that its leak is seen."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    alive = _alive(os.getpid())
    for pid in below(os.getpid()):
        os.kill(pid, 9)
    return {"detail": done.stdout + done.stderr, "alive": alive, "still_judges": True}


def _alive(root: int) -> list[str]:
    """The command lines of all processes below this one; those that have ended are reaped first."""
    with suppress(ChildProcessError):
        while os.getpid() == root and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [title.decode(errors="replace")[:200] for title in below(root).values() if title]


def _row(tests: Any) -> dict[str, Any]:
    return {"tests\0json": orjson.dumps(tests).decode()}


if __name__ == "__main__":
    _judge()
