"""Refusals in which a provider says that it considers the requests distillation of its model.

They are answers like any refusal: kept, never asked again, and no reason to reword a prompt. Many of them mean that the
provider refuses the run itself, which a person has to settle.
"""

from stillhouse.schemas.completion import Completion

CATEGORIES = frozenset({"frontier_llm", "reasoning_extraction"})
"""Anthropic's categories: building competing models, and extracting hidden reasoning."""

MIN_REFUSALS = 3
"""Fewer refusals are just a few odd prompts."""

MAX_SHARE = 0.01
"""Share of the answers above which the run itself is refused."""

ADVICE = "check that its terms or your authorisation cover this use; do not reword prompts to get past it"


def is_distillation(completion: Completion) -> bool:
    """True if the answer is a refusal to be distilled."""
    return completion.refusal_category in CATEGORIES


def is_alarming(refusals: int, *, answers: int) -> bool:
    """True if so many answers are refused as distillation that a person should know."""
    return refusals >= MIN_REFUSALS and refusals > MAX_SHARE * answers


class Watch:
    """Counts a teacher's answers as they come."""

    def __init__(self) -> None:
        self._answers = self._refusals = 0

    def alarms(self, completion: Completion) -> bool:
        """Count an answer; True if it is a refusal to be distilled, and there are too many."""
        self._answers += 1
        if not is_distillation(completion):
            return False
        self._refusals += 1
        return is_alarming(self._refusals, answers=self._answers)
