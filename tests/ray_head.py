"""A real Ray cluster of one node for tests, with its dashboard and metrics, ended with all its processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "0123456789abcdef" * 4
CPUS = 3
START_TIMEOUT_S = 90.0


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
    """host:port of what Prometheus scrapes, every second anew."""
    env: dict[str, str]
    """What a user of it has in the environment."""

    @property
    def logs(self) -> Path:
        """The folder of its session's logs."""
        return self.folder / "session_latest" / "logs"

    def shipped(self) -> list[set[str]]:
        """The files of each working_dir that was shipped to it, as relative paths."""
        folders = self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
        return [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in folders if f.is_dir()]


@contextmanager
def ray_head(*, cpus: int = CPUS, token: str | None = TOKEN) -> Iterator[RayHead]:
    """Start one on free ports, in a short folder of its own (sockets' paths are), and kill all of it at the end.

    Its dashboard takes jobs from whoever has the token, or from anybody where there is none.
    """
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("metrics-export-port", "ray-client-server-port", "runtime-env-agent-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as folder:
        env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
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
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}/r"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
        with open(Path(folder, "head.log"), "wb") as log:
            head = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
            _wait(head, f"{dashboard}/api/jobs/", Path(folder, "head.log"))
            metrics = f"127.0.0.1:{ports['metrics-export-port']}"
            wait_until(lambda: answers(f"http://{metrics}/metrics"), what="metrics are exported", within_s=60)
            yield RayHead(dashboard, f"127.0.0.1:{ports['port']}", Path(folder, "r"), metrics, env)
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_until(holds: Callable[[], bool], *, what: str, within_s: float) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not after {within_s:.0f} s: {what}"
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether the address answers a GET."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def _wait(head: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Until the head takes jobs."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"the head did not come up:\n{log.read_text(errors='replace')[-4000:]}")
