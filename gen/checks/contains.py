"""`contains`: the answer contains a text. Score: how often."""

from stillhouse.gen.checks.base import Answer, CheckResult, Row, shown, text_in
from stillhouse.schemas.contains_check import ContainsCheck


class Contains:
    """Compares character by character."""

    def __init__(self, settings: ContainsCheck) -> None:
        self._text = settings.text
        self._column = settings.column

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        wanted = self._text if self._column is None else text_in(row, self._column)
        assert wanted is not None
        count = answer.text.count(wanted)
        return CheckResult(count > 0, float(count), f"{shown(wanted)}: {count:,} times")
