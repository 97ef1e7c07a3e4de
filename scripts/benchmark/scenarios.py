"""What is measured, and what it should come to."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmark.contestants import (
    AIOHTTP,
    ALL,
    CLUSTER_4,
    HTTPX,
    JUDGED,
    STILLHOUSE,
    STILLHOUSE_2,
    STILLHOUSE_4,
    Contestant,
)
from benchmark.server import Storm, Watched
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.simulator import SimulatorLimits, SimulatorSettings, StatusFault

Figure: TypeAlias = Literal[
    "cpu_us", "asking_s", "wall_s", "requests_s", "first_s", "worker_mb", "workers_mb", "growth", "share", "refused",
    "refused_share", "recovered_s",
]  # fmt: skip
FIGURES: dict[Figure, str] = {
    "cpu_us": "CPU a request without the start-up, µs",
    "asking_s": "first request to last answer, s",
    "wall_s": "whole command, s",
    "requests_s": "requests/s",
    "first_s": "command to first request, s",
    "worker_mb": "peak memory of a worker, MB",
    "workers_mb": "peak memory of all workers, MB",
    "growth": "peak memory of all workers, times that of the small run",
    "share": "share of the limit used",
    "refused": "429s",
    "refused_share": "429s of all requests",
    "recovered_s": "end of the storm to full speed, s",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure's bound: as a multiple of another contestant's figure if one is named, else of 1."""

    figure: Figure
    bound: float
    against: Contestant | None = None
    of: Contestant = STILLHOUSE
    at_least: bool = False
    """The bound is the least, not the most."""


_INSTANT = SimulatorSettings()


@dataclass(frozen=True, slots=True)
class Scenario:
    """The same work for all contestants, in turn, in one run."""

    name: str
    title: str
    prompts: int
    in_flight: int
    """What the bare scripts send at once; also given to Stillhouse unless `told` is set."""
    server: SimulatorSettings = _INSTANT
    told: Limits | None = None
    """The account's limits given to Stillhouse instead."""
    max_tokens: int = 512
    watched: Watched | None = None
    storm: Storm | None = None
    small: int | None = None
    """A second, small run, taken off from the first: what is left is without the start-up."""
    contestants: tuple[Contestant, ...] = ALL
    bars: tuple[Bar, ...] = ()
    repeated: bool = True
    """Repeated as often as asked for; a long one is measured once."""
    by_default: bool = False
    """Among those that are measured where none is named."""

    @property
    def limits(self) -> Limits:
        """The limits that Stillhouse is given."""
        return Limits(in_flight=self.in_flight) if self.told is None else self.told


def _latency(seconds: float) -> SimulatorSettings:
    return SimulatorSettings(latency_s=seconds)


_UNTOLD = SimulatorSettings(
    latency_s=1.0, latency_spread=0.3, limits=SimulatorLimits(requests_per_minute=3_000, headers=False)
)
_UNTOLD_BARS = (Bar("share", 0.9, of=STILLHOUSE_2, at_least=True), Bar("refused_share", 0.01, of=STILLHOUSE_2))
_STORM = Storm(40.0, 100.0)
_STORMY = StatusFault(status=429, headers={"retry-after": "1"}, start_s=_STORM.start_s, stop_s=_STORM.stop_s)

SCENARIOS = (
    Scenario(
        "cpu64",
        "instant answers, 64 in flight",
        prompts=100_000,
        in_flight=64,
        small=2_000,
        bars=(Bar("cpu_us", 1.0, HTTPX),),
        by_default=True,
    ),
    Scenario(
        "cpu1000",
        "instant answers, 1,000 in flight",
        prompts=100_000,
        in_flight=1_000,
        small=2_000,
        bars=(Bar("cpu_us", 1.0, HTTPX),),
        by_default=True,
    ),
    Scenario(
        "latency1",
        "answers in 1.0 s, 1,000 in flight",
        prompts=10_000,
        in_flight=1_000,
        server=_latency(1.0),
        small=2_000,
        bars=(Bar("asking_s", 1.02, AIOHTTP),),
        by_default=True,
    ),
    Scenario(
        "latency02", "answers in 0.2 s, 256 in flight", prompts=20_000, in_flight=256, server=_latency(0.2), small=2_000
    ),
    Scenario(
        "flight2000",
        "answers in 1.0 s, 2,000 in flight",
        prompts=20_000,
        in_flight=2_000,
        server=_latency(1.0),
        small=4_000,
        bars=(Bar("requests_s", 0.95, AIOHTTP, at_least=True),),
    ),
    Scenario(
        "judge",
        "instant answers, 64 in flight, and as many verdicts",
        prompts=20_000,
        in_flight=64,
        small=2_000,
        contestants=(STILLHOUSE, JUDGED),
        bars=(Bar("cpu_us", 2 * 1.1, STILLHOUSE, of=JUDGED),),
    ),
    Scenario(
        "workers2",
        "instant answers, 64 in flight, 1 and 2 workers",
        prompts=50_000,
        in_flight=64,
        small=2_000,
        contestants=(STILLHOUSE, STILLHOUSE_2),
        bars=(Bar("cpu_us", 1.1, STILLHOUSE, of=STILLHOUSE_2),),
    ),
    Scenario(
        "limited",
        "3,000 requests a minute, a burst of one second",
        prompts=15_000,
        in_flight=64,
        server=SimulatorSettings(latency_s=0.2, limits=SimulatorLimits(requests_per_minute=3_000)),
        told=Limits(requests_per_minute=3_000, in_flight=64),
        watched=Watched("requests", 3_000, after_s=10.0),
        contestants=(CLUSTER_4,),
        bars=(Bar("share", 0.99, of=CLUSTER_4, at_least=True), Bar("refused", 0, of=CLUSTER_4)),
        repeated=False,
    ),
    Scenario(
        "tokens",
        "600,000 tokens of output a minute, answers of 50 to 2,000 in 2.0 s",
        prompts=2_400,
        in_flight=128,
        server=SimulatorSettings(
            latency_s=2.0,
            output_tokens=(50, 2_000),
            limits=SimulatorLimits(output_tokens_per_minute=600_000, token_burst_s=60.0),
        ),
        told=Limits(output_tokens_per_minute=600_000),
        max_tokens=4_096,
        watched=Watched("output tokens", 600_000, after_s=60.0),
        contestants=(STILLHOUSE_2,),
        bars=(Bar("share", 0.97, of=STILLHOUSE_2, at_least=True), Bar("refused", 0, of=STILLHOUSE_2)),
        repeated=False,
    ),
    Scenario(
        "unknown",
        "3,000 requests a minute that nobody tells, answers in 1.0 s",
        prompts=15_000,
        in_flight=64,
        server=_UNTOLD,
        told=Limits(),
        watched=Watched("requests", 3_000, after_s=120.0),
        contestants=(STILLHOUSE_2,),
        bars=_UNTOLD_BARS,
        repeated=False,
    ),
    Scenario(
        "ramp",
        "6,000 requests a minute with only the rate declared, answers in 1.0 s: from 4.5 s on",
        prompts=8_000,
        in_flight=64,
        server=SimulatorSettings(latency_s=1.0, latency_spread=0.2, limits=SimulatorLimits(requests_per_minute=6_000)),
        told=Limits(requests_per_minute=6_000),
        watched=Watched("requests", 6_000, after_s=4.5),
        contestants=(STILLHOUSE_2,),
        bars=(Bar("share", 0.97, of=STILLHOUSE_2, at_least=True), Bar("refused", 0, of=STILLHOUSE_2)),
        repeated=False,
    ),
    Scenario(
        "ramp-unknown",
        "3,000 requests a minute that nobody tells, answers in 1.0 s: the first two minutes, from 45 s on",
        prompts=5_800,
        in_flight=64,
        server=_UNTOLD,
        told=Limits(),
        watched=Watched("requests", 3_000, after_s=45.0),
        contestants=(STILLHOUSE_2,),
        bars=_UNTOLD_BARS,
        repeated=False,
    ),
    Scenario(
        "tail",
        "4 workers, answers of 5 to 60 s, 200 in flight: until fewer samples than slots remain",
        prompts=1_600,
        in_flight=200,
        server=SimulatorSettings(latency_s=17.0, latency_spread=0.6, limits=SimulatorLimits(in_flight=200)),
        watched=Watched("slots", 200, after_s=10.0),
        contestants=(STILLHOUSE_4,),
        bars=(Bar("share", 0.95, of=STILLHOUSE_4, at_least=True), Bar("refused", 0, of=STILLHOUSE_4)),
        repeated=False,
    ),
    Scenario(
        "storm",
        "answers in 1.0 s, 200 in flight, for 60 s nothing but 429s",
        prompts=12_000,
        in_flight=200,
        server=SimulatorSettings(latency_s=1.0, faults=(_STORMY,)),
        storm=_STORM,
        contestants=(STILLHOUSE,),
        bars=(Bar("recovered_s", 10.0),),
        repeated=False,
    ),
    Scenario(
        "growth",
        "instant answers, 1,000,000 prompts after 10,000",
        prompts=1_000_000,
        in_flight=64,
        small=10_000,
        contestants=(STILLHOUSE, AIOHTTP),
        bars=(Bar("growth", 1.05),),
        repeated=False,
    ),
)
