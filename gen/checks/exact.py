"""`exact`: the whole answer equals the known one. Score: 1 if it does, else 0."""

import unicodedata

from stillhouse.gen.checks.base import Answer, CheckResult, Row, equal, text_in
from stillhouse.schemas.exact_check import ExactCheck


class Exact:
    """Compares in Unicode's NFC, because a letter with an accent can be written in two ways."""

    def __init__(self, settings: ExactCheck) -> None:
        self._column = settings.answer
        self._ignore_case = settings.ignore_case

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        expected, got = text_in(row, self._column).strip(), answer.text.strip()
        return equal(self._plain(expected) == self._plain(got), expected=expected, got=got)

    def _plain(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        return unicodedata.normalize("NFC", text.casefold()) if self._ignore_case else text
