"""Store, queue and limiter cut off one without the others, in virtual time: what is sent, and what is paid twice."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from faults.simulation.history import Request
from faults.simulation.spec import LATENCY_S, PER_S, Spec
from faults.simulation.world import World

from stillhouse.gen.coordination.leases import FENCE_S
from stillhouse.gen.limits.shares import BURST_S

AWAY_S = 45.0
SLACK_S = 1.0
"""For calls under way, and for the half second after which a driver looks again."""


def live(tmp_path: Path, spec: Spec, *lost: str, at: float, for_s: float, driver: bool = True) -> list[Request]:
    """The requests of a world that is cut so."""
    world = World(1, tmp_path, spec=spec)
    world.part(*lost, at=at, for_s=for_s, driver=driver)
    world.run()
    return world.services.history.requests


def most_in_a_second(requests: Sequence[Request]) -> int:
    """The most requests in any second."""
    times = [request.sent_at for request in requests]
    return max(bisect_left(times, at + 1.0) - n for n, at in enumerate(times))


def longest_pause(requests: Sequence[Request]) -> float:
    """The longest time between two requests."""
    return max(b.sent_at - a.sent_at for a, b in pairwise(requests))


def test_a_healed_partition_causes_no_burst(tmp_path: Path) -> None:
    """The queue is away but the limiter is not: what is sent afterwards is the rate and its burst, no more."""
    requests = live(tmp_path, Spec.calm(), "queue", at=10.0, for_s=20.0)
    assert longest_pause(requests) > 5.0, "the fence never closed: this proves nothing"
    assert most_in_a_second(requests) <= PER_S * (1 + BURST_S) + 2  # a bucket of each worker may hold one more
    assert len(requests) == len({request.sample for request in requests})


@pytest.mark.parametrize("lost", [("limiter",), ("store",), ("queue", "limiter"), ("store", "queue")])
def test_a_partition_causes_no_duplicate_requests(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """If it is shorter than a lease's term, each chunk stays with its worker, whatever that worker can't reach
    meanwhile.
    """
    requests = live(tmp_path, Spec.calm(), *lost, at=10.0, for_s=18.0)
    assert len(requests) == len({request.sample for request in requests})
    assert most_in_a_second(requests) <= PER_S * (1 + BURST_S) + 2


def test_a_worker_that_cannot_ship_stops_sending(tmp_path: Path) -> None:
    """At most ten seconds' worth is on its disk alone, even if queue, limiter and lock are all fine."""
    requests = live(tmp_path, Spec.calm(), "store", at=10.0, for_s=25.0, driver=False)
    assert not [r for r in requests if 10.0 + FENCE_S + SLACK_S < r.sent_at < 35.0]
    assert [r for r in requests if 10.0 + FENCE_S / 2 < r.sent_at < 10.0 + FENCE_S], "it stopped long before it had to"
    assert len(requests) == len({request.sample for request in requests})


def test_a_node_without_its_store_does_not_stop_the_run(tmp_path: Path) -> None:
    """Its workers stop and the others continue: the run neither pauses nor stalls, and the workers come back
    afterwards.
    """
    world = World(1, tmp_path, spec=Spec.calm(workers=4, prompts=2100, per_shard=25))
    world.part("store", at=10.0, for_s=110.0, driver=False, node="node-0")
    figures = world.run()
    requests = world.services.history.requests
    assert figures.runs == 3, "a run to the end, one that only looks, and one that finds nothing to do"
    assert longest_pause(requests) < 2.0
    cut_off = [r for r in requests if r.process.node.name == "node-0"]
    assert [r for r in cut_off if r.sent_at < 10.0], "nobody was there: this proves nothing"
    assert not [r for r in cut_off if 10.0 + FENCE_S + SLACK_S < r.sent_at < 120.0]
    again = len(requests) - len({request.sample for request in requests})
    assert again <= PER_S * (FENCE_S + 2.0 + 4 * 1.5 * LATENCY_S)


def test_a_run_without_its_store_stops_before_another_takes_over(tmp_path: Path) -> None:
    """Nothing is sent from ten seconds after the loss; the second run repeats only what nobody could ship."""
    cut_at = 15.0
    requests = live(tmp_path, Spec.calm(rival_after_s=5.0), "store", at=cut_at, for_s=AWAY_S)
    first = [request for request in requests if request.process.node.cluster == 0]
    second = [request for request in requests if request.process.node.cluster == 1]
    assert second[0].sent_at > cut_at + FENCE_S, "the second was never let in: this proves nothing"
    assert not [r for r in first if cut_at + FENCE_S + SLACK_S < r.sent_at < second[-1].sent_at]
    assert second[0].sent_at < cut_at + AWAY_S, "the first was back before: this proves little"
    samples = {request.sample: request for request in first}
    again = [samples[request.sample] for request in second if request.sample in samples]
    assert all(r.sent_at > cut_at - 2.0 - 4 * 1.5 * LATENCY_S - SLACK_S for r in again)
    assert len(again) <= PER_S * (FENCE_S + 2.0 + 4 * 1.5 * LATENCY_S + 2 * SLACK_S)
    assert most_in_a_second(requests) <= PER_S * (1 + BURST_S) + 2, "both asked at once"
