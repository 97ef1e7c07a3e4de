"""What an account's limits come to over minutes, by the real worker and limiter in virtual time."""

from bisect import bisect_left
from itertools import pairwise
from pathlib import Path

from faults.simulation.spec import PER_S, Spec
from faults.simulation.world import World

WAIT_S = 45.0


def test_one_prompts_refusals_cost_the_others_their_first_wait_alone(tmp_path: Path) -> None:
    """Every 429 to one prompt states a wait: all honour the first, then no minute is served at less than half rate.

    The teacher checks that nobody sends during that first wait; the prompt itself is never asked before it may be.
    """
    odd = "question 40"
    world = World(1, tmp_path, spec=Spec.calm(prompts=1700, per_shard=200))
    world.teacher.odd = {odd: f"{WAIT_S:g}"}
    world.run()
    requests = world.services.history.requests
    asked = [request.sent_at for request in requests if request.sample[0] == odd]
    assert len(asked) >= 3, "it was given up at once: this proves nothing"
    assert all(b - a >= WAIT_S for a, b in pairwise(asked))
    times = [request.sent_at for request in requests if request.sample[0] != odd]
    start = next(at for at in times if at > asked[0] + WAIT_S)
    rates = [
        (bisect_left(times, begin + 60.0) - bisect_left(times, begin)) / 60.0
        for begin in range(int(start) + 2, int(asked[-1]) - 60)
    ]
    assert rates
    assert min(rates) >= 0.95 * PER_S
