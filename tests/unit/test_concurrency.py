"""What is used of a teacher's limits, told or not, in virtual time."""

import math

import pytest
from closed_loop import Behaviour, Heard, play
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.limits.concurrency import Adaptive, Replies
from stillhouse.schemas.simulator import SimulatorLimits
from stillhouse.schemas.teacher import Limits


def limited(*, seed: int = 0, seconds: float = 300.0, latency_s: float = 1.0, **limits: float) -> Heard:
    """Workers that were told nothing at a teacher with these limits."""
    behaviour = Behaviour(SimulatorLimits.model_validate(limits), latency_s=latency_s)
    return play(behaviour, seconds=seconds, seed=seed)


# --- what was told


@pytest.mark.parametrize("workers", [1, 4])
def test_a_told_rate_is_all_used_and_never_exceeded(workers: int) -> None:
    """3,000 a minute with a burst of one second: no 429, and hardly a request less."""
    limits = SimulatorLimits(requests_per_minute=3000)
    heard = play(Behaviour(limits), told=Limits(requests_per_minute=3000), workers=workers, seconds=120)
    assert heard.refused == []
    assert heard.per_s(10, 120) >= 0.99 * 50


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_told_token_limit_is_used_by_what_answers_turn_out_to_be(workers: int) -> None:
    """Lengths of 50 to 2,000, known afterwards: what was reserved and not used is not lost."""
    limits = SimulatorLimits(output_tokens_per_minute=600_000, token_burst_s=60)
    behaviour = Behaviour(limits, latency_s=2.0, tokens=(50, 2000))
    heard = play(behaviour, told=Limits(output_tokens_per_minute=600_000), workers=workers, seconds=300)
    assert heard.refused == []
    assert heard.per_s(60, 300, tokens=True) >= 0.98 * 10_000


# --- what nobody told


@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_rate_is_found(seed: int) -> None:
    """Nine tenths of it after two minutes, and one request in a hundred refused, the search itself included."""
    heard = limited(requests_per_minute=3000, seed=seed)
    assert heard.per_s(120, 300) >= 0.9 * 50
    assert heard.refused_share <= 0.01


def test_an_unknown_rate_is_found_behind_long_answers() -> None:
    """What is under way says little of the rate: the search is slower, and one in thirty is refused."""
    heard = limited(requests_per_minute=3000, latency_s=5.0)
    assert heard.per_s(120, 300) >= 0.8 * 50
    assert heard.refused_share <= 0.04


@pytest.mark.parametrize("most", [8, 200])
def test_an_unknown_number_in_flight_is_found(most: int) -> None:
    """Below where the search starts, or far above."""
    heard = limited(in_flight=most)
    assert heard.per_s(120, 300) >= 0.9 * most / math.exp(0.3**2 / 2)
    assert sum(at >= 120 for at in heard.refused) <= 0.01 * 180 * most


def test_an_allowance_of_a_whole_minute_does_not_mislead_for_long() -> None:
    """All that was saved up is used at once, and then the rate."""
    heard = limited(requests_per_minute=3000, burst_s=60)
    assert heard.per_s(120, 300) >= 0.9 * 50
    assert sum(at >= 120 for at in heard.refused) <= 0.02 * 180 * 50


# As long as it takes to grow and to be worn down again; full grown, a second is thousands of answers.
@pytest.mark.parametrize(("seed", "seconds"), [(0, 260), (1, 150), (2, 90)])
def test_everyday_refusals_are_no_sign_of_too_much(seed: int, seconds: int) -> None:
    """One in twenty at any load neither wears concurrency down nor keeps it from growing."""
    assert play(Behaviour(refuses=0.05), seconds=seconds, seed=seed).slots >= 500


@pytest.mark.parametrize("parallel", [64, 256])
def test_a_teacher_that_queues_is_not_buried(parallel: int) -> None:
    """It never refuses; all its turns are used, and hardly more wait than work."""
    heard = play(Behaviour(latency_s=2.0, tokens=(50, 500), parallel=parallel), workers=2, seconds=400)
    assert heard.per_s(200, 400) >= 0.97 * parallel / (2.0 * math.exp(0.3**2 / 2))
    assert heard.slots <= 2 * parallel


def test_a_storm_teaches_nothing() -> None:
    """A minute of nothing but refusals: few are sent, and ten seconds after it all is as before."""
    limits = SimulatorLimits(requests_per_minute=12_000)
    heard = play(Behaviour(limits, spread=0.0, storm_s=(100.0, 160.0)), seconds=190)
    assert sum(105 <= at < 160 for at in heard.refused) <= 20 * 55
    assert heard.per_s(80, 100) >= 0.9 * 200
    assert heard.per_s(168, 172) >= 0.9 * 200


# --- alone


def test_concurrency_grows_only_while_it_is_used_up() -> None:
    """What is never under way at once proves nothing."""
    adaptive = Adaptive()
    for second in range(100):
        adaptive.observe(Replies(served=32, busy_s=32.0), saturated=False, now=float(second))
    assert adaptive.slots == 32


@given(steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans(), st.floats(0, 10)), max_size=100))
def test_concurrency_stays_in_its_bounds(steps: list[tuple[int, int, bool, float]]) -> None:
    """Never none, never more than the most."""
    adaptive, now = Adaptive(), 0.0
    for served, refused, saturated, passed in steps:
        now += passed
        adaptive.observe(Replies(served, refused, served * 0.5, served * 9), saturated=saturated, now=now)
        assert 1 <= adaptive.slots <= adaptive.most
