"""Ledger, allowances and estimates together: no minute exceeds what the teacher states."""

import random
from bisect import bisect_left
from collections import deque
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.limits.allowance import Allowance
from stillhouse.gen.limits.estimator import Estimator
from stillhouse.gen.limits.ledger import Ledger
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import Cost, Report, Resource
from stillhouse.schemas.limits import Limits

ONE = Cost(0, 0)
"""A request, where no tokens are limited."""


def report(in_flight: int = 0, waiting: int = 0, *, served: int = 0, refused: int = 0, **more: float) -> Report:
    """A worker's report."""
    return Report(in_flight, waiting, Replies(served, refused), **more)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    per_minute=st.sampled_from([12, 60, 300, 1200, 3000]),
    most_workers=st.sampled_from([1, 3, 8]),
    latency_s=st.floats(0.05, 8.0),
    seed=st.integers(0, 10**9),
)
def test_no_minute_exceeds_the_stated_requests(per_minute: int, most_workers: int, latency_s: float, seed: int) -> None:
    """By the teacher's count, from the first minute on, however workers come, die, idle and hurry."""
    rng = random.Random(seed)
    ledger = Ledger(Limits(requests_per_minute=per_minute), now=0.0)
    allowances: dict[str, Allowance] = {}
    renew_at: dict[str, float] = {}
    ends: deque[tuple[float, Allowance]] = deque()
    arrived: list[float] = []
    busy_until, idle_until, tick_s = 0.0, 0.0, 0.05
    for tick in range(int(150 / tick_s)):
        now = tick * tick_s
        if now >= busy_until > idle_until:
            idle_until = now + rng.choice((0.0, 0.0, 1.0, 10.0))
        if now >= idle_until >= busy_until:
            busy_until = now + rng.uniform(5.0, 60.0)
        if len(allowances) < most_workers and rng.random() < 0.05:
            allowances[name := f"w{tick}"] = Allowance()
            renew_at[name] = now
        if allowances and rng.random() < 0.002:
            del allowances[name := rng.choice(sorted(allowances))]
            if rng.random() < 0.5:
                ledger.leave(name)
        while ends and ends[0][0] <= now:
            ends.popleft()[1].settle(ONE, None, now=now)
        for name, allowance in allowances.items():
            if now >= renew_at[name]:
                lease = ledger.renew(name, report(allowance.peak, 50 * (now >= idle_until)), now=now)
                allowance.peak = allowance.in_flight
                allowance.accept(lease, asked_at=now, now=now)
                renew_at[name] = now + 1.6
            while now >= idle_until and allowance.reserve(ONE, now=now) == 0.0:
                arrived.append(now + rng.uniform(0.0, 0.1))
                ends.append((now + latency_s, allowance))
    arrived.sort()
    worst = max((bisect_left(arrived, at + 60.0) - n for n, at in enumerate(arrived)), default=0)
    assert worst <= per_minute


@settings(max_examples=25, deadline=None)
@given(
    resource=st.sampled_from(["input", "output", "total"]),
    per_minute=st.sampled_from([30_000, 120_000, 600_000]),
    workers=st.integers(1, 4),
    latency_s=st.sampled_from([0.5, 4.0, 20.0]),
    mean=st.sampled_from([30, 300, 1500]),
    most=st.sampled_from([None, 2000, 8000]),
    seed=st.integers(0, 10**9),
)
def test_no_minute_exceeds_the_stated_tokens(
    resource: Resource, per_minute: int, workers: int, latency_s: float, mean: int, most: int | None, seed: int
) -> None:
    """By what requests sent in it really used, from the first minute on, though that is known only from their answers.

    Their lengths vary as far as answers' do; `most`: the recipe's `max_tokens`.
    """
    rng = random.Random(seed)
    stated = {"input": "input_tokens_per_minute", "output": "output_tokens_per_minute", "total": "tokens_per_minute"}
    ledger = Ledger(Limits.model_validate({"in_flight": 2000, stated[resource]: per_minute}), now=0.0)
    hands = [(Allowance(), Estimator(max_output=most), rng.uniform(0.0, 5.0)) for _ in range(workers)]
    renew_at = [starts_at for *_, starts_at in hands]
    ends: list[tuple[float, int, int, int, Cost, Cost, float]] = []
    spent: list[tuple[float, float]] = []
    for tick in range(1300):
        now = tick * 0.1
        while ends and ends[0][0] <= now:
            _, _, worker, chars, cost, used, at = heappop(ends)
            hands[worker][1].learn(chars, used)
            hands[worker][0].settle(cost, used, now=now, at=at)
        for worker, (allowance, estimator, _) in enumerate(hands):
            if now >= renew_at[worker]:
                lease = ledger.renew(f"w{worker}", report(allowance.peak, 50), now=now)
                allowance.peak = allowance.in_flight
                allowance.accept(lease, asked_at=now, now=now)
                renew_at[worker] += 1.6
            chars = rng.randint(200, 2000)
            while allowance.reserve(cost := estimator.estimate(chars, beside=allowance.in_flight), now=now) == 0.0:
                used = Cost(
                    int(chars * rng.uniform(0.2, 0.5)),
                    min(most or 10**6, int(mean * rng.lognormvariate(0.0, 0.5)) + 1),
                )
                spent.append((now, used.of(resource)))
                end = now + latency_s * rng.uniform(0.5, 1.5)
                heappush(ends, (end, len(spent), worker, chars, cost, used, now))
                chars = rng.randint(200, 2000)
    assert most_in_a_minute(spent) <= per_minute
    assert sum(amount for _, amount in spent) > 0.3 * per_minute


def most_in_a_minute(spent: list[tuple[float, float]]) -> float:
    """Of any 60 s; `spent`: (when, how much), in order."""
    window: deque[tuple[float, float]] = deque()
    running = worst = 0.0
    for at, amount in spent:
        window.append((at, amount))
        running += amount
        while window[0][0] <= at - 60.0:
            running -= window.popleft()[1]
        worst = max(worst, running)
    return worst


def test_estimates_learn_from_usage() -> None:
    """From a guess to the real mean, in a few dozen answers."""
    estimator = Estimator(max_output=500)
    assert estimator.estimate(400).output == 500
    for _ in range(200):
        estimator.learn(400, Cost(200, 50))
    learnt = estimator.estimate(400)
    assert learnt.input == pytest.approx(208, rel=0.05)
    assert learnt.output == pytest.approx(50)


def test_estimates_never_exceed_max_tokens() -> None:
    """Whatever a teacher claims to have used."""
    estimator = Estimator(max_output=100)
    estimator.learn(0, Cost(5, 10_000))
    assert estimator.estimate(0) == Cost(8.0, 100)
