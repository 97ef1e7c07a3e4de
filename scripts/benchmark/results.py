"""Figures are medians over the repeats of one run, and bars are ratios within it: nothing is compared across runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.contestants import Contestant
from benchmark.scenarios import Bar, Figure, Scenario
from benchmark.trial import Trial


@dataclass(frozen=True, slots=True)
class Result:
    """A contestant's figures in a scenario."""

    scenario: str
    contestant: str
    prompts: int
    figures: dict[Figure, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """True if a bar is met."""

    scenario: str
    figure: Figure
    contestant: str
    against: str | None
    value: float | None
    """None: there was nothing to judge, and the bar is not met."""
    bound: float
    at_least: bool
    met: bool


def result_of(scenario: Scenario, contestant: Contestant, trials: Sequence[Trial]) -> Result:
    """The figures of the scenario's trials by one contestant."""
    mine = [trial for trial in trials if trial.contestant == contestant.title]
    most = max(trial.prompts for trial in mine)
    large = [trial for trial in mine if trial.prompts == most]
    small = [trial for trial in mine if trial.prompts < most]
    figures: dict[Figure, float] = {
        "asking_s": median(trial.asking_s for trial in large),
        "wall_s": median(trial.wall_s for trial in large),
        "requests_s": median(trial.prompts / trial.asking_s for trial in large),
        "first_s": median(trial.first_s for trial in mine),
        "worker_mb": median(max(trial.worker_peaks_mb) for trial in large),
        "workers_mb": median(sum(trial.worker_peaks_mb) for trial in large),
    }
    if small:
        figures["cpu_us"] = _cpu_us(large, small)
        figures["growth"] = figures["workers_mb"] / median(sum(trial.worker_peaks_mb) for trial in small)
    if scenario.watched is not None:
        figures["refused"] = median(trial.refused for trial in large)
        figures["refused_share"] = median(trial.refused / trial.requests for trial in large)
    for name in ("share", "recovered_s"):
        if told := [value for trial in large if (value := getattr(trial, name)) is not None]:
            figures[name] = median(told)
    return Result(scenario.name, contestant.title, most, figures)


def _cpu_us(large: Sequence[Trial], small: Sequence[Trial]) -> float:
    """CPU a request: what the large run used more than the small one, which had the same start-up."""
    cpu_s = median(trial.cpu_s for trial in large) - median(trial.cpu_s for trial in small)
    return cpu_s / (large[0].prompts - small[0].prompts) * 1e6


def verdicts(scenario: Scenario, results: Sequence[Result]) -> Iterator[Verdict]:
    """The scenario's bars, held against its results."""
    figures = {result.contestant: result.figures for result in results}
    for bar in scenario.bars:
        value = figures[bar.of.title].get(bar.figure)
        if value is not None and bar.against is not None:
            value /= figures[bar.against.title][bar.figure]
        yield _verdict(scenario, bar, value)


def _verdict(scenario: Scenario, bar: Bar, value: float | None) -> Verdict:
    against = None if bar.against is None else bar.against.title
    met = value is not None and (value >= bar.bound if bar.at_least else value <= bar.bound)
    return Verdict(scenario.name, bar.figure, bar.of.title, against, value, bar.bound, bar.at_least, met)
