"""The simulator in a separate process, which never outlives the one that started it."""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.simulator.server import run_forever
from stillhouse.schemas.simulator import SimulatorSettings

_STOP_TIMEOUT_S = 10.0
_ERROR = "error "


class SimulatorProcess:
    """A running simulator; stop it, or use it as a context."""

    def __init__(self, child: "subprocess.Popen[str]", *, url: str) -> None:
        self._child = child
        self.url = url
        """The base URL of the OpenAI protocol."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def stop(self) -> int:
        """Let it complete its log and end; kill it if it doesn't within ten seconds. Returns its exit code."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return self._child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(settings: SimulatorSettings, *, host: str = "127.0.0.1", port: int = 0) -> SimulatorProcess:
    """Start a simulator and wait until it accepts requests.

    It ends when `stop` is called or this process ends in any way. It has its own session, so that Ctrl-C reaches only
    the caller, which may still need answers while it drains.

    Raises:
        UsageError: the address can't be bound, or a file that the settings name can't be opened.
        StillhouseError: the process died before it was ready.
    """
    root = str(Path(__file__).parents[3])  # not resolved: in a checkout, this path leads out of `stillhouse`
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), root])
    child = subprocess.Popen(  # noqa: S603 - this interpreter, this package
        [sys.executable, "-P", "-m", "stillhouse.gen.simulator", host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(settings.model_dump_json() + "\n")
    child.stdin.flush()
    said = child.stdout.readline().rstrip("\n")
    process = SimulatorProcess(child, url=said)
    if said.startswith("http://"):
        return process
    code = process.stop()
    if said.startswith(_ERROR):
        raise UsageError(said.removeprefix(_ERROR))
    raise StillhouseError(f"simulator: the process ended before it was ready (exit code {code})")


def main(host: str, port: int) -> int:
    """The child's end of `start`: settings as a line of JSON on stdin, the URL or an error as a line on stdout."""
    # Unbuffered: read-ahead would hide the end of the pipe from the event loop.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        settings = SimulatorSettings.model_validate_json(stdin.readline())
    try:
        run_forever(settings, host=host, port=port, ready=_say, parent_fd=0)
    except UsageError as error:
        _say(f"{_ERROR}{error}")
        return error.exit_code
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
