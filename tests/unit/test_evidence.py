"""Whose fault a refusal is: what others met meanwhile decides."""

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.teachers.evidence import LONG_WAIT_S, MIN_REFUSALS, OVERLOAD_S, Evidence
from stillhouse.gen.teachers.outcome import Auth, Money, NoConnection, Outcome, Overload, Ramp, Rate, ServerError
from stillhouse.gen.teachers.retry import Blame

RATE = Rate("slow", 429)
FORBIDDEN = Auth("no", 403)
BROKE = Money("pay", 402)


def blamed(blame: Blame | None) -> str | None:
    """What is to blame."""
    return None if blame is None else blame.on


def serve(evidence: Evidence, count: int, *, at: float, endpoint: str = "a") -> None:
    """Other prompts are served, this many, by requests sent at this time."""
    for number in range(count):
        evidence.served(("other", at, number), endpoint=endpoint, sent_at=at, now=at + 0.01)


@pytest.mark.parametrize(("outcome", "wait_s"), [(RATE, 2.0), (Overload("busy", 503), 30.0)])
def test_a_refusal_of_one_prompt_among_served_others_is_that_prompts_own(outcome: Outcome, wait_s: float) -> None:
    """After a few tries; the more others were served, the fewer."""
    evidence, now = Evidence(), 100.0
    seen = []
    for _ in range(10):
        seen.append(blamed(evidence.weigh("p", outcome, endpoint="a", now=now)))
        serve(evidence, 50, at=now + 1)
        now += wait_s
    assert seen.index("request") in range(MIN_REFUSALS - 1, 6)


def test_one_prompts_overload_is_waited_out_and_slows_no_other() -> None:
    """What is overloaded may be the part of the teacher that serves such prompts."""
    evidence, now = Evidence(), 100.0
    evidence.weigh("p", Overload("busy", 503), endpoint="a", now=now)
    for _ in range(20):
        serve(evidence, 50, at=now + 1)
        now += OVERLOAD_S / 21
        blame = evidence.weigh("p", Overload("busy", 503), endpoint="a", now=now)
        assert blame is not None
        assert (blame.on, blame.spares_account) == ("unclear", True)
    serve(evidence, 50, at=now + 1)
    assert blamed(evidence.weigh("p", Overload("busy", 503), endpoint="a", now=now + OVERLOAD_S)) == "request"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.9), prompts=st.integers(20, 100))
def test_an_account_limit_is_never_held_against_a_prompt(seed: int, share: float, prompts: int) -> None:
    """However many tries hit the limit at random, no prompt is given up (except by a chance of one in a million)."""
    draw, evidence = random.Random(seed), Evidence()
    waiting, now = list(range(prompts)), 0.0
    while waiting:
        prompt, now = waiting.pop(0), now + 0.1
        if draw.random() < share:
            assert blamed(evidence.weigh(prompt, RATE, endpoint="a", now=now)) != "request"
            waiting.append(prompt)
        else:
            evidence.served(prompt, endpoint="a", sent_at=now - 0.05, now=now)


@settings(max_examples=40)
@given(
    wait_s=st.one_of(st.floats(0.0, 90.0), st.floats(90.0, 3600.0)),
    per_second=st.integers(1, 50),
    latency_s=st.floats(0.01, 3.0),
    samples=st.integers(1, 8),
    refusal=st.sampled_from([Rate, Ramp]),
)
def test_one_prompt_never_costs_the_account_more_than_half_its_rate(
    wait_s: float, per_second: int, latency_s: float, samples: int, refusal: type[Rate | Ramp]
) -> None:
    """In any 60 s after its first stated wait, which all honour; and the prompt is never asked before it may be."""
    evidence, now, paused_until = Evidence(), 0.0, 0.0
    pauses: list[tuple[float, float]] = []
    due, told_until = [10.0] * samples, 0.0
    out: deque[float] = deque()
    end = wait_s + 200.0
    while now < end:
        now = max(now + 1 / per_second, paused_until)
        while out and out[0] + latency_s <= now:
            sent_at = out.popleft()
            evidence.served(("other", sent_at), endpoint="a", sent_at=sent_at, now=sent_at + latency_s)
        out.append(now)
        for number, at in enumerate(due):
            if now >= at and (left_s := evidence.wait_s("p", now=now)) > 0.0:
                due[number] = now + left_s
            elif now >= max(at, paused_until):
                assert now >= told_until
                told_until = max(told_until, now + wait_s)
                blame = evidence.weigh("p", refusal("slow", 429, wait_s), endpoint="a", now=now)
                due[number] = now + (blame.wait_s if blame is not None else 0.0)
                if blamed(blame) == "request":
                    due[number] = math.inf
                elif blame is None or not blame.spares_account:
                    paused_until = max(paused_until, now + max(wait_s, 1.0))
                    pauses.append((now, paused_until))
    lost = _merged(pauses)
    if wait_s >= LONG_WAIT_S:
        assert len(lost) == 1
    for start in range(int(lost[0][1]) + 1, int(end) - 60):
        assert sum(max(0.0, min(last, start + 60) - max(first, start)) for first, last in lost) <= 30.0


@settings(max_examples=60)
@given(window_s=st.floats(5.0, 60.0), each=st.integers(3, 200), prompts=st.integers(5, 60), slots=st.integers(1, 16))
def test_an_account_limit_is_honoured_in_full(window_s: float, each: int, prompts: int, slots: int) -> None:
    """A fixed window whose refusals state its end: apart from what was sent together, nothing is asked before that."""
    evidence, now, used, paused_until, served, refused = Evidence(), 0.0, 0, 0.0, 0, 0
    opens_at, windows = window_s, 1
    waiting = deque((number, 0.0) for number in range(prompts * each))
    while waiting and windows < 8:
        while now >= opens_at:
            opens_at, used, windows = opens_at + window_s, 0, windows + 1
        sent = []
        for _ in range(min(slots, len(waiting))):
            number, due = waiting.popleft()
            if now < due:
                waiting.append((number, due))
            else:
                sent.append(number)
        answered = []
        for number in sent:
            if used < each:
                used += 1
                answered.append(number)
                continue
            refused += 1
            blame = evidence.weigh(number, Rate("slow", 429, opens_at - now), endpoint="a", now=now + 0.01)
            assert blamed(blame) != "request"
            waiting.append((number, now + (blame.wait_s if blame is not None else 0.0)))
            if blame is None or not blame.spares_account:
                paused_until = opens_at + 0.01
        for number in answered:
            served += 1
            evidence.served(number, endpoint="a", sent_at=now, now=now + 0.05)
        now = max(now + 0.1, paused_until)
    assert refused <= windows * (slots + 1)


def _merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def test_a_lone_prompt_outlasts_every_limit_per_minute() -> None:
    """The run's last one: refused for longer than a window, with the others served just before."""
    evidence = Evidence()
    serve(evidence, 30, at=0.0)
    times = [1.0, 2.0, 4.0, 10.0, 30.0, 60.0]
    assert [blamed(evidence.weigh("p", RATE, endpoint="a", now=at)) for at in times] == [None] + ["unclear"] * 5
    assert blamed(evidence.weigh("p", RATE, endpoint="a", now=70.0)) == "request"


def test_a_lone_prompt_waits_for_the_limit() -> None:
    """As for any account: nothing shows whose limit it is, and waiting costs nothing."""
    evidence = Evidence()
    assert {blamed(evidence.weigh("p", RATE, endpoint="a", now=10.0 * n)) for n in range(50)} == {None, "unclear"}


def test_a_403_that_others_do_not_get_is_that_prompts_own() -> None:
    """Others, sent after it, are served."""
    evidence = Evidence()
    assert blamed(evidence.weigh("p", FORBIDDEN, endpoint="a", now=1.0)) == "unclear"
    assert evidence.suspected_at("a") is not None
    serve(evidence, 3, at=1.5)
    assert evidence.suspected_at("a") is None
    assert blamed(evidence.weigh("p", FORBIDDEN, endpoint="a", now=2.0)) == "unclear"
    assert blamed(evidence.weigh("p", FORBIDDEN, endpoint="a", now=3.0)) == "request"


def test_answers_to_earlier_requests_prove_nothing() -> None:
    """A budget that ran out lets those in flight end."""
    evidence = Evidence()
    evidence.weigh("p", BROKE, endpoint="a", now=1.0)
    serve(evidence, 3, at=0.9)
    assert evidence.suspected_at("a") is not None
    evidence.weigh("q", BROKE, endpoint="a", now=1.1)
    serve(evidence, 3, at=0.95)
    assert blamed(evidence.weigh("r", BROKE, endpoint="a", now=1.2)) == "account"


def test_a_refusal_is_not_the_accounts_if_later_requests_are_served() -> None:
    """Many are in flight together: an account without money would serve none that asked after the refused ones."""
    evidence = Evidence()
    serve(evidence, 1, at=0.95)
    for number in range(5):  # answers to what was sent after them came before or after the refusals
        refused_at = 1.0 + number / 10
        assert blamed(evidence.weigh(number, BROKE, endpoint="a", now=refused_at, sent_at=0.9)) == "unclear"
        assert evidence.suspected_at("a") is None
    evidence.weigh("later", BROKE, endpoint="a", now=2.0, sent_at=1.9)
    assert evidence.suspected_at("a") is not None
    serve(evidence, 1, at=1.95)
    assert evidence.suspected_at("a") is None


@pytest.mark.parametrize(("outcome", "prompts"), [(BROKE, 3), (FORBIDDEN, 5)])
def test_refusals_of_several_prompts_are_the_accounts(outcome: Outcome, prompts: int) -> None:
    """If none was served in between."""
    evidence = Evidence()
    seen = [blamed(evidence.weigh(n, outcome, endpoint="a", now=float(n))) for n in range(prompts)]
    assert seen == ["unclear"] * (prompts - 1) + ["account"]


def test_refusals_by_one_endpoint_say_nothing_about_another() -> None:
    """Suspicion is per endpoint."""
    evidence = Evidence()
    evidence.weigh("p", FORBIDDEN, endpoint="a", now=1.0)
    assert evidence.suspected_at("b") is None


def test_an_outage_is_blamed_on_no_prompt_for_a_minute() -> None:
    """Several prompts fail and none is served; once one is, or after too long, a failure is the prompt's own."""
    failed = ServerError("500", 500)
    evidence = Evidence()
    assert [blamed(evidence.weigh(n, failed, endpoint="a", now=1.0)) for n in range(4)] == [None, None] + [
        "account"
    ] * 2
    assert blamed(evidence.weigh(0, failed, endpoint="a", now=30.0)) == "account"
    assert blamed(evidence.weigh(0, failed, endpoint="a", now=70.0)) is None
    serve(evidence, 1, at=40.0)
    assert blamed(evidence.weigh(3, failed, endpoint="a", now=41.0)) is None


def test_a_request_that_was_never_sent_says_nothing() -> None:
    """There was no connection, for any prompt."""
    evidence = Evidence()
    serve(evidence, 100, at=0.0)
    assert all(evidence.weigh("p", NoConnection("refused"), endpoint="a", now=float(n)) is None for n in range(99))


def test_an_endpoint_that_is_loading_is_not_the_requests_fault() -> None:
    """Others are served at another endpoint meanwhile."""
    evidence = Evidence()
    loading = Overload("Loading model", 503, loading=True)
    for number in range(50):
        serve(evidence, 10, at=float(number))
        assert evidence.weigh("p", loading, endpoint="b", now=number + 0.5) is None
