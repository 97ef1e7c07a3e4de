"""How much of a teacher's limits is used, declared or not, in virtual time."""

import math
from dataclasses import replace

import pytest
from closed_loop import Behaviour, Heard, play
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.limits.concurrency import OUTAGE_DIVISOR, step
from stillhouse.gen.limits.replies import Replies, Sample
from stillhouse.gen.limits.search import FIRST_SLOTS, RISE_S, Climbing, Holding, Recovering, Search, Verifying
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.simulator import SimulatorLimits


def limited(*, seed: int = 0, seconds: float = 300.0, latency_s: float = 1.0, **limits: float) -> Heard:
    """Workers at a teacher with these limits, all of them undeclared."""
    behaviour = Behaviour(SimulatorLimits.model_validate(limits), latency_s=latency_s)
    return play(behaviour, seconds=seconds, seed=seed)


# --- declared limits


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stated_rate_is_fully_used_and_never_exceeded(workers: int) -> None:
    """3,000 a minute with a burst of one second: no 429, and hardly a request less."""
    limits = SimulatorLimits(requests_per_minute=3000)
    heard = play(Behaviour(limits), told=Limits(requests_per_minute=3000), workers=workers, seconds=120)
    assert heard.refused == []
    assert heard.per_s(10, 120) >= 0.99 * 50


@pytest.mark.parametrize("latency_s", [1.0, 4.0])
def test_a_stated_rate_is_fully_used_within_three_seconds_and_one_answer(latency_s: float) -> None:
    """100 per second, with no declared number in flight: the first answers show how many it takes."""
    limits = SimulatorLimits(requests_per_minute=6000)
    behaviour = Behaviour(limits, latency_s=latency_s, spread=0.2)
    heard = play(behaviour, told=Limits(requests_per_minute=6000), seconds=20 + 2 * latency_s)
    begun = 3.0 + latency_s
    assert heard.refused == []
    # What is sent from then on is answered a latency later.
    assert heard.per_s(begun + latency_s, begun + latency_s + 10) >= 0.97 * 100


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_later_workers_get_their_share_within_seconds(workers: int) -> None:
    """The first worker has all 200 slots until others join: slots that it frees are used again at once."""
    heard = play(Behaviour(), told=Limits(in_flight=200), workers=workers, seconds=10)
    assert heard.per_s(2, 8) >= 0.85 * 200 / math.exp(0.3**2 / 2)


def test_a_teacher_slower_than_its_stated_rate_is_not_overloaded() -> None:
    """Told 1,000 a second and able to do 64, it queues what it can't do: the step to the told rate is undone.

    What was sent by then is waited out, which takes half a minute; then it is found what the teacher can do.
    """
    heard = play(Behaviour(parallel=64), told=Limits(requests_per_minute=60_000), seconds=150)
    assert heard.slots <= 3 * 64
    assert heard.per_s(90, 150) >= 0.97 * 64 / math.exp(0.3**2 / 2)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stated_token_limit_is_used_by_actual_answer_lengths(workers: int) -> None:
    """Lengths of 50 to 2,000, known afterwards: what was reserved and not used is not lost.

    The last few percent stay free for what requests in flight may use beyond their estimates.
    """
    limits = SimulatorLimits(output_tokens_per_minute=600_000, token_burst_s=60)
    behaviour = Behaviour(limits, latency_s=2.0, tokens=(50, 2000))
    heard = play(behaviour, told=Limits(output_tokens_per_minute=600_000), workers=workers, seconds=300)
    assert heard.refused == []
    assert heard.per_s(60, 300, tokens=True) >= 0.94 * 10_000


# --- undeclared limits


@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_rate_is_found(seed: int) -> None:
    """Nine tenths of it after two minutes, and one request in a hundred refused, the search itself included."""
    heard = limited(requests_per_minute=3000, seed=seed)
    assert heard.per_s(120, 300) >= 0.9 * 50
    assert heard.refused_share <= 0.01


@pytest.mark.parametrize(
    ("per_s", "burst_s", "most_refused"),
    [
        (20, 1.0, 0.01),
        (50, 1.0, 0.01),
        (100, 1.0, 0.01),
        (20, 10.0, 0.01),
        (50, 10.0, 0.01),
        (20, 60.0, 0.0125),
        (50, 60.0, 0.01),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_first_two_minutes_at_an_unknown_rate_cost_few_refusals(
    per_s: int, burst_s: float, most_refused: float, seed: int
) -> None:
    """Nine tenths of the rate within 45 s, whatever was let through before that: a burst misleads by its size."""
    heard = limited(requests_per_minute=60 * per_s, burst_s=burst_s, seed=seed, seconds=120)
    assert heard.per_s(45, 120) >= 0.9 * per_s
    assert heard.refused_share <= most_refused


@pytest.mark.parametrize(
    ("per_s", "renewal_s", "seed"),
    # In the last two, workers that have not heard of a cut yet cause refusals on the rise after it.
    [(20, 1.0, 0), (50, 1.0, 0), (50, 1.0, 5), (50, 0.5, 13)],
)
def test_an_unknown_rate_is_found_by_workers_who_learn_of_it_late(per_s: int, renewal_s: float, seed: int) -> None:
    """Leases take a second, as on a busy machine; what is sent meanwhile is refused."""
    behaviour = Behaviour(SimulatorLimits(requests_per_minute=60 * per_s))
    heard = play(behaviour, renewal_s=renewal_s, seconds=120, seed=seed)
    assert heard.per_s(45, 120) >= 0.9 * per_s
    assert heard.refused_share <= 0.03


def test_an_unknown_rate_is_found_behind_long_answers() -> None:
    """What is in flight says little of the rate, and the search is slower."""
    heard = limited(requests_per_minute=3000, latency_s=5.0)
    assert heard.per_s(120, 300) >= 0.8 * 50
    assert heard.refused_share <= 0.01


@pytest.mark.parametrize("most", [8, 200])
def test_an_unknown_number_in_flight_is_found(most: int) -> None:
    """Below where the search starts, or far above."""
    heard = limited(in_flight=most)
    assert heard.per_s(120, 300) >= 0.9 * most / math.exp(0.3**2 / 2)
    assert sum(at >= 120 for at in heard.refused) <= 0.01 * 180 * most


def test_a_burst_of_a_whole_minute_does_not_mislead_for_long() -> None:
    """All that was saved up is used at once, and then the rate."""
    heard = limited(requests_per_minute=3000, burst_s=60)
    assert heard.per_s(120, 300) >= 0.9 * 50
    assert sum(at >= 120 for at in heard.refused) <= 0.02 * 180 * 50


# As long as it takes to grow and to be worn down again; full grown, a second is thousands of answers.
@pytest.mark.parametrize(("seed", "seconds"), [(0, 260), (1, 150), (2, 90)])
def test_occasional_refusals_are_not_overload(seed: int, seconds: int) -> None:
    """Refusing one in twenty at any load neither wears concurrency down nor keeps it from growing."""
    assert play(Behaviour(refuses=0.05), seconds=seconds, seed=seed).slots >= 500


@pytest.mark.parametrize("seed", range(3))
def test_a_rate_is_found_although_some_are_refused_at_any_load(seed: int) -> None:
    """Nine tenths of 50 a second from 45 s on, of which the refused twentieth tells nothing."""
    behaviour = Behaviour(SimulatorLimits(requests_per_minute=3000), refuses=0.05)
    assert play(behaviour, seconds=120, seed=seed).per_s(45, 120) >= 0.9 * 50


@pytest.mark.parametrize("parallel", [64, 256])
def test_a_teacher_that_queues_is_not_overloaded(parallel: int) -> None:
    """It never refuses; all its turns are used, and hardly more wait than work."""
    heard = play(Behaviour(latency_s=2.0, tokens=(50, 500), parallel=parallel), workers=2, seconds=400)
    assert heard.per_s(200, 400) >= 0.97 * parallel / (2.0 * math.exp(0.3**2 / 2))
    assert heard.slots <= 2 * parallel


def test_a_storm_does_not_lower_the_estimate() -> None:
    """A minute of nothing but refusals: few are sent, and ten seconds after it all is as before."""
    limits = SimulatorLimits(requests_per_minute=12_000)
    heard = play(Behaviour(limits, spread=0.0, storm_s=(100.0, 160.0)), seconds=190)
    assert sum(105 <= at < 160 for at in heard.refused) <= 20 * 55
    assert heard.per_s(80, 100) >= 0.9 * 200
    assert heard.per_s(168, 172) >= 0.9 * 200


# --- the states, one transition each


def after(search: Search, share: float, *, seconds: float = 12.0, speed: float = 1.0) -> Search:
    """The search after so many seconds in which this share was refused; `speed`: of a slot, in answers per second.

    It ends with the first change of state or concurrency.
    """
    now = search.at
    for _ in range(int(10 * seconds)):
        now += 0.1
        sent = max(1, round(0.1 * search.slots * speed))
        refused = round(sent * share)
        served = sent - refused
        replies = Replies(served, refused, busy_s=served / speed, tokens=50 * served)
        found = step(search, replies, saturated=True, leased_at=now, now=now)
        if (found.slots, found.state) != (search.slots, search.state):
            return found
        search = found
    return search


CLIMBED = replace(after(Search(), 0.0), overloaded_at=-1000.0)
"""A step above what is sustained; the last overload was long ago, and little was in flight since."""
UNTRIED = replace(after(Search(sustained=100, slots=100, not_sustained=105.0), 0.0), spell=Search().spell)
"""At the knee; what was served before is forgotten, and nothing was ever refused."""
HELD = replace(UNTRIED, overloaded_at=-1000.0, since_cut=Search().since_cut)
"""The same, after an overload long ago."""


def test_a_sustained_concurrency_is_stepped_up() -> None:
    """As long as nothing is refused."""
    assert (CLIMBED.state, CLIMBED.sustained) == (Climbing(), 32)
    assert after(CLIMBED, 0.0).slots > CLIMBED.slots > 32


def test_a_step_up_is_gradual() -> None:
    """A limit on the way is noticed before all the requests of the step are sent."""
    taken = [CLIMBED.slots_at(CLIMBED.at + part * RISE_S) for part in (0.0, 0.25, 0.5, 0.75, 1.5)]
    assert taken[0] == 32
    assert taken == sorted(set(taken))
    assert taken[-1] == CLIMBED.slots


def test_a_search_starts_small() -> None:
    """Nobody has been refused yet, so nobody knows what is too much."""
    begun = step(Search(), Replies(), saturated=False, leased_at=7.0, now=7.0)
    assert begun.slots_at(7.0) == FIRST_SLOTS
    assert begun.slots_at(7.0 + 1.5 * RISE_S) == 32


def test_a_refused_step_is_undone() -> None:
    """The search then continues between the two."""
    undone = after(after(CLIMBED, 0.0, seconds=RISE_S + 0.1), 0.2)
    assert (undone.state, undone.slots, undone.not_sustained) == (Climbing(), 32, CLIMBED.slots)
    assert 32 < after(undone, 0.0, seconds=20).slots < CLIMBED.slots


def test_refusals_early_in_a_step_are_no_fault_of_the_step() -> None:
    """Hardly more is sent than before it: that was too much too."""
    cut = after(CLIMBED, 0.2)
    assert isinstance(cut.state, Verifying)
    assert cut.sustained < 32


def test_a_step_that_gains_nothing_is_undone() -> None:
    """A teacher that queues: each slot became slower in proportion to the number of slots."""
    first = after(CLIMBED, 0.0)
    assert after(first, 0.0, speed=CLIMBED.slots / first.slots).slots == CLIMBED.slots


def test_a_narrow_search_holds() -> None:
    """What is left to find is not worth the refusals."""
    assert isinstance(HELD.state, Holding)
    assert (HELD.slots, HELD.state.until) == (100, HELD.at + 30)


def test_holding_ends_with_a_probe() -> None:
    """There may be more room now."""
    probing = after(HELD, 0.0, seconds=40)
    assert (probing.state, probing.slots) == (Climbing(), 111)


def test_refusals_at_the_sustained_concurrency_are_cut_and_verified() -> None:
    """The teacher has less room than before, or refuses that many at any load."""
    cut = after(HELD, 0.2)
    assert isinstance(cut.state, Verifying)
    assert (cut.slots, cut.sustained, cut.not_sustained) == (80, 80, 100)


def test_a_cut_begins_below_its_aim() -> None:
    """All workers learn of it before they send again."""
    cut = after(HELD, 0.2)
    assert cut.slots_at(cut.at) < cut.slots_at(cut.at + 1.5 * RISE_S) == cut.slots


def test_the_first_cut_goes_far_and_rises_slowly() -> None:
    """The allowance on which the search climbed hid where the limit is."""
    cut = after(UNTRIED, 0.2)
    assert (cut.slots_at(cut.at), cut.slots) == (15, 50)
    assert cut.slots_at(cut.at + 1.5 * RISE_S) < cut.slots


def test_a_cut_goes_no_lower_than_what_was_sustained_since_the_last_overload() -> None:
    """Not even 20 % of refusals cost more than one slot if the mean concurrency was that high."""
    assert after(replace(HELD, overloaded_at=HELD.at, slot_s=0.0), 0.2).slots == 99


def test_the_first_cut_leaves_enough_slots_to_tell_a_baseline_from_a_limit() -> None:
    """Two of twenty refused may be either: with a few slots it would take long to measure which."""
    now = 0.1
    begun = step(Search(), Replies(), saturated=False, leased_at=0.0, now=0.0)
    few = step(begun, Replies(0, 2), saturated=True, leased_at=0.0, now=now)
    many = step(begun, Replies(0, 8), saturated=True, leased_at=0.0, now=now)
    assert (few.slots, many.slots) == (FIRST_SLOTS, FIRST_SLOTS // 2)
    assert few.slots_at(now) < FIRST_SLOTS // 2


def test_a_baseline_is_forgotten_if_the_next_step_is_refused() -> None:
    """A limit had refused as many before the cut as after it by chance."""
    found = replace(CLIMBED, baseline=0.1)
    testing = replace(found, state=Climbing(tests_baseline=True))
    assert after(testing, 0.5).baseline == 0.0
    assert after(found, 0.5).baseline == pytest.approx(0.1, abs=0.01)


def test_refusals_under_an_older_lease_cause_no_other_cut() -> None:
    """The worker had not heard of the cut when it sent those requests."""
    cut = after(HELD, 0.2)
    now, refused = cut.at + 1.0, Replies(40, 40, busy_s=40.0, tokens=2000)
    assert step(cut, refused, saturated=True, leased_at=cut.at - 0.1, now=now).slots == cut.slots
    assert step(cut, refused, saturated=True, leased_at=cut.at, now=now).slots < cut.slots


@pytest.mark.parametrize(("before", "unfounded"), [(0.01, False), (0.03, True), (0.1, False)])
def test_only_a_share_that_stays_the_same_is_a_baseline(before: float, unfounded: bool) -> None:
    """Neither one that fell nor one that grew since the cut."""
    cut = Verifying(slots=150, refused_share=before, served_per_s=140.0)
    assert cut.was_unfounded(Sample(0.0, served=129, refused=4), served_per_s=21.5) == unfounded


def test_single_refusals_are_not_overload() -> None:
    """One in 200 at 100 requests a second changes nothing; two at once do."""
    search, now = HELD, HELD.at
    for second in range(25):
        now += 1.0
        search = step(
            search, Replies(100, second % 2, busy_s=100.0, tokens=5000), saturated=True, leased_at=now, now=now
        )
    assert (search.state, search.slots) == (HELD.state, HELD.slots)
    assert step(search, Replies(0, 2), saturated=True, leased_at=now, now=now + 0.5).slots < HELD.slots


def test_a_lasting_share_of_refusals_is_overload() -> None:
    """One in 70, each alone: no alarm, but a sustained concurrency is judged by what it costs."""
    search, now = HELD, HELD.at
    while search.state == HELD.state and now < HELD.at + 20.0:
        now += 0.7
        search = step(search, Replies(69, 1, busy_s=69.0, tokens=3450), saturated=True, leased_at=now, now=now)
    assert isinstance(search.state, Verifying)
    assert search.state.refused_share == pytest.approx(1 / 70, abs=0.004)


def test_a_cut_that_helps_stands() -> None:
    """Fewer are refused: it was too much."""
    assert after(after(HELD, 0.2), 0.0).sustained == 80
    assert after(after(HELD, 0.2), 0.0).slots == 90


def test_a_cut_that_changes_nothing_is_undone() -> None:
    """As many are refused as before, and less is served: this share is the teacher's baseline."""
    restored = after(after(HELD, 0.1), 0.1)
    assert (restored.state, restored.slots) == (Climbing(tests_baseline=True), 100)
    assert restored.baseline == pytest.approx(0.1, abs=0.05)


def test_an_outage_reduces_requests_to_a_few_and_recovers() -> None:
    """Nothing is concluded from it; concurrency doubles back as soon as some are served."""
    down = after(HELD, 1.0)
    assert isinstance(HELD.state, Holding)
    assert (down.state, down.slots, down.sustained) == (Recovering(HELD.state), 100 // OUTAGE_DIVISOR, 100)
    assert after(down, 0.0).slots == 2 * down.slots


def test_recovery_ends_where_it_was() -> None:
    """In the state that the outage broke off."""
    search = after(HELD, 1.0)
    while isinstance(search.state, Recovering):
        search = after(search, 0.0)
    assert (search.state, search.slots) == (HELD.state, 100)


def test_an_outage_that_began_with_refusals_forgets_the_cut() -> None:
    """They were no limit."""
    down = after(after(HELD, 0.3), 1.0)
    assert (down.state, down.sustained) == (Recovering(Climbing()), 100)


def test_concurrency_grows_only_while_it_is_used_up() -> None:
    """What is never in flight at once proves nothing."""
    search = Search()
    for second in range(100):
        search = step(
            search, Replies(served=32, busy_s=32.0), saturated=False, leased_at=float(second), now=float(second)
        )
    assert search.slots == 32


@given(steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans(), st.floats(0, 10)), max_size=100))
def test_concurrency_stays_within_its_bounds(steps: list[tuple[int, int, bool, float]]) -> None:
    """Never zero, and never above the maximum."""
    search, now = Search(), 0.0
    for served, refused, saturated, passed in steps:
        now += passed
        search = step(
            search, Replies(served, refused, served * 0.5, served * 9), saturated=saturated, leased_at=now, now=now
        )
        assert 1 <= search.slots <= search.most
