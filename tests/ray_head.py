"""A real Ray cluster of one node for tests: its dashboard takes jobs from whoever has the token."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
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
    env: dict[str, str]
    """What a user of it has in the environment."""

    def shipped(self) -> list[set[str]]:
        """The files of each working_dir that was shipped to it, as relative paths."""
        folders = self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
        return [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in folders if f.is_dir()]


@contextmanager
def ray_head() -> Iterator[RayHead]:
    """Start one on free ports, in a short folder of its own (sockets' paths are), and kill all of it at the end."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("metrics-export-port", "ray-client-server-port", "runtime-env-agent-port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as folder:
        env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            env.pop(name, None)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}/r"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={CPUS}"]
        command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
        with open(Path(folder, "head.log"), "wb") as log:
            head = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
            _wait(head, f"{dashboard}/api/jobs/", Path(folder, "head.log"))
            yield RayHead(dashboard, f"127.0.0.1:{ports['port']}", Path(folder, "r"), env)
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


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
