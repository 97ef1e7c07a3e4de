"""One host: namespaces with a process 1 that keeps Ray running, as a machine's service manager would."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from .network import Network

CPUS = 4
_CODE = f"{sys.prefix} {Path(__file__).resolve().parents[2]}"
"""What a host's own /tmp must not hide, where this checkout is below /tmp."""
_BOOT = """
set -e
mount --make-rprivate /
mount --bind "$DISK/etc/hosts" /etc/hosts
mount --bind "$DISK/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=512m memory /dev/shm
for path in $CODE; do
  case $path in /tmp/*) mkdir -p "$DISK$path"; mount --bind "$path" "$DISK$path";; esac
done
if [ -n "$JOURNALS" ]; then
  mkdir -p "$DISK/tmp/journals"; mount -t tmpfs -o "size=$JOURNALS" journals "$DISK/tmp/journals"
fi
mount --rbind "$DISK/tmp" /tmp
hostname "$NAME"
cd /tmp
unset DISK NAME CODE JOURNALS
while :; do "$@" || :; while [ -e /tmp/stay-down ]; do sleep 1; done; sleep 1; done
"""


class Host:
    """See the module. `head`: the host whose cluster this one joins, its own where it is the head itself.

    `journals`: the size of a disk of its own at /tmp/journals, as `64m`; empty: there is none.
    """

    def __init__(
        self, number: int, *, head: int, network: Network, folder: Path, env: Mapping[str, str], journals: str = ""
    ) -> None:
        self.number = number
        self.address = network.address(number)
        self.cluster = f"{network.address(head)}:6379"
        self.log = folder / f"host-{number}.log"
        self.disk = folder / f"disk-{number}"
        self._journals = journals
        self._is_head = head == number
        self._network = network
        self._env = {
            "HOME": "/tmp",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_worker_niceness": "0",
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout_s: float = 120.0) -> None:
        """Boot with what its disk holds, and wait until Ray is up."""
        (self.disk / "tmp").mkdir(parents=True, exist_ok=True)
        (self.disk / "etc").mkdir(exist_ok=True)
        names = "".join(f"{self._network.address(n)} host-{n}\n" for n in range(1, 10))
        (self.disk / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        # Nobody listens there: names are refused at once, not waited for.
        (self.disk / "etc" / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        role = ["--head", "--port=6379", "--include-dashboard=false"] if self._is_head else ["--address", self.cluster]
        ray = ["ray", "start", *role, f"--node-ip-address={self.address}", f"--num-cpus={CPUS}", "--block"]
        ray += ["--object-store-memory=100000000", "--disable-usage-stats"]
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        boot = ["ip", "netns", "exec", self._network.namespace(self.number), "unshare", *spaces, "sh", "-c", _BOOT]
        env = self._env | {
            "DISK": str(self.disk),
            "NAME": f"host-{self.number}",
            "CODE": _CODE,
            "JOURNALS": self._journals,
        }
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*boot, "boot", *ray], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + timeout_s
        while b"Ray runtime started" not in self.log.read_bytes()[before:]:
            assert time.monotonic() < until, f"Ray is not up on host {self.number} after {timeout_s:g} s: {self.log}"
            time.sleep(0.1)

    def run(self, *command: str, output: IO[str] | int) -> "subprocess.Popen[str]":
        """Start a command on the host."""
        enter = ["nsenter", "--target", str(self._first_pid), "--all", "sh", "-c", 'cd /tmp; exec "$@"', "run"]
        return subprocess.Popen(
            [*enter, *command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def pids(self, *, title: str) -> list[int]:
        """Its processes whose command line holds `title`."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self._network.namespace(self.number)], capture_output=True, text=True
        )
        return [pid for pid in map(int, listed.stdout.split()) if title in _command_of(pid)]

    def stay_down(self) -> None:
        """Do not start Ray again when it ends."""
        (self.disk / "tmp" / "stay-down").touch()

    def kill(self, *, with_disk: bool) -> None:
        """Power off at once: the first process of its namespace takes all others with it."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            first = _children(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            for pid in first:
                _kill(pid)
            process.wait()
        until = time.monotonic() + 10.0
        while (left := self.pids(title="")) and time.monotonic() < until:
            for pid in left:
                _kill(pid)
            time.sleep(0.05)
        if with_disk:
            shutil.rmtree(self.disk, ignore_errors=True)

    def keep_logs(self, folder: Path) -> None:
        """Copy what Ray's processes wrote, before the disk goes."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.disk.glob("tmp/ray/session_2*/logs/*"):
            if path.is_file() and path.name.startswith(("worker", "raylet", "gcs_server")) and path.stat().st_size:
                shutil.copy(path, folder)

    @property
    def _first_pid(self) -> int:
        assert self._process is not None, f"host {self.number} is down"
        return _children(self._process.pid)[0]


def in_namespace(namespace: str, *command: str) -> "subprocess.Popen[str]":
    """Start a command that shares all but the network with us."""
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
