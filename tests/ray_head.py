"""A real Ray cluster of one node for tests, with its dashboard and metrics, ended with all its processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ports import reserved_ports
from waiting import wait_until

TOKEN = "0123456789abcdef" * 4
CPUS = 3
START_TIMEOUT_S = 90.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RayHead:
    """A running head."""

    dashboard: str
    """Its http address."""
    gcs: str
    """Its host:port."""
    folder: Path
    """Where it keeps its sessions."""
    metrics: str
    """host:port of the metrics for Prometheus, refreshed every second."""
    env: dict[str, str]
    """What a user of it has in the environment."""

    @property
    def logs(self) -> Path:
        """The folder of its session's logs."""
        return self.folder / "session_latest" / "logs"

    def working_dirs(self) -> list[Path]:
        """Where each working_dir that was shipped to it is unpacked."""
        folders = self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
        return [folder for folder in folders if folder.is_dir()]

    def shipped(self) -> list[set[str]]:
        """The files of each working_dir that was shipped to it, as relative paths."""
        return [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in self.working_dirs()]


class NotUp(AssertionError):
    """The head did not start, or something else answers at its ports."""


@contextmanager
def ray_head(*, cpus: int = CPUS, token: str | None = TOKEN, python: Path = Path(sys.executable)) -> Iterator[RayHead]:
    """Start one in a short folder of its own (sockets' paths are), and kill all of it at the end.

    Its dashboard takes jobs from anyone with the token, or from everyone if there is none. One that does not come up
    is started a second time, on other ports.
    """
    with _twice(lambda: _ray_head(cpus=cpus, token=token, python=python)) as head:
        yield head


@contextmanager
def _twice(start: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
    """Enter what `start` returns; if that raises NotUp, as it may on a busy machine, try once more."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(start())
        except NotUp as error:
            print(f"a second try: {error}", file=sys.stderr)
            started = stack.enter_context(start())
        yield started


@contextmanager
def _ray_head(*, cpus: int, token: str | None, python: Path) -> Iterator[RayHead]:
    names = ["port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
    names += ["metrics-export-port", "ray-client-server-port", "runtime-env-agent-port"]
    with (
        reserved_ports(len(names)) as reserved,
        tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as folder,
    ):
        ports = dict(zip(names, reserved, strict=True))
        env = os.environ | {
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": folder,
            "RAY_AUTH_MODE": "token" if token else "disabled",
            "RAY_metrics_report_interval_ms": "1000",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        if token:
            env["RAY_AUTH_TOKEN"] = token
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            env.pop(name, None)
        command = [str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}/r"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
        log = Path(folder, "head.log")
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True)
        try:
            head = RayHead(
                dashboard=f"http://127.0.0.1:{ports['dashboard-port']}",
                gcs=f"127.0.0.1:{ports['port']}",
                folder=Path(folder, "r"),
                metrics=f"127.0.0.1:{ports['metrics-export-port']}",
                env=env,
            )
            _wait_until_up(process, head, log)
            yield head
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def second_raylet(head: RayHead, *, cpus: int, late_s: int = 0) -> Iterator[None]:
    """A second node of the head's cluster on this machine, in the same session folder.

    It waits `late_s` before it unpacks what a job ships. One that does not come up is started a second time.
    """
    with _twice(lambda: _second_raylet(head, cpus=cpus, late_s=late_s)):
        yield


@contextmanager
def _second_raylet(head: RayHead, *, cpus: int, late_s: int) -> Iterator[None]:
    env = head.env | {"RAY_RUNTIME_ENV_SLEEP_FOR_TESTING_S": str(late_s) if late_s else ""}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={head.gcs}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0", f"--num-cpus={cpus}"]
    log = head.folder.parent / "second.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=head.folder.parent, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "Ray runtime started" in log.read_text(),
            what="a second raylet",
            within_s=START_TIMEOUT_S,
        )
        if process.poll() is not None:
            raise NotUp(f"the second raylet did not come up:\n{log.read_text(errors='replace')[-4000:]}")
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    """True if the address answers a GET."""
    return _get(url) is not None


def _get(url: str) -> str | None:
    """The address's answer to a GET; None if there is none, or an error."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return str(reply.read().decode(errors="replace"))
    except OSError:
        return None


def _wait_until_up(process: "subprocess.Popen[bytes]", head: RayHead, log: Path) -> None:
    """Until the head takes jobs and exports metrics, and it is this head that does.

    A dashboard whose port is taken opens the next one, so an answer alone may be another head's, whose end is not ours.

    Raises:
        NotUp: it ended, or did not come up in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if _is_up(head):
            return
        time.sleep(0.3)
    raise NotUp(f"the head did not come up:\n{log.read_text(errors='replace')[-4000:]}")


def _is_up(head: RayHead) -> bool:
    version = _get(f"{head.dashboard}/api/version")
    if version is None or not head.logs.exists():
        return False
    session = head.logs.parent.resolve().name
    try:
        answered = json.loads(version)["session_name"]
    except (ValueError, KeyError, TypeError):
        return False
    if answered != session or _get(f"{head.dashboard}/api/jobs/") is None:
        return False
    return f'SessionName="{session}"' in (_get(f"http://{head.metrics}/metrics") or "")
