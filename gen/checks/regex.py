"""`regex`: the answer contains a match of a pattern. Score: 1 if it does, else 0.

Uses RE2, whose time is linear in the text for every pattern; Python's own module can backtrack for ever.
"""

import re2

from stillhouse.gen.checks.base import Answer, CheckResult, Row, shown
from stillhouse.schemas.regex_check import RegexCheck


class Regex:
    """Searches for one pattern."""

    def __init__(self, settings: RegexCheck) -> None:
        self._pattern = re2.compile(settings.pattern)

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        # As bytes: RE2 works on UTF-8, and would have to map positions back; half a surrogate pair matches nothing.
        found = self._pattern.search(answer.text.encode("utf-8", "replace"))
        if found is None:
            return CheckResult(False, 0.0, "not found")
        return CheckResult(True, 1.0, f"found {shown(found.group().decode('utf-8', 'replace'))}")
