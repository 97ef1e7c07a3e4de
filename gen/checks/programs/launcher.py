"""The process that starts sandboxes: `python -m stillhouse.gen.checks.programs.launcher`, its socket as standard input.

The process that judges may not start others, because it runs code that answers influence. This one runs no such code:
it starts the programs it is given, waits, kills all of it, and returns what it wrote.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stillhouse.gen.checks.confine import die_with, hide_memory
from stillhouse.gen.checks.link import packed, receive_frame
from stillhouse.gen.checks.programs.sandbox import command, environment, framed, modules
from stillhouse.gen.errors import UsageError

MAX_OUTPUT_BYTES = 4_096
_FOLDER = "stillhouse-program-"
"""Prefix of the names of programs' folders; the launcher's process id follows."""


def main() -> None:
    """Start sandboxes until the other end is closed."""
    link = socket.socket(fileno=os.dup(0))
    settings = receive_frame(link)
    die_with(settings["parent"])
    hide_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the pool
    try:
        start = command(settings["isolation"], parent=os.getpid())
    except UsageError as error:
        link.sendall(packed(str(error)))
        return
    _tidy(Path(tempfile.gettempdir()))
    link.sendall(packed(None))
    ours = framed(modules())
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = receive_frame(link)
            link.sendall(packed(_run(start, ours + job["input"], wall_s=job["wall_s"])))


def _tidy(folder: Path) -> None:
    """Remove what launchers left behind that were killed while a program ran."""
    for left in folder.glob(f"{_FOLDER}*"):
        launcher = left.name.removeprefix(_FOLDER).partition("-")[0]
        if not Path("/proc", launcher).exists():
            shutil.rmtree(left, ignore_errors=True)


def _run(start: list[str], given: bytes, *, wall_s: float) -> tuple[bytes, str]:
    """What the sandbox wrote and, if that is nothing, how it ended."""
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
    files = [os.memfd_create(name) for name in ("given", "verdict", "errors")]
    try:
        view = memoryview(given)
        while view:
            view = view[os.write(files[0], view) :]
        os.lseek(files[0], 0, os.SEEK_SET)
        process = subprocess.Popen(  # noqa: S603 - our own command; what it runs is why it is walled in
            start,
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            cwd=folder,
            env=environment() | {"HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        how = _ended(process, wall_s=wall_s)
        said = os.pread(files[2], MAX_OUTPUT_BYTES, 0).decode("utf-8", "replace").strip()
        return os.pread(files[1], MAX_OUTPUT_BYTES, 0), f"{how}: {said[-300:]}" if said else how
    finally:
        for fd in files:
            os.close(fd)
        shutil.rmtree(folder, ignore_errors=True)


def _ended(process: "subprocess.Popen[bytes]", *, wall_s: float) -> str:
    """Wait, kill whatever is left of it, and return how it ended."""
    try:
        code: Any = process.wait(wall_s)
    except subprocess.TimeoutExpired:
        code = None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return f"did not end within {wall_s:g} s" if code is None else f"exit code {code}"


if __name__ == "__main__":
    main()
