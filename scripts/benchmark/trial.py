"""One contestant's run, against a server of its own. It counts only if every prompt is once in its Parquet.

The server is started anew with the same seed, so that all are asked and answered alike; it has the machine's last core,
contestants may use every core; its CPU is nobody's.
"""

import http.client
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict

from benchmark.contestants import Contestant, Job, prompts_recorded
from benchmark.process_tree import measured
from benchmark.scenarios import Scenario
from gen import simulator
from schemas.simulator import SimulatorLimits, SimulatorSettings

TIMEOUT_S = 3600.0
SETTLED_S = 10.0
"""A shared limit may need so long until it is used up."""
_WORDS = "explain derive compare the of a in how why matrix river protein market planet engine theorem poem tax"


class BenchError(Exception):
    """A contestant did not do the work: nothing it took is a measurement."""


class Trial(BaseModel):
    """What one run took."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    contestant: str
    prompts: int
    cpu_s: float
    wall_s: float
    """The whole command."""
    first_s: float
    """From the command to its first request at the server."""
    asking_s: float
    """From the first request to the end of the last answer, at the server."""
    requests: int
    refused: int
    """429s."""
    share: float | None
    """Of the limit, used from `SETTLED_S` after the first request until the last."""
    worker_peaks_mb: list[float]
    """Peak resident memory of each worker process."""
    peaks_mb: dict[str, list[float]]
    """The same of all processes, by title."""
    load: float
    """The machine's load average of the last minute at the start."""


def run_trial(scenario: Scenario, contestant: Contestant, prompts: Path, *, count: int, out: Path) -> Trial:
    """Run the contestant over the first `count` prompts, which are in the file `prompts`.

    Raises:
        BenchError: it failed, or not every prompt has its record.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=out, prefix=".trial-") as temporary:
        folder = Path(temporary)
        with _server(scenario, folder / "requests.jsonl") as url:
            job = Job(prompts, url, folder, scenario.limits)
            started_at_s = _stats(url)["uptime_s"]
            log = folder / "output.log"
            cost = measured(contestant.command(job), env=_environment(), log=log, timeout_s=TIMEOUT_S)
            stats = _stats(url)
        rows, different = prompts_recorded(contestant, job)
        if cost.exit_code != 0 or not rows == different == count:
            shutil.copy(log, out / "failed.log")
            raise BenchError(
                f"{scenario.name}, {contestant.title}: expected exit code 0 and {count} different rows, got "
                f"{cost.exit_code} and {different} of {rows}; see failed.log beside the results"
            )
        share = _share_used(folder / "requests.jsonl", scenario.requests_per_minute)
    return Trial(
        scenario=scenario.name,
        contestant=contestant.title,
        prompts=count,
        cpu_s=cost.cpu_s,
        wall_s=cost.wall_s,
        first_s=stats["first_at_s"] - started_at_s,
        asking_s=stats["last_at_s"] - stats["first_at_s"],
        requests=stats["served"],
        refused=stats["by_status"].get("429", 0),
        share=share,
        worker_peaks_mb=[p for title, ps in cost.peaks_mb.items() if title.startswith(contestant.worker) for p in ps],
        peaks_mb=cost.peaks_mb,
        load=load,
    )


@contextmanager
def _server(scenario: Scenario, log: Path) -> Iterator[str]:
    """A fresh simulator's URL. Where a limit is watched it logs every request, which would slow it elsewhere."""
    rate = scenario.requests_per_minute
    limits = SimulatorLimits(requests_per_minute=rate, burst_s=1.0)
    settings = SimulatorSettings(latency_s=scenario.latency_s, limits=limits, log=str(log) if rate else None)
    with simulator.start(settings) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield process.url


def _stats(url: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/_stats")
    stats: dict[str, Any] = orjson.loads(connection.getresponse().read())
    connection.close()
    return stats


def _environment() -> dict[str, str]:
    """This process's, without proxies: the server is on this machine."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _share_used(log: Path, requests_per_minute: int | None) -> float | None:
    if requests_per_minute is None:
        return None
    lines: list[dict[str, Any]] = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    since: float = min(line["time"] for line in lines) + SETTLED_S
    times: list[float] = [line["time"] for line in lines if line["status"] == 200 and line["time"] >= since]
    if not times:
        return None
    return len(times) / ((max(times) - since) * requests_per_minute / 60)


def write_prompts(path: Path, *, count: int) -> None:
    """Different prompts of 100 to 400 characters; the same ones for the same count, and those of fewer are its head."""
    rng = random.Random(7)
    block = " ".join(rng.choices(_WORDS.split(), k=20_000))
    with path.open("w") as file:
        for number in range(count):
            start, size = rng.randrange(len(block) - 400), rng.randint(100, 400)
            prompt = f"Question {number}: {block[start : start + size]}"[:size]
            file.write(json.dumps({"id": f"p{number:07}", "prompt": prompt}) + "\n")
