"""`length`: the answer is neither too short nor too long. Score: the length, in the check's unit."""

from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult, Row
from stillhouse.schemas.length_check import LengthCheck


class Length:
    """Counts characters, words (separated by white space) or tokens, without white space around the answer."""

    def __init__(self, settings: LengthCheck) -> None:
        self._min = settings.min
        self._max = settings.max
        self._unit = settings.unit

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        length = self._length(answer)
        detail = f"{length:,} {self._unit}"
        if self._min is not None and length < self._min:
            return CheckResult(False, float(length), f"{detail}, expected at least {self._min:,}")
        if self._max is not None and length > self._max:
            return CheckResult(False, float(length), f"{detail}, expected at most {self._max:,}")
        return CheckResult(True, float(length), detail)

    def _length(self, answer: Answer) -> int:
        match self._unit:
            case "chars":
                return len(answer.text.strip())
            case "words":
                return len(answer.text.split())
            case "tokens":
                if answer.tokens is None:
                    raise CannotSay("the teacher did not report its output tokens; use another unit: chars or words")
                return answer.tokens
