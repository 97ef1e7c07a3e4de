"""Hosts, store and teacher for one case, and the runs that are started on them."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python -m`, what tests/conftest.py does for pytest

from s3_server import S3Server, rclone_s3

from .host import Host
from .network import Network, network
from .verdict import SHIP_EVERY_S, Figures, Story, judge, read_log

PER_MINUTE = 2400
IN_FLIGHT = 160
WORKERS = 4
TEACHER_PORT = 9400
CASE_S = 420.0
"""A run that takes longer hangs."""


class Run:
    """A `stillhouse run` on a host, with the time of each line that it prints."""

    def __init__(self, host: Host, recipe: Path, *, log: Path) -> None:
        self.host = host
        self.lines: list[tuple[float, str]] = []
        command = [sys.executable, "-m", "stillhouse.cluster.cli", "run", f"/tmp/{recipe.name}", "--json"]
        self._process = host.run(*command, "--address", host.cluster, output=subprocess.PIPE)
        self._log = log
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines, self._log.open("a") as log:
            for line in lines:
                self.lines.append((time.time(), line.rstrip()))
                log.write(f"{self.lines[-1][0]:.1f} {line}")
                log.flush()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float = CASE_S) -> int | None:
        """Its exit code; None if it hangs."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill what is left of it."""
        if self.code is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def longest_silence_s(self) -> float:
        """Between two lines, from the first that tells of requests."""
        times = [at for at, _ in self.lines]
        first = next((n for n, (_, line) in enumerate(self.lines) if " requests " in line), len(times))
        return max((b - a for a, b in pairwise(times[first:])), default=0.0)


class Lab:
    """See the module."""

    def __init__(self, case: str, *, prompts: int, net: Network, store: S3Server, folder: Path) -> None:
        self.case = case
        self.net = net
        self.story = Story()
        self.prompts = prompts
        self.folder = folder
        self.log = folder / "teacher.jsonl"
        self.journal_dir: str | None = None
        """Where hosts keep their journals; None: where they would by themselves."""
        self._store = store
        self._runs: list[Run] = []
        self.first, self.second = self.host(1, head=1), self.host(2, head=1)

    def host(self, number: int, *, head: int, journals: str = "") -> Host:
        """A host that is not started yet; see `Host`."""
        env = self._store.env | {"TEACHER_KEY": "canary-of-the-hosts"}
        return Host(number, head=head, network=self.net, folder=self.folder, env=env, journals=journals)

    def run(self, host: Host) -> Run:
        """Start a run of the case's recipe on a host."""
        recipe = host.disk / "tmp" / f"{self.case}.json"
        recipe.write_text(json.dumps(self._recipe()))
        run = Run(host, recipe, log=self.folder / f"run-{len(self._runs)}.log")
        self._runs.append(run)
        return run

    def asking(self, *, for_s: float, timeout_s: float = 120.0) -> None:
        """Wait for the first request, and then for this much longer."""
        self.until_asked(0, timeout_s=timeout_s)
        time.sleep(for_s)
        self.story.control = self.where_control_is()

    def until_asked(self, more_than: int, *, timeout_s: float = 120.0) -> None:
        """Wait until there were more requests than that."""
        until = time.monotonic() + timeout_s
        while len(read_log(self.log)) <= more_than:
            codes = [run.code for run in self._runs]
            assert time.monotonic() < until, f"no request within {timeout_s:g} s (exit codes {codes}): {self.folder}"
            time.sleep(0.2)

    def mark(self, what: str) -> float:
        """Something was done to a host now."""
        now = time.time()
        self.story.marks.append((now, what))
        print(f"  {self.case}: {what}", file=sys.stderr, flush=True)
        return now

    def where_control_is(self) -> str:
        """Which host has the queue and which the limiter, by the titles of their processes."""
        names = {"queue": "ray::PromptQueue", "limiter": "ray::RateLimiter"}
        places = [
            f"{name} on host {host.number}"
            for name, title in names.items()
            for host in (self.first, self.second)
            if host.pids(title=title)
        ]
        return ", ".join(places)

    def figures(self) -> Figures:
        """Judge the case; its runs have ended or went with their host."""
        self.story.codes = [run.code if run.code != -signal.SIGKILL else None for run in self._runs]
        self.story.printed = "\n".join(line for run in self._runs for _, line in run.lines)
        self.story.silences = [run.longest_silence_s for run in self._runs]
        time.sleep(1.0)  # for acknowledgements of the last answers
        found = judge(
            self.case,
            story=self.story,
            log=self.log,
            dataset=self._store.data / self._store.bucket / self.case,
            prompts=self.prompts,
            per_minute=PER_MINUTE,
            verify=self._verified(),
        )
        (self.folder / "figures.json").write_text(json.dumps(found.as_json(), indent=1))
        return found

    def _verified(self) -> str | None:
        url = f"{self._store.url}/{self.case}"
        command = [sys.executable, "-m", "stillhouse.cluster.cli", "verify", url]
        command += ["--endpoint-url", self._store.endpoint_url]
        done = subprocess.run(command, env=os.environ | self._store.env, capture_output=True, text=True, timeout=120)
        return None if done.returncode == 0 else (done.stdout + done.stderr).strip()[-300:]

    def _recipe(self) -> dict[str, object]:
        where = {"endpoint_url": self._store.endpoint_url}
        teacher = {
            "name": "t",
            "base_url": f"http://{self.net.teacher}:{TEACHER_PORT}/v1",
            "model": "m",
            "api_key": "env:TEACHER_KEY",
            "limits": {"requests_per_minute": PER_MINUTE, "in_flight": IN_FLIGHT},
            "terms": {"training_use": "permitted"},
        }
        return {
            "name": self.case,
            "source": {"path": f"{self._store.url}/source.jsonl", "prompt": "question", **where},
            "ask": {"max_tokens": 64},
            "teachers": [teacher],
            "dataset": {"path": f"{self._store.url}/{self.case}", "prompts_per_shard": 200, **where},
            "run": {"workers": WORKERS, "ship_every_s": SHIP_EVERY_S, "journal_dir": self.journal_dir},
        }

    def end(self) -> None:
        """Kill runs and hosts, keeping their logs."""
        for run in self._runs:
            run.end()
        for host in (self.first, self.second):
            host.keep_logs(self.folder / f"logs-{host.number}")
            host.kill(with_disk=True)


@contextmanager
def lab(case: str, *, prompts: int, folder: Path) -> Iterator[Lab]:
    """All that a case needs but for its hosts' Ray; everything is gone at the end but what lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        net = stack.enter_context(network(1, 2))
        source = folder / "s3" / "lake" / "source.jsonl"
        source.parent.mkdir(parents=True)
        lines = (json.dumps({"question": f"What is {n} times {n + 1}?"}) for n in range(prompts))
        source.write_text("".join(line + "\n" for line in lines))
        store = stack.enter_context(rclone_s3(folder, address=net.store))
        stack.enter_context(teacher(net.teacher, folder))
        lab = Lab(case, prompts=prompts, net=net, store=store, folder=folder)
        stack.callback(lab.end)
        yield lab


@contextmanager
def teacher(address: str, folder: Path) -> Iterator[str]:
    """A teacher outside the hosts, with its log in the folder; its base URL."""
    script = Path(__file__).with_name("teacher.py")
    command = [sys.executable, str(script), address, str(TEACHER_PORT), str(folder / "teacher.jsonl")]
    with (folder / "teacher.log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 20.0
            while time.monotonic() < until:
                try:
                    socket.create_connection((address, TEACHER_PORT), timeout=1.0).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://{address}:{TEACHER_PORT}/v1"
        finally:
            process.terminate()
