"""The guard against useless runs: by teacher and endpoint, over the run, and never for refusals."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.worker.guard import STOP_AFTER, STOP_AFTER_ALIKE, STOP_AFTER_TOO_LONG, Guard, Useless
from stillhouse.gen.worker.settlements import Settlement


def settled(reason: str | None, count: int, *, teacher: str = "t", endpoint: str = "h") -> list[Settlement]:
    """This many samples of different prompts, settled for this reason."""
    return [Settlement(teacher, endpoint, n, reason, "HTTP 400: no", "weird", "{}") for n in range(count)]


def noted(*settlements: Iterable[Settlement]) -> Useless | None:
    """The last note of a new guard."""
    guard, told = Guard(), None
    for each in settlements:
        told = guard.note(each)
    return told


@pytest.mark.parametrize("reason", ["length", "unknown_finish", "empty", "markup", "bad_request", "malformed"])
def test_fifty_samples_without_a_record_stop_the_run(reason: str) -> None:
    """Rejected or failed: with the reason, one reply and what to change."""
    assert noted(settled(reason, STOP_AFTER - 1)) is None
    told = noted(settled(reason, STOP_AFTER))
    assert told is not None
    assert (told.kind, told.reason) == ("failed", reason)
    assert "{}" in told.message
    assert "journal" in told.message


def test_a_record_clears_its_teacher_and_endpoint() -> None:
    """And no other."""
    assert noted(settled(None, 1), settled("length", 10 * STOP_AFTER)) is None
    assert noted(settled(None, 1, teacher="a"), settled("length", STOP_AFTER, teacher="b")) is not None
    assert noted(settled(None, 1, endpoint="a"), settled("length", STOP_AFTER, endpoint="b")) is not None


@pytest.mark.parametrize("reason", ["refused", "content_filter"])
def test_refusals_never_count(reason: str) -> None:
    """They are data."""
    assert noted(settled(reason, 100 * STOP_AFTER)) is None


def test_long_prompts_count_less() -> None:
    """Sources are sorted by length."""
    assert noted(settled("too_long", STOP_AFTER_TOO_LONG - 1)) is None
    assert noted(settled("too_long", STOP_AFTER_TOO_LONG)) is not None


@pytest.mark.parametrize(
    ("reasons", "stops"),
    [
        (["bad_request"] * 3, True),
        (["length"] * 3, True),
        (["length"] * 2, False),  # these may just be bad ones
        (["length", "length", "empty"], False),
        (["too_long"] * 9, False),
        (["length"] * 3 + [None], False),
        (["refused"] * 9, False),
    ],
)
def test_a_chunk_of_identical_failures_stops_the_run(reasons: list[str | None], stops: bool) -> None:
    """However small it is, unless it is only a prompt or two."""
    guard = Guard()
    for number, reason in enumerate(reasons):
        assert guard.note([Settlement("t", "h", number, reason)]) is None
    assert (guard.at_chunk_end(prompts=len(reasons)) is not None) == stops


def test_samples_of_one_prompt_count_as_one() -> None:
    """Nine cut answers to one question say nothing of others."""
    guard = Guard()
    guard.note([Settlement("t", "h", "same", "length")] * 9)
    assert guard.at_chunk_end(prompts=9) is None


def test_tiny_chunks_say_nothing_about_the_recipe() -> None:
    """No run is stuck at a chunk of a bad prompt or two."""
    guard = Guard()
    for _ in range(STOP_AFTER // 2):
        guard.note(settled("bad_request", 1))
        assert guard.at_chunk_end(prompts=1) is None


def test_teachers_cleared_by_earlier_runs_stay_cleared() -> None:
    """A resumed run may begin with whatever is left."""
    guard = Guard()
    told = guard.note(settled("length", STOP_AFTER))
    assert told is not None
    guard.clear(told)
    assert guard.note(settled("length", STOP_AFTER)) is None
    assert guard.at_chunk_end(prompts=9) is None


@pytest.mark.parametrize("reason", ["bad_request", "malformed", "ambiguous"])
def test_an_endpoint_that_starts_failing_pauses_the_run(reason: str) -> None:
    """An unknown message about a budget, or a login page: exit 3, and the remaining samples don't become Failures."""
    assert noted(settled(None, 300), settled(reason, STOP_AFTER_ALIKE - 1)) is None
    told = noted(settled(None, 300), settled(reason, STOP_AFTER_ALIKE))
    assert told is not None
    assert told.kind == "paused"
    assert f"all failed as {reason}" in told.message
    assert noted(settled(None, 1), settled(reason, 40), settled(None, 1), settled(reason, 40)) is None
    assert noted(settled(None, 1), settled(reason, 40), settled("refused", 1), settled(reason, 40)) is None


def test_faults_of_answers_pause_no_run_that_has_records() -> None:
    """A source may be sorted: fifty long answers in a row don't mean that the endpoint changed."""
    assert noted(settled(None, 300), settled("length", 3 * STOP_AFTER_ALIKE)) is None


def test_failures_found_in_a_journal_do_not_pause_the_run_that_resumes() -> None:
    """They would, each time again."""
    guard = Guard()
    assert guard.note([*settled(None, 9), *settled("malformed", STOP_AFTER_ALIKE)], found=True) is None
    assert guard.note(settled("malformed", STOP_AFTER_ALIKE - 1)) is None
    assert guard.note(settled("malformed", 1)) is not None


def test_retried_replies_count_too() -> None:
    """Up to a hundred unusable first replies may be paid for."""
    again = [replace(each, settled=False) for each in settled("malformed", 2 * STOP_AFTER)]
    assert noted(again[1:]) is None
    assert noted(again) is not None
    assert noted(settled(None, 1), again) is None


@given(st.lists(st.sampled_from([None, "length", "empty", "refused", "too_long", "bad_request"]), max_size=200))
def test_no_run_ends_silently_with_fifty_unusable_samples(reasons: list[str | None]) -> None:
    """It stops if and only if only unusable replies came, and enough of them."""
    told = noted([Settlement("t", "h", number, reason) for number, reason in enumerate(reasons)])
    useless = [reason for reason in reasons if reason not in (None, "refused", "too_long")]
    first_record = reasons.index(None) if None in reasons else len(reasons)
    before = [reason for reason in reasons[:first_record] if reason not in ("refused", "too_long")]
    if len(before) >= STOP_AFTER:
        assert told is not None
    if None in reasons[:1] or len(useless) < STOP_AFTER:
        assert told is None or told.kind == "paused"
