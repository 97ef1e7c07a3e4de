"""The allowance: what is spent never runs ahead of what is leased."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.limits.allowance import Allowance
from stillhouse.gen.limits.estimator import Estimator
from stillhouse.gen.limits.shares import BURST_S, LEASE_S, Cost, Lease, Resource

ONE = Cost(0, 0)
"""A request, where no tokens are limited."""


def leased(rates: dict[Resource, float], *, slots: int = 1000, now: float = 0.0, ttl_s: float = math.inf) -> Allowance:
    """An allowance with one lease, by default forever."""
    allowance = Allowance()
    allowance.accept(Lease(rates, slots, ttl_s, 0.0), asked_at=now, now=now)
    return allowance


def test_nothing_is_sent_without_a_lease() -> None:
    """Before the first one, and once it is over: only a renewal helps."""
    assert Allowance().reserve(ONE, now=0.0) == math.inf
    allowance = leased({}, ttl_s=2.0, now=10.0)
    assert allowance.reserve(ONE, now=11.9) == 0.0
    assert allowance.reserve(ONE, now=12.0) == math.inf


def test_a_lease_runs_from_when_it_was_requested() -> None:
    """The ledger's count began before the answer arrived."""
    allowance = Allowance()
    allowance.accept(Lease({}, 5, 2.0, 0.0), asked_at=10.0, now=11.5)
    assert allowance.reserve(ONE, now=11.9) == 0.0
    assert allowance.reserve(ONE, now=12.0) == math.inf


def test_slots_are_a_hard_bound() -> None:
    """And come back with the request."""
    allowance = leased({}, slots=2)
    assert [allowance.reserve(ONE, now=0.0) for _ in range(3)] == [0.0, 0.0, math.inf]
    allowance.settle(ONE, None, now=0.0)
    assert allowance.reserve(ONE, now=0.0) == 0.0
    assert (allowance.in_flight, allowance.peak) == (2, 2)


def test_a_pause_holds_everything() -> None:
    """For as long as it was ordered; a shorter one later changes nothing."""
    allowance = leased({})
    allowance.pause(7.0, now=1.0)
    allowance.pause(1.0, now=2.0)
    assert allowance.reserve(ONE, now=3.0) == pytest.approx(5.0)
    assert allowance.reserve(ONE, now=8.0) == 0.0


def test_a_wait_is_as_long_as_it_says() -> None:
    """When asked again after it, the request may go."""
    allowance = leased({"requests": 2.0, "input": 100.0})
    assert allowance.reserve(Cost(30, 0), now=0.0) == pytest.approx(0.5)
    assert allowance.reserve(Cost(30, 0), now=0.5) == 0.0
    assert allowance.reserve(Cost(80, 0), now=0.5) == pytest.approx(0.8)


def test_a_rate_of_zero_waits_for_the_next_lease() -> None:
    """Not for a time."""
    assert leased({"requests": 0.0}).reserve(ONE, now=99.0) == math.inf


@pytest.mark.parametrize("per_second", [0.02, 0.3, 3.0, 300.0])
def test_even_a_tiny_rate_is_reached(per_second: float) -> None:
    """Renewals every second, far more often than requests, do not eat what has gathered for the next one."""
    allowance = Allowance()
    sent, now, wake = 0, 0.0, 0.0
    renew = 0.0
    while now < 1000.0:
        if now >= renew:
            allowance.accept(Lease({"requests": per_second}, 10_000, LEASE_S, 0.0), asked_at=now, now=now)
            renew = now + 1.0
        while (wait := allowance.reserve(ONE, now=now)) == 0.0:
            allowance.settle(ONE, None, now=0.0)
            sent += 1
        wake = now + wait
        now = min(renew, wake)
    assert per_second * 1000 * 0.98 - 1 <= sent <= per_second * (1000 + BURST_S) + 1


def test_a_request_larger_than_a_burst_gets_through() -> None:
    """Its tokens gather for as long as it takes."""
    allowance = leased({"input": 10.0})
    assert allowance.reserve(Cost(5000, 0), now=0.0) == pytest.approx(500.0)
    assert allowance.reserve(Cost(5000, 0), now=250.0) == pytest.approx(250.0)
    assert allowance.reserve(Cost(5000, 0), now=500.001) == 0.0


def test_a_debt_is_paid_by_waiting() -> None:
    """A request that used more than its estimate holds the next ones back, also over a renewal."""
    allowance = leased({"output": 10.0})
    allowance.reserve(Cost(0, 1), now=0.0)
    assert allowance.reserve(Cost(0, 1), now=0.2) == 0.0
    allowance.settle(Cost(0, 1), Cost(0, 101), now=0.2)
    allowance.accept(Lease({"output": 20.0}, 10, math.inf, 0.0), asked_at=0.2, now=0.2)
    wait = allowance.reserve(Cost(0, 1), now=0.2)
    assert 4.9 <= wait <= 5.1


def test_prompts_that_take_ten_times_their_estimate_keep_to_the_limit() -> None:
    """Such as images, if their formula is wrong: each answer's debt is waited for, and the next estimate is higher."""
    rate, chars, used = 100.0, 4000, Cost(10_000, 1)
    allowance, estimator = leased({"input": rate}), Estimator(max_output=1)
    now, estimates = 0.0, []
    for asked in range(30):
        cost = estimator.estimate(chars)
        estimates.append(cost.input)
        while (wait := allowance.reserve(cost, now=now)) > 0.0:
            now += wait
        assert asked * used.input <= rate * (now + LEASE_S)
        allowance.settle(cost, used, now=now)
        estimator.learn(chars, used)
    assert estimates[0] < used.input / 9 < used.input <= estimates[-1]


def test_unused_allowance_is_given_back() -> None:
    """Up to what a lease holds: unused tokens of long ago are not licence to flood now."""
    allowance = leased({"output": 100.0})
    allowance.reserve(Cost(0, 80), now=0.0)
    assert allowance.reserve(Cost(0, 80), now=0.8) == 0.0
    allowance.settle(Cost(0, 80), Cost(0, 5), now=0.8)
    assert allowance.reserve(Cost(0, 75), now=0.8) == 0.0
    for _ in range(50):
        allowance.settle(Cost(0, 1000), Cost(0, 0), now=0.8)
    reserved = 0
    while allowance.reserve(Cost(0, 75), now=0.8) == 0.0:
        reserved += 1
    assert 1 <= reserved <= 1 + LEASE_S * 100 / 75


def test_a_lease_without_a_limit_lifts_it() -> None:
    """A limit that another job had stated disappears with it."""
    allowance = leased({"requests": 0.001})
    allowance.accept(Lease({}, 10, math.inf, 0.0), asked_at=0.0, now=0.0)
    assert allowance.reserve(ONE, now=0.0) == 0.0


@dataclass
class _Spent:
    """What was admitted when, less what was given back."""

    events: list[tuple[float, float]] = field(default_factory=list)

    def most_above(self, rate: float) -> float:
        """The largest excess of any window over rate x its length."""
        worst, running, last = 0.0, 0.0, 0.0
        for at, amount in self.events:
            running = max(0.0, running - rate * (at - last)) + amount
            last, worst = at, max(worst, running)
        return worst


@settings(max_examples=25, deadline=None)
@given(
    rates=st.lists(st.floats(0.0, 200.0), min_size=1, max_size=8),
    steps=st.lists(
        st.tuples(st.floats(0, 2), st.floats(0.1, 300), st.floats(0, 2), st.booleans()), min_size=1, max_size=80
    ),
)
def test_no_window_exceeds_the_share_plus_what_was_given_back(
    rates: list[float], steps: list[tuple[float, float, float, bool]]
) -> None:
    """However these fall: the rate times the window, a burst, what a lease gives back, and the largest needs."""
    allowance, now, spent = Allowance(), 0.0, _Spent()
    most = max(rates)
    largest = 0.0
    for n, (passed, need, used, renew) in enumerate(steps):
        now += passed
        if renew or n == 0:
            allowance.accept(Lease({"output": rates[n % len(rates)]}, 10**6, LEASE_S, 0.0), asked_at=now, now=now)
        largest = max(largest, need)
        if allowance.reserve(Cost(0, need), now=now) == 0.0:
            spent.events.append((now, need))
            if renew:
                allowance.settle(Cost(0, need), Cost(0, need * used), now=now)
                spent.events.append((now, need * (used - 1)))
    assert spent.most_above(most) <= most * (BURST_S + LEASE_S) + largest * 2 + 1e-6
