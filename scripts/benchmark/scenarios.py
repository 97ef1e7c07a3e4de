"""What is measured, and what it should come to."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmark.contestants import AIOHTTP, ALL, HTTPX, STILLHOUSE, STILLHOUSE_2, STILLHOUSE_4, Contestant
from schemas.teacher import Limits

Figure: TypeAlias = Literal[
    "cpu_us", "asking_s", "wall_s", "requests_s", "first_s", "worker_mb", "workers_mb", "growth", "share", "refused"
]
FIGURES: dict[Figure, str] = {
    "cpu_us": "CPU a request without the start-up, µs",
    "asking_s": "first request to last answer, s",
    "wall_s": "whole command, s",
    "requests_s": "requests/s",
    "first_s": "command to first request, s",
    "worker_mb": "peak memory of a worker, MB",
    "workers_mb": "peak memory of all workers, MB",
    "growth": "peak memory of all workers, times that of the small run",
    "share": "share of the limit used after 10 s",
    "refused": "429s",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure's bound: as a multiple of another contestant's figure where one is named, else of 1."""

    figure: Figure
    bound: float
    against: Contestant | None = None
    of: Contestant = STILLHOUSE
    at_least: bool = False
    """The bound is the least, not the most."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The same work for all contestants, in turn, in one run."""

    name: str
    title: str
    prompts: int
    in_flight: int
    latency_s: float = 0.0
    small: int | None = None
    """A second, small run, taken off from the first: what is left is without the start-up."""
    requests_per_minute: int | None = None
    contestants: tuple[Contestant, ...] = ALL
    bars: tuple[Bar, ...] = ()
    repeated: bool = True
    """Repeated as often as asked for; a long one is measured once."""
    by_default: bool = False
    """Among those that are measured where none is named."""

    @property
    def limits(self) -> Limits:
        """What the contestants are told."""
        return Limits(in_flight=self.in_flight, requests_per_minute=self.requests_per_minute)


SCENARIOS = (
    Scenario(
        "cpu64",
        "instant answers, 64 in flight",
        prompts=100_000,
        in_flight=64,
        small=2_000,
        bars=(Bar("cpu_us", 2.0, HTTPX),),
        by_default=True,
    ),
    Scenario(
        "cpu1000",
        "instant answers, 1,000 in flight",
        prompts=100_000,
        in_flight=1_000,
        small=2_000,
        bars=(Bar("cpu_us", 2.0, HTTPX),),
        by_default=True,
    ),
    Scenario(
        "latency1",
        "answers in 1.0 s, 1,000 in flight",
        prompts=10_000,
        in_flight=1_000,
        latency_s=1.0,
        small=2_000,
        bars=(Bar("asking_s", 1.1, AIOHTTP),),
        by_default=True,
    ),
    Scenario("latency02", "answers in 0.2 s, 256 in flight", prompts=20_000, in_flight=256, latency_s=0.2, small=2_000),
    Scenario(
        "flight2000", "answers in 1.0 s, 2,000 in flight", prompts=20_000, in_flight=2_000, latency_s=1.0, small=4_000
    ),
    Scenario(
        "workers2",
        "instant answers, 64 in flight, 1 and 2 workers",
        prompts=50_000,
        in_flight=64,
        small=2_000,
        contestants=(STILLHOUSE, STILLHOUSE_2),
    ),
    Scenario(
        "limited",
        "3,000 requests a minute, a burst of one second",
        prompts=3_000,
        in_flight=64,
        latency_s=0.2,
        requests_per_minute=3_000,
        contestants=(STILLHOUSE_4, HTTPX, AIOHTTP),
        repeated=False,
    ),
    Scenario(
        "growth",
        "instant answers, 1,000,000 prompts after 10,000",
        prompts=1_000_000,
        in_flight=64,
        small=10_000,
        contestants=(STILLHOUSE, AIOHTTP),
        bars=(Bar("growth", 1.2),),
        repeated=False,
    ),
)
