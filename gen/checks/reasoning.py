"""`reasoning`: the answer came with its reasoning. Score: its number of characters."""

from stillhouse.gen.checks.base import Answer, CheckResult, Row
from stillhouse.schemas.reasoning_check import ReasoningCheck


class Reasoning:
    """Counts characters, without white space around the reasoning."""

    def __init__(self, settings: ReasoningCheck) -> None:
        self._min = settings.min_chars

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        length = len((answer.reasoning or "").strip())
        if length >= self._min:
            return CheckResult(True, float(length), f"{length:,} chars")
        return CheckResult(False, float(length), f"{length:,} chars, expected at least {self._min:,}")
