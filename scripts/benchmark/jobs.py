"""Runs recipes at the same time on one Ray cluster that is up before: python -m benchmark.jobs STARTED URL RECIPE ...

The cluster is this command's own and ends with it. The uptime of the server at URL is written to the file STARTED when
the cluster is up and the jobs start.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark.server import stats

START_TIMEOUT_S = 60.0
STARTS = 5
SETTLE_S = 5.0
"""After a head takes jobs its agents are still starting, which is not yet a running cluster."""
_PORTS = (
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"),
    *("ray-client-server-port", "runtime-env-agent-port"),
)
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
"""Environment of the head and of the jobs, in which `python` is this one, and compiles a module once, as anywhere else.
Only this machine reaches them, so nobody needs a token."""


def main() -> int:
    """Exit code 1 if a job failed."""
    started, url, *recipes = sys.argv[1:]
    workers = sum(json.loads(Path(recipe).read_text())["run"]["workers"] for recipe in recipes)
    # Each worker asks for a CPU; if the machine has fewer, they share.
    with cluster(cpus=max(workers, os.cpu_count() or 1)) as head:
        Path(started).write_text(str(stats(url)["uptime_s"]))
        command = [str(Path(sys.executable).with_name("stillhouse")), "run", "--address", head.gcs, "--quiet", "--json"]
        jobs = [subprocess.Popen([*command, recipe], env=ENV) for recipe in recipes]
        codes = [job.wait() for job in jobs]
    return int(any(codes))


@dataclass(frozen=True, slots=True)
class Head:
    """A running head."""

    gcs: str
    """Its host:port."""
    dashboard: str
    """Its http address."""


class NotUp(Exception):
    """The head did not start in time."""


@contextmanager
def cluster(*, cpus: int) -> Iterator[Head]:
    """A head of its own, once it takes jobs; where it does not come up, as on a busy machine, another is started."""
    with ExitStack() as stack:
        for left in reversed(range(STARTS)):
            try:
                head = stack.enter_context(_cluster(cpus=cpus))
            except NotUp:
                if not left:
                    raise SystemExit(f"expected a Ray head that starts, got {STARTS} that did not") from None
            else:
                break
        yield head


@contextmanager
def _cluster(*, cpus: int) -> Iterator[Head]:
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}/r"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
        log = Path(folder, "head.log")
        with log.open("wb") as output:
            head = subprocess.Popen(command, env=ENV, stdout=output, stderr=output, start_new_session=True)
        try:
            dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
            _wait(head, log, f"{dashboard}/api/jobs/")
            time.sleep(SETTLE_S)
            yield Head(f"127.0.0.1:{ports['port']}", dashboard)
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _wait(head: "subprocess.Popen[bytes]", log: Path, url: str) -> None:
    """Wait until it has started and takes jobs.

    Raises:
        NotUp: it ended, or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            if b"Ray runtime started" in log.read_bytes():
                return
        time.sleep(0.3)
    raise NotUp


if __name__ == "__main__":
    sys.exit(main())
