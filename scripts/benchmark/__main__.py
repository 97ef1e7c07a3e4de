"""Run the scenarios that are named, print the table, save JSON and a plot."""

import argparse
import dataclasses
import json
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmark import machine
from benchmark.report import plot, table
from benchmark.results import Result, Verdict, result_of, verdicts
from benchmark.scenarios import SCENARIOS, Scenario
from benchmark.trial import BenchError, Trial, run_trial, write_prompts


def main() -> int:
    """Exit code 1 if a contestant failed; bars are reported, not enforced."""
    settings = _settings()
    out: Path = settings.out
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # runs the cleanup
    _raise_open_files()
    here = machine.describe()
    results: list[Result] = []
    judged: list[Verdict] = []
    trials: list[Trial] = []
    try:
        for scenario in _wanted(settings):
            done = _trials(scenario, repeat=settings.repeat if scenario.repeated else 1, out=out)
            found = [result_of(scenario, contestant, done) for contestant in scenario.contestants]
            trials += done
            results += found
            judged += verdicts(scenario, found)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    stem = f"{here['date']}-{'-'.join(settings.scenarios) or 'default'}"
    document: dict[str, Any] = {"machine": here, "repeat": settings.repeat, "at_most_prompts": settings.prompts}
    document["results"] = [dataclasses.asdict(result) for result in results]
    document["bars"] = [dataclasses.asdict(verdict) for verdict in judged]
    document["trials"] = [trial.model_dump() for trial in trials]
    (out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(results, out / f"{stem}.svg", subtitle=machine.in_words(here))
    print(f"{table(results, judged)}\n\n{machine.in_words(here)}")
    if settings.prompts is not None:
        print(f"Tried out with at most {settings.prompts:,} prompts: the bars are meant for the whole scenarios.")
    return 0


def _settings() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    listed = "\n".join(f"  {scenario.name:14}{scenario.title}" for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=f"scenarios:\n{listed}"
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="by default cpu64, cpu1000, latency1; or: all")
    parser.add_argument("--repeat", type=int, default=3, help="times each is measured; the median counts (3)")
    parser.add_argument("--prompts", type=int, help="at most this many prompts, to try it out")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="the folder of the results (out/bench)")
    settings = parser.parse_args()
    if unknown := set(settings.scenarios) - {*names, "all"}:
        parser.error(f"expected scenarios among {', '.join(names)} or all, got {', '.join(sorted(unknown))}")
    return settings


def _wanted(settings: argparse.Namespace) -> list[Scenario]:
    asked = set(settings.scenarios)
    wanted = [s for s in SCENARIOS if "all" in asked or s.name in asked or (not asked and s.by_default)]
    return [_shrunk(scenario, settings.prompts) for scenario in wanted]


def _shrunk(scenario: Scenario, most: int | None) -> Scenario:
    if most is None or most >= scenario.prompts:
        return scenario
    small = None if scenario.small is None else min(scenario.small, most // 4)
    return dataclasses.replace(scenario, prompts=most, small=small)


def _trials(scenario: Scenario, *, repeat: int, out: Path) -> list[Trial]:
    """All trials of a scenario, the contestants in turn."""
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(dir=out, prefix=".prompts-") as folder:
        for count in filter(None, (scenario.small, scenario.prompts)):
            write_prompts(Path(folder, f"{count}.jsonl"), count=count)
        for number in range(repeat):
            for count in filter(None, (scenario.small, scenario.prompts)):
                for contestant in scenario.contestants:
                    prompts = Path(folder, f"{count}.jsonl")
                    trials.append(run_trial(scenario, contestant, prompts, count=count, out=out))
                    _note(trials[-1], number)
    return trials


def _note(trial: Trial, number: int) -> None:
    print(
        f"{trial.scenario} {number + 1}: {trial.contestant}, {trial.prompts:,} prompts: {trial.wall_s:.1f} s, "
        f"CPU {trial.cpu_s:.2f} s, first request after {trial.first_s:.2f} s, asking {trial.asking_s:.2f} s, "
        f"workers {sum(trial.worker_peaks_mb):.0f} MB, 429s {trial.refused}, load {trial.load:.2f}",
        file=sys.stderr,
    )


def _raise_open_files() -> None:
    """A connection is a file; the usual soft limit of 1,024 is fewer than are in flight. Contestants inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
