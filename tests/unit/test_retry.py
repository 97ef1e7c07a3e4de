"""The retry policy: what follows each outcome, and which of the three budgets it draws on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    NoConnection,
    Outcome,
    Overload,
    Policy,
    Ramp,
    Rate,
    ServerError,
    TooLong,
)
from stillhouse.gen.teachers.retry import (
    MAX_OVERLOADS,
    MAX_UNREADY_WAIT_S,
    Again,
    Decision,
    GiveUp,
    Pause,
    Settled,
    Tries,
    backoff_s,
    decide,
    note,
)
from stillhouse.schemas.completion import Completion

ANSWER = Completion("four", "stop", "stop")


def after(*outcomes: Outcome, max_attempts: int = 6) -> tuple[Decision, Tries]:
    """The decision after these outcomes of one sample, and what is counted."""
    tries = Tries()
    decision: Decision = Settled()
    for outcome in outcomes:
        tries.attempts += 1
        note(outcome, tries)
        decision = decide(outcome, tries, max_attempts=max_attempts)
    return decision, tries


@pytest.mark.parametrize("outcome", [ANSWER, Policy("refused", 400)])
def test_an_answer_or_a_refusal_settles_a_sample(outcome: Outcome) -> None:
    """A refusal is data: it is never asked again to get round it."""
    assert after(outcome)[0] == Settled()


@pytest.mark.parametrize(
    ("outcome", "kind"), [(TooLong("long", 413), "too_long"), (BadRequest("bad", 422), "bad_request")]
)
def test_permanent_failures_are_given_up_at_once(outcome: Outcome, kind: str) -> None:
    """With its message and its status."""
    assert after(outcome)[0] == GiveUp(kind, outcome.message, outcome.status)  # type: ignore[union-attr, arg-type]


def test_money_and_auth_pause_the_run() -> None:
    """The sample stays to be asked; only a refused key is worth another look at the secret."""
    assert after(Money("empty", 402)) == (
        Pause("answered HTTP 402 (empty): its account has no money or quota left: top it up", auth=False),
        Tries(attempts=1),
    )
    assert after(Auth("who?", 401)) == (
        Pause("answered HTTP 401 (who?): check its api_key and its address", auth=True),
        Tries(attempts=1),
    )


def test_rate_limits_use_no_attempts() -> None:
    """However often; the account waits, not the sample."""
    refusals: list[Outcome] = [Rate("slow", 429, 7.0), Ramp("slower", 429, 9.0)]
    decision, tries = after(*refusals * 500)
    assert decision == Again(0.0)
    assert tries == Tries(attempts=1000)


@pytest.mark.parametrize(
    ("outcome", "kind", "maybe_billed"),
    [
        (ServerError("500", 500), "overload", 0),
        (Ambiguous("cut"), "ambiguous", 6),
        (Malformed("no choices", 200), "malformed", 6),
    ],
)
def test_real_failures_end_at_max_attempts(outcome: Outcome, kind: str, maybe_billed: int) -> None:
    """Five are tried again, the sixth is a Failure; those that may be billed are counted."""
    assert isinstance(after(*[outcome] * 5)[0], Again)
    decision, tries = after(*[outcome] * 6)
    assert isinstance(decision, GiveUp)
    assert decision.kind == kind
    assert tries.maybe_billed == maybe_billed


def test_failures_of_all_kinds_share_the_budget() -> None:
    """And limits between them change nothing."""
    decision, tries = after(ServerError("a"), Rate("b"), Malformed("c"), Overload("d"), Ambiguous("e"), max_attempts=3)
    assert isinstance(decision, GiveUp)
    assert (tries.attempts, tries.failures, tries.overloads, tries.maybe_billed) == (5, 3, 1, 2)


def test_overload_has_its_own_generous_budget() -> None:
    """Only a prompt that itself overloads the teacher meets its end."""
    assert isinstance(after(*[Overload("503")] * (MAX_OVERLOADS - 1), max_attempts=1)[0], Again)
    assert after(*[Overload("busy", 503)] * MAX_OVERLOADS)[0] == GiveUp("overload", "busy", 503)


@pytest.mark.parametrize("outcome", [NoConnection("refused"), Overload("loading", 503, loading=True)])
def test_a_teacher_not_there_yet_uses_no_attempts(outcome: Outcome) -> None:
    """However often it is tried; once it is up, the next try is seconds away."""
    decision, tries = after(*[outcome] * (5 * MAX_OVERLOADS), max_attempts=1)
    assert isinstance(decision, Again)
    assert 0.0 <= decision.after_s <= MAX_UNREADY_WAIT_S
    assert (tries.failures, tries.overloads, tries.maybe_billed) == (0, 0, 0)


def test_overload_waits_at_least_the_stated_time() -> None:
    """Retry-After is a floor under the backoff."""
    decision, _ = after(Overload("503", 503, retry_after_s=120.0))
    assert decision == Again(120.0)


@given(failures=st.integers(1, 10_000))
def test_the_backoff_grows_to_a_minute_with_full_jitter(failures: int) -> None:
    """Within [0, min(60, 0.5 x 2^(n-1))] seconds."""
    assert 0.0 <= backoff_s(failures) <= min(60.0, 0.5 * 2 ** min(failures - 1, 10))


def test_the_backoff_is_spread_out() -> None:
    """Samples that failed together don't return together."""
    waits = [backoff_s(20) for _ in range(200)]
    assert min(waits) < 20
    assert max(waits) > 40
