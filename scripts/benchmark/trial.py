"""One contestant's run, against a server of its own. It counts only if every prompt is once in its Parquet.

Contestants may use every core.
"""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmark.contestants import Contestant, Job, prompts_recorded
from benchmark.process_tree import measured
from benchmark.scenarios import Scenario
from benchmark.server import recovered_s, requests, serving, share_used, stats

TIMEOUT_S = 3600.0
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
    """Seconds from the command (or the job's, on a cluster started before) to its first request at the server."""
    asking_s: float
    """Seconds from the first request to the end of the last answer, at the server."""
    requests: int
    refused: int
    """429s."""
    share: float | None
    """Share of the watched limit that was used."""
    recovered_s: float | None
    """Seconds from the end of a storm to full speed."""
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
        served = folder / "requests.jsonl"
        # A log of every request slows the server, so there is one only if it is read.
        log_of = str(served) if scenario.watched or scenario.storm else None
        with serving(scenario.server.model_copy(update={"log": log_of})) as url:
            job = Job(prompts, url, folder, scenario.limits, scenario.max_tokens, scenario.in_flight)
            started_at_s = stats(url)["uptime_s"]
            log = folder / "output.log"
            cost = measured(contestant.command(job), env=_environment(), log=log, timeout_s=TIMEOUT_S)
            counted = stats(url)
        rows, different = prompts_recorded(contestant, job)
        if cost.exit_code != 0 or not rows == different == count:
            shutil.copy(log, out / "failed.log")
            raise BenchError(
                f"{scenario.name}, {contestant.title}: expected exit code 0 and {count} different rows, got "
                f"{cost.exit_code} and {different} of {rows}; see failed.log beside the results"
            )
        if job.started.exists():
            started_at_s = float(job.started.read_text())
        lines = requests(served) if log_of else []
    return Trial(
        scenario=scenario.name,
        contestant=contestant.title,
        prompts=count,
        cpu_s=cost.cpu_s,
        wall_s=cost.wall_s,
        first_s=counted["first_at_s"] - started_at_s,
        asking_s=counted["last_at_s"] - counted["first_at_s"],
        requests=counted["served"],
        refused=counted["by_status"].get("429", 0),
        share=share_used(lines, scenario.watched) if scenario.watched else None,
        recovered_s=recovered_s(lines, scenario.storm, started_at=counted["started_at"]) if scenario.storm else None,
        worker_peaks_mb=[p for title, ps in cost.peaks_mb.items() if title.startswith(contestant.worker) for p in ps],
        peaks_mb=cost.peaks_mb,
        load=load,
    )


def _environment() -> dict[str, str]:
    """This process's environment without proxies, because the server is on this machine."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def write_prompts(path: Path, *, count: int) -> None:
    """Different prompts of 100 to 400 characters; the same ones for the same count, and those of fewer are its head."""
    rng = random.Random(7)
    block = " ".join(rng.choices(_WORDS.split(), k=20_000))
    with path.open("w") as file:
        for number in range(count):
            start, size = rng.randrange(len(block) - 400), rng.randint(100, 400)
            prompt = f"Question {number}: {block[start : start + size]}"[:size]
            file.write(json.dumps({"id": f"p{number:07}", "prompt": prompt}) + "\n")
