"""Refusals that show that the provider takes the run for distillation."""

import pytest

from stillhouse.gen.teachers.distillation import Watch, is_alarming
from stillhouse.schemas.completion import Completion


@pytest.mark.parametrize(
    ("refusals", "answers", "alarming"),
    [(0, 0, False), (2, 2, False), (3, 3, True), (3, 299, True), (3, 300, False), (11, 1000, True), (10, 1000, False)],
)
def test_a_small_rate_raises_no_alarm(refusals: int, answers: int, alarming: bool) -> None:
    """Neither do a few odd prompts."""
    assert is_alarming(refusals, answers=answers) is alarming


def test_only_refusals_of_this_kind_count() -> None:
    """Among a teacher's answers."""
    watch = Watch()
    other = Completion(None, "refused", "refusal", refusal_category="cyber")
    said = [watch.alarms(other) for _ in range(5)]
    distilling = Completion(None, "refused", "refusal", refusal_category="reasoning_extraction")
    assert [*said, *(watch.alarms(distilling) for _ in range(3))] == [False] * 7 + [True]
