"""A run under a nemesis: processes and the S3 server are killed at random; one clean run; then a check of the history.

    python -m tests.faults.nemesis --kills 100 --prompts 10000 --samples 2 --generations 3

prints what it killed and the checker's figures, and ends with 1 where a promise was broken. With `--judge`, a judge
with a separate account decides on each answer, and both accounts' limits are checked by what was served.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.history import check, check_judged, check_limits
from faults.runs import start_run
from processes import below, kill_all
from s3_server import S3Server, rclone_s3
from waiting import wait_until

from stillhouse.gen import simulator
from stillhouse.schemas.simulator import SimulatorSettings

IN_FLIGHT = 64
JUDGED_IN_FLIGHT = 16
PER_MINUTE = 1200
JUDGED_PER_MINUTE = 600
"""Limits of the two accounts in a judged run, which takes longer with them than the kills do."""
_TITLES = {
    "worker": b"ray::TeacherWorker",
    "queue": b"ray::PromptQueueActor",
    "limiter": b"ray::RateLimiterActor",
}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--generations", type=int, default=1, help="so many are open at once, each with its file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="have a judge score the answers")
    parser.add_argument("--local", action="store_true", help="a dataset on the local disk instead of S3")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, rclone_s3(Path(folder)) as server:
        os.environ.update(server.env)
        figures = torment(
            Path(folder),
            None if args.local else server,
            kills=args.kills,
            prompts=args.prompts,
            samples=args.samples,
            generations=args.generations,
            seed=args.seed,
            judged=args.judge,
        )
    print(json.dumps(figures))
    return 0


def torment(
    folder: Path,
    server: S3Server | None,
    *,
    kills: int,
    prompts: int,
    samples: int,
    seed: int,
    generations: int = 1,
    judged: bool = False,
) -> dict[str, object]:
    """Run under `kills` kills; what was killed, and the history's figures. AssertionError where a promise is broken.

    The prompts come in as many files as `generations`, each after everything was killed while those before it are open.
    """
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    killed_at: list[float] = []
    log = folder / "served.jsonl"
    verdicts = folder / "judged.jsonl"
    with (
        simulator.start(SimulatorSettings(latency_s=0.2, log=str(log))) as teacher,
        simulator.start(SimulatorSettings(latency_s=0.1, log=str(verdicts))) as judge,
    ):
        recipe = _recipe(folder, teacher.url, server, samples=samples, judge=judge.url if judged else None)
        each = prompts // generations
        _write_prompts(folder, 0, range(each))
        run = start_run(recipe)
        for number in range(1, generations):
            _wait_for_requests(log, more=200)
            killed_at.append(time.time())
            with run:
                kill_all(run.pid)
            killed["everything"] += 1
            last = prompts if number == generations - 1 else each * (number + 1)
            _write_prompts(folder, number, range(each * number, last))
            run = start_run(recipe)
        end = outlive(run, recipe, log, server, kills=kills, rng=rng, killed=killed, killed_at=killed_at)
    assert end["state"] == "done", end
    assert end["records"] + end["rejected"] == prompts * samples, end
    dataset = folder / "out" if server is None else server.data / server.bucket / "out"
    assert len(list((dataset / "_stillhouse").glob("plan-*.json"))) == generations
    figures: dict[str, object] = {"killed": dict(killed)}
    figures |= check(dataset, log, samples=samples, in_flight=IN_FLIGHT, kills=killed.total(), killed_at=killed_at)
    if judged:
        figures |= check_judged(dataset, verdicts, in_flight=JUDGED_IN_FLIGHT, killed_at=killed_at)
        limits = {"in_flight": IN_FLIGHT, "per_minute": PER_MINUTE}
        figures["teacher"] = check_limits(log, **limits, killed_at=killed_at)
        limits = {"in_flight": JUDGED_IN_FLIGHT, "per_minute": JUDGED_PER_MINUTE}
        figures["judge"] = check_limits(verdicts, **limits, killed_at=killed_at)
    return figures


def outlive(
    run: "subprocess.Popen[str]",
    recipe: Path,
    log: Path,
    server: S3Server | None,
    *,
    kills: int,
    rng: random.Random,
    killed: Counter[str],
    killed_at: list[float] | None = None,
    is_over: Callable[[dict[str, Any]], bool] = lambda end: bool(end["state"] == "done"),
) -> dict[str, Any]:
    """Kill something of the run until there are `kills` in `killed`, let it finish, and return its last line.

    `killed_at` gets the moment of each kill.

    A run that ends while it is not over is started again. Nothing is killed before the teacher was asked once more, as
    `log` shows.
    """
    asked = 0
    while True:
        if killed.total() < kills:
            time.sleep(rng.uniform(0.3, 2.5))
        else:
            run.wait(timeout=600)
        if run.poll() is not None:
            if (end := last_line(run)) is not None and is_over(end):
                return end
            run = start_run(recipe)
        elif killed.total() < kills and log.stat().st_size != asked:  # else it is getting up: that would prove nothing
            asked = log.stat().st_size
            at = time.time()
            if (target := _strike(rng, run.pid, server)) is not None:
                killed[target] += 1
                if killed_at is not None:
                    killed_at.append(at)
                print(f"{killed.total()}: {target}", file=sys.stderr, flush=True)


def last_line(run: "subprocess.Popen[str]") -> dict[str, Any] | None:
    """What a run that was not killed says at its end; what is left of a killed one may hold the pipe open."""
    assert run.stdout is not None
    with run.stdout as printed:
        lines = printed.read().splitlines() if run.returncode in (0, 3) else []
    return json.loads(lines[-1]) if lines else None


def _strike(rng: random.Random, driver: int, server: S3Server | None) -> str | None:
    """Kill something of the run that is alive; returns what it was."""
    target = rng.choices(["worker", "queue", "limiter", "driver", "everything", "store"], [5, 2, 2, 1, 1, 1])[0]
    if target == "store":
        if server is None:
            return None
        os.kill(server.pid, signal.SIGKILL)
        server.restart()
        return target
    if target == "driver":
        os.kill(driver, signal.SIGKILL)
        return target
    if target == "everything":
        kill_all(driver)
        return target
    victims = [pid for pid, title in below(driver).items() if title.startswith(_TITLES[target])]
    if not victims:
        return None
    with suppress(ProcessLookupError):
        os.kill(rng.choice(victims), signal.SIGKILL)
    return target


def _write_prompts(folder: Path, number: int, ids: Iterable[int]) -> None:
    source = folder / "source" / f"{number}.jsonl"
    source.parent.mkdir(exist_ok=True)
    source.write_text("".join(json.dumps({"id": n, "q": f"How much is {n} + 1?"}) + "\n" for n in ids))


def _wait_for_requests(log: Path, *, more: int) -> None:
    """Wait until the teacher has been asked this many more times."""
    wanted = _lines(log) + more
    wait_until(lambda: _lines(log) >= wanted, what="the run asks", within_s=300)


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def _recipe(folder: Path, url: str, server: S3Server | None, *, samples: int, judge: str | None = None) -> Path:
    dataset = {"path": str(folder / "out")} if server is None else {"path": f"{server.url}/out"}
    if server is not None:
        dataset["endpoint_url"] = server.endpoint_url
    teacher = {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}}
    document: dict[str, Any] = {
        "name": "nemesis",
        "source": {"path": str(folder / "source"), "prompt": "q", "id": "id"},
        "ask": {"samples": samples},
        "teachers": [teacher | {"limits": {"in_flight": IN_FLIGHT}}],
        "dataset": dataset | {"prompts_per_shard": 100},
        "run": {"workers": 2, "journal_dir": str(folder / "journal")},
    }
    if judge is not None:
        document["teachers"][0]["limits"]["requests_per_minute"] = PER_MINUTE
        limits = {"in_flight": JUDGED_IN_FLIGHT, "requests_per_minute": JUDGED_PER_MINUTE}
        document["teachers"] += [teacher | {"name": "judge", "base_url": judge, "role": "judge", "limits": limits}]
        document["checks"] = [{"judge": {"teacher": "judge", "template": "Score it.\n", "accept_if": ">= 2"}}]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


if __name__ == "__main__":
    sys.exit(main())
