"""Rows 9, 28 and 35 of the faults: storms of minutes and clocks that jump, in virtual time."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from faults.simulation.spec import Spec
from faults.simulation.world import World

from stillhouse.gen.clock import Clock
from stillhouse.gen.teachers.endpoints import MOST_WAIT_S
from stillhouse.gen.views.summary import summarise

CALM = Spec(
    local=True,
    prompts=200,
    later_prompts=0,
    samples=1,
    per_shard=50,
    nodes=1,
    workers=2,
    in_flight=16,
    latency_s=1.0,
    timeout_s=60.0,
    max_attempts=3,
    ship_every_s=2.0,
    keep_raw=False,
    strikes=0,
    fault_share=0.0,
    slow_share=0.0,
    loss_share=0.0,
    shuffles=False,
    retries=False,
    weights={"answer": 1.0},
)


@pytest.mark.parametrize(("fate", "storm_s"), [("busy", 600.0), ("unconnected", 300.0)])
def test_a_storm_is_waited_out(tmp_path: Path, fate: str, storm_s: float) -> None:
    """Rows 9, 28: overload for 10 min, nobody listening for 5 -> probes only, no Failures, back within a minute."""
    world = World(1, tmp_path, spec=CALM)
    loop, history = world.services.loop, world.services.history
    tried: list[int] = []

    def begin() -> None:
        tried.append(sum(history.attempts.values()))
        world.teacher.turn({fate: 1.0})

    def end() -> None:
        tried.append(sum(history.attempts.values()))
        world.teacher.turn({"answer": 1.0})

    loop.call_at(5.0, begin)
    loop.call_at(5.0 + storm_s, end)
    world.run()
    summary = summarise(world.services.store)
    assert (summary.failed, summary.remaining, summary.maybe_billed) == (0, 0, 0)
    answered = [request.sent_at for request in history.requests if request.fate == "answer"]
    assert 20 < sum(moment < 5.0 for moment in answered) < len(answered) - 50  # it came in the middle
    assert max(answered) < 5.0 + storm_s + 60.0
    assert CALM.in_flight is not None
    probes = tried[1] - tried[0] - CALM.in_flight
    assert 10 < probes <= CALM.workers * (storm_s / (MOST_WAIT_S / 2) + 20)


@dataclass
class JumpyClock:
    """A clock whose wall time jumps by up to an hour, either way, at every look."""

    clock: Clock
    rng: Random = field(default_factory=lambda: Random(3))

    def monotonic(self) -> float:
        """See `Clock`."""
        return self.clock.monotonic()

    def time(self) -> float:
        """See `Clock`."""
        return self.clock.time() + self.rng.uniform(-3600.0, 3600.0)


@pytest.mark.parametrize("seed", range(12))
def test_jumps_of_the_wall_clock_change_nothing(tmp_path: Path, seed: int) -> None:
    """Row 35: jumps of an hour, processes suspended and resumed or killed meanwhile -> every promise is kept."""
    world = World(seed, tmp_path)
    world.services.clock = JumpyClock(world.services.clock)  # type: ignore[assignment]
    world.run()
