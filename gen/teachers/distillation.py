"""Refusals by which a provider says that it takes the requests for distillation of its model.

They are answers like any refusal: kept, never asked again, and no reason to reword a prompt. Many of them mean that the
run itself is what the provider refuses, which is for a person to settle.
"""

from stillhouse.schemas.completion import Completion

CATEGORIES = frozenset({"frontier_llm", "reasoning_extraction"})
"""Anthropic's words: building competing models, and pulling out hidden reasoning."""

MIN_REFUSALS = 3
"""Fewer are a few odd prompts."""

MAX_SHARE = 0.01
"""Of the answers; above it, it is the run that is refused."""

ADVICE = "check that its terms or your authorisation cover this use; do not reword prompts to get past it"


def is_distillation(completion: Completion) -> bool:
    """True for a refusal of this kind."""
    return completion.refusal_category in CATEGORIES


def is_alarming(refusals: int, *, answers: int) -> bool:
    """True if so many of these answers are refused as distillation that a person should know."""
    return refusals >= MIN_REFUSALS and refusals > MAX_SHARE * answers


class Watch:
    """Counts a teacher's answers as they come."""

    def __init__(self) -> None:
        self._answers = self._refusals = 0

    def alarms(self, completion: Completion) -> bool:
        """Count an answer; true if it is a refusal of this kind, and they are too many."""
        self._answers += 1
        if not is_distillation(completion):
            return False
        self._refusals += 1
        return is_alarming(self._refusals, answers=self._answers)
