"""Whose a stated wait is: the whole account's, unless what is served meanwhile shows it to be one prompt's own."""

import asyncio
import math

import pytest
from closed_loop import Behaviour, Heard, play
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.limits.ledger import Ledger
from stillhouse.gen.limits.shares import SHARE_RENEW_S, Cost
from stillhouse.gen.limits.stated_wait import MIN_OWN_S, TRIAL_AFTER_S, TRIAL_S, Asked, Grant, StatedWait, Trial
from stillhouse.gen.teachers.account import Account
from stillhouse.schemas.limits import Limits

REFUSED = Asked("p", "server", 10.0)
ODD_SINCE = 40.0


def test_a_wait_is_only_its_prompts_once_a_later_one_is_served() -> None:
    """Another request of the same prompt, another server, or a request sent earlier does not show it."""
    assert Asked("other", "server", 10.1).shows_own(REFUSED)
    assert not Asked("p", "server", 10.1).shows_own(REFUSED)
    assert not Asked("other", "elsewhere", 10.1).shows_own(REFUSED)
    assert not Asked("other", "server", 9.9).shows_own(REFUSED)


def test_a_second_prompts_refusal_makes_the_wait_the_accounts() -> None:
    """Nothing shows it to be one prompt's own after that; the next wait starts afresh."""
    wait = StatedWait().told("p", 60.0, whose="unclear", now=0.0)
    assert wait.silent_s(0.0) == 60.0
    wait = wait.is_own()
    assert wait.silent_s(1.0) == 0.0
    wait = wait.told("q", 5.0, whose="unclear", now=2.0)
    assert wait.silent_s(2.0) == 58.0
    assert wait.is_own() == wait.told("q", 1.0, whose="own", now=3.0) == wait
    assert wait.told("q", 5.0, whose="unclear", now=61.0).is_own().whose == "own"


def test_an_unclear_wait_is_tried_once() -> None:
    """By one request, not at once; it was admitted if no refusal came in three times the first one's latency."""
    assert StatedWait().told("p", 60.0, whose="unclear", now=0.0).trial_in_s(50.0) == math.inf
    wait = StatedWait().told("p", 60.0, whose="unclear", now=0.0, trial=Trial.after(0.0, refusal_s=5.0))
    assert (wait.trial_in_s(1.0), wait.trial_in_s(9.0)) == (TRIAL_AFTER_S - 1.0, 0.0)
    tried = wait.trial_sent(Grant(9.0))
    assert (tried.is_tried, tried.trial_in_s(20.0), tried.silent_s(20.0)) == (True, math.inf, 40.0)
    assert tried.weighed(23.9) == tried
    assert tried.weighed(24.0).whose == "own"
    assert tried.told("q", 1.0, whose="unclear", now=10.0).weighed(24.0).silent_s(24.0) == 36.0


def test_a_trial_that_proves_nothing_is_repeated() -> None:
    """It was lost, or never sent; only its own end counts."""
    sent = Grant(8.0)
    wait = (
        StatedWait().told("p", 60.0, whose="unclear", now=0.0, trial=Trial.after(0.0, refusal_s=0.1)).trial_sent(sent)
    )
    assert wait.trial_ended(Grant(8.0), 9.0) == wait
    again = wait.trial_ended(sent, 9.0)
    assert (again.is_tried, again.trial_in_s(9.0), again.weighed(30.0).whose) == (False, TRIAL_AFTER_S, "unclear")


class _Worker:
    """A worker's account, with one request in flight, at a ledger of 600 a minute."""

    def __init__(self, name: str, ledger: Ledger, clock: ManualClock) -> None:
        self.name, self.ledger, self.clock = name, ledger, clock
        self.account = Account(clock)

    def renew(self) -> dict[str, float]:
        """Renew its share; the rates."""
        lease = self.ledger.renew(self.name, self.account.report(backlog=100), now=self.clock.now)
        self.account.accept(lease)
        return {str(name): rate for name, rate in lease.rates.items()}

    def is_paused(self) -> bool:
        return self.account.is_paused

    def refused(self, prompt: str, wait_s: float) -> None:
        self.account.refused(pause_s=wait_s, asked=Asked(prompt, "server", self.clock.now - 0.1))

    def served(self, prompt: str) -> None:
        self.account.served(latency_s=0.05, tokens=5, asked=Asked(prompt, "server", self.clock.now - 0.05))


def two_workers() -> tuple[ManualClock, _Worker, _Worker]:
    """Of one account, each with its share."""
    clock = ManualClock(now=100.0)
    ledger = Ledger(Limits(requests_per_minute=600, in_flight=64), now=100.0)
    a, b = _Worker("a", ledger, clock), _Worker("b", ledger, clock)
    for _ in range(4):
        for worker in (a, b):
            worker.renew()
            clock.now += SHARE_RENEW_S / 2
    return clock, a, b


def test_all_stop_at_once_and_resume_when_others_are_served() -> None:
    """Only a lease that the ledger gave for that lifts the pause."""
    clock, a, b = two_workers()
    full = a.renew()["requests"] + b.renew()["requests"]
    a.refused("p", 60.0)
    assert a.is_paused()
    a.renew()
    b.renew()
    assert a.is_paused()
    assert b.is_paused()
    a.served("other")
    assert a.account.urgent.is_set()
    assert a.is_paused(), "the ledger has not lifted it yet"
    for _ in range(4):
        clock.now += SHARE_RENEW_S
        rates = a.renew()["requests"] + b.renew()["requests"]
    assert not a.is_paused()
    assert not b.is_paused()
    assert rates == pytest.approx(full)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same worker's", "another worker's"])
def test_a_second_refusal_stops_all_again(elsewhere: bool) -> None:
    """For the whole wait, whatever is served after that."""
    clock, a, b = two_workers()
    a.refused("p", 60.0)
    a.served("other")
    a.renew()
    b.renew()
    assert not a.is_paused()
    (b if elsewhere else a).refused("q", 20.0)
    b.renew()
    for _ in range(35):
        clock.now += SHARE_RENEW_S
        for worker in (a, b):
            worker.served("another")
            worker.renew()
        assert a.is_paused()
        assert b.is_paused()


def test_a_lease_requested_before_the_wait_does_not_lift_it() -> None:
    """What was refused since the report, the ledger does not know of."""
    _, a, _ = two_workers()
    report = a.account.report(backlog=100)
    a.refused("p", 60.0)
    a.served("other")
    a.account.accept(a.ledger.renew("a", report, now=a.clock.now))
    assert a.is_paused()


def test_a_short_wait_is_honoured_in_full() -> None:
    """So is the wait after a refusal that states none."""
    _, a, _ = two_workers()
    a.refused("p", 0.9 * MIN_OWN_S)
    a.served("other")
    a.renew()
    assert a.is_paused()


async def test_waiting_requests_are_sent_when_the_wait_is_lifted() -> None:
    """Not only when it would have ended."""
    clock = ManualClock(now=100.0)
    a = _Worker("a", Ledger(Limits(in_flight=8), now=100.0), clock)
    a.renew()
    a.refused("p", 600.0)
    a.renew()
    waiting = asyncio.create_task(a.account.reserve(Cost(0, 0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    a.served("other")
    a.renew()
    async with asyncio.timeout(60):
        await waiting


async def test_a_trial_that_is_cancelled_before_it_is_sent_proves_nothing() -> None:
    """Its request was given up just as it was granted: nothing is concluded from its silence."""
    clock = ManualClock(now=100.0)
    a = _Worker("a", Ledger(Limits(in_flight=8), now=100.0), clock)
    a.renew()
    a.served("other")
    a.refused("p", 60.0)
    a.renew()
    trial = asyncio.create_task(a.account.reserve(Cost(0, 0)))
    await asyncio.sleep(0)
    clock.now += TRIAL_AFTER_S
    a.renew()
    assert not a.is_paused()  # the trial may be sent
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert a.is_paused()
    clock.now += TRIAL_S
    a.renew()
    assert a.is_paused()


def least_share(heard: Heard, *, until: float) -> float:
    """The least part of its rate that any minute had, from the first refusal on."""
    usual = heard.per_s(10.0, ODD_SINCE)
    return min(heard.per_s(begin, begin + 60.0) / usual for begin in range(int(ODD_SINCE) - 5, int(until) - 60))


def refusing_one(
    *, wait_s: float, refusal_s: float, latency_s: float, per_minute: int, workers: int, seed: int
) -> Heard:
    """Two minutes and the wait of a teacher that always refuses one prompt."""
    behaviour = Behaviour(latency_s=latency_s, odd_since=ODD_SINCE, odd_wait_s=wait_s, odd_refusal_s=refusal_s)
    limits = Limits(requests_per_minute=per_minute)
    return play(behaviour, told=limits, workers=workers, seconds=ODD_SINCE + wait_s + 80.0, seed=seed)


def test_others_served_meanwhile_resume_at_once() -> None:
    """A wait of a minute, while requests that were sent later are in flight."""
    heard = refusing_one(wait_s=60.0, refusal_s=0.6, latency_s=1.0, per_minute=480, workers=2, seed=0)
    assert len(heard.odd) >= 2
    assert least_share(heard, until=ODD_SINCE + 140.0) >= 0.9


@pytest.mark.parametrize("latency_s", [0.3, 40.0], ids=["short answers", "long answers"])
def test_one_other_request_tries_an_uncontradicted_wait(latency_s: float) -> None:
    """A refusal that comes before anyone else is asked: silence, one trial, and the rate is back."""
    heard = refusing_one(wait_s=120.0, refusal_s=0.02, latency_s=latency_s, per_minute=180, workers=1, seed=0)
    first = heard.odd[0]
    silence = [at for at in heard.asked if first + 0.03 < at < first + TRIAL_AFTER_S + min(TRIAL_S, latency_s / 3)]
    assert len(silence) == 1
    assert silence[0] >= first + TRIAL_AFTER_S
    assert least_share(heard, until=ODD_SINCE + 200.0) >= 0.7


@settings(max_examples=10)
@given(
    wait_s=st.floats(0.0, 300.0),
    refused_after=st.floats(0.0, 2.0),
    latency_s=st.floats(0.2, 2.0),
    per_minute=st.integers(180, 480),
    workers=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_no_prompt_costs_more_than_half_of_any_minute(
    wait_s: float, refused_after: float, latency_s: float, per_minute: int, workers: int, seed: int
) -> None:
    """Over any 60 s, whenever its refusals come and whatever wait they state."""
    heard = refusing_one(
        wait_s=wait_s,
        refusal_s=0.02 + refused_after * latency_s,
        latency_s=latency_s,
        per_minute=per_minute,
        workers=workers,
        seed=seed,
    )
    assert least_share(heard, until=ODD_SINCE + wait_s + 80.0) >= 0.5


@settings(max_examples=10)
@given(
    window_s=st.sampled_from([20.0, 30.0, 60.0]),
    per_s=st.floats(0.5, 4.0),
    workers=st.integers(1, 4),
    on_the_way_s=st.floats(0.0, 0.3),
    seed=st.integers(0, 2**16),
)
def test_an_account_limit_is_hit_once_per_window(
    window_s: float, per_s: float, workers: int, on_the_way_s: float, seed: int
) -> None:
    """Even where requests overtake each other: by each worker once, and by what it had in flight."""
    behaviour = Behaviour(window=(int(per_s * window_s), window_s), on_the_way_s=on_the_way_s)
    heard = play(behaviour, told=Limits(requests_per_minute=360), workers=workers, seconds=150.0, seed=seed)
    in_flight = 6.0 * (on_the_way_s + 0.02)
    for window in range(int(150.0 // window_s)):
        refused = sum(window * window_s <= at < (window + 1) * window_s for at in heard.refused)
        assert refused <= 2 * workers + in_flight
