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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmark.server import stats

START_TIMEOUT_S = 60.0
SETTLE_S = 5.0
"""After a head takes jobs its agents are still starting, which is not yet a running cluster."""
_PORTS = (
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"),
    *("ray-client-server-port", "runtime-env-agent-port"),
)
_ENV = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
"""Environment of the head and of the jobs: only this machine reaches them, so nobody needs a token."""


def main() -> int:
    """Exit code 1 if a job failed."""
    started, url, *recipes = sys.argv[1:]
    workers = sum(json.loads(Path(recipe).read_text())["run"]["workers"] for recipe in recipes)
    # Each worker asks for a CPU; if the machine has fewer, they share.
    with _cluster(cpus=max(workers, os.cpu_count() or 1)) as address:
        Path(started).write_text(str(stats(url)["uptime_s"]))
        command = [str(Path(sys.executable).with_name("stillhouse")), "run", "--address", address, "--quiet", "--json"]
        jobs = [subprocess.Popen([*command, recipe], env=_ENV) for recipe in recipes]
        codes = [job.wait() for job in jobs]
    return int(any(codes))


@contextmanager
def _cluster(*, cpus: int) -> Iterator[str]:
    """A head's address, once it takes jobs."""
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}/r"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
        head = subprocess.Popen(command, env=_ENV, stdout=sys.stderr, start_new_session=True)
        try:
            _wait(head, f"http://127.0.0.1:{ports['dashboard-port']}/api/jobs/")
            time.sleep(SETTLE_S)
            yield f"127.0.0.1:{ports['port']}"
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _wait(head: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise SystemExit("expected a Ray head that answers, got none")


if __name__ == "__main__":
    sys.exit(main())
