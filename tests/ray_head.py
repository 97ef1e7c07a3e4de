"""A Ray head of the tests' own, with its dashboard and metrics, ended with all its processes."""

import os
import shutil
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

START_S = 60.0


@dataclass(frozen=True, slots=True)
class RayHead:
    """Where it is reached."""

    address: str
    dashboard: str
    metrics: str
    """host:port of what Prometheus scrapes."""
    logs: Path


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


@contextmanager
def ray_head(*, cpus: int) -> Iterator[RayHead]:
    """`ray start --head` on free ports; metrics are exported every second."""
    gcs, dashboard, metrics, agent, agent_grpc, client = free_ports(6)
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the paths of Ray's sockets may have 107 characters
    env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000"}
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "metrics-export-port": metrics,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "ray-client-server-port": client,
        "node-ip-address": "127.0.0.1",
        "num-cpus": cpus,
        "temp-dir": folder,
    }
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--include-dashboard=true"]
    log = Path(folder) / "start.log"
    with log.open("wb") as output:
        args = [*command, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(args, env=env, stdout=output, stderr=output)
    head = RayHead(
        f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{metrics}", Path(folder, "session_latest/logs")
    )
    try:
        for url in (f"{head.dashboard}/api/version", f"http://{head.metrics}/metrics"):
            wait_until(lambda url=url: answers(url), what=f"{url}\n{log.read_text()}", within_s=START_S)
        yield head
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
