"""`repetition`: neither the answer nor its reasoning repeats itself. Score: the repeated share, 0 to 1.

The share is that of runs of ten words that occurred earlier in the text. A word is a sequence of letters and digits; in
scripts without spaces each character counts as one word, and so does each other sign.
"""

import re

from stillhouse.gen.checks.base import Answer, CheckResult, Row
from stillhouse.schemas.repetition_check import RepetitionCheck

RUN_WORDS = 10
"""Long enough that prose and solutions seldom repeat a run by chance, short enough for a loop of one sentence."""
_WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+|[^\w\s]")


class Repetition:
    """Judges the worse of the two texts."""

    def __init__(self, settings: RepetitionCheck) -> None:
        self._max = settings.max

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        texts = {"the answer": answer.text, "the reasoning": answer.reasoning or ""}
        shares = [(repeated_share(text), name) for name, text in texts.items()]
        share, where = max(shares, key=lambda pair: pair[0])
        detail = f"{share:.0%} of {where} is repeated"
        if share > self._max:
            return CheckResult(False, share, f"{detail}, expected at most {self._max:.0%}")
        return CheckResult(True, share, detail)


def repeated_share(text: str) -> float:
    """The share of runs of `RUN_WORDS` words that occurred earlier in the text; 0 if it has fewer than two runs."""
    words = _WORD.findall(text)
    runs = len(words) - RUN_WORDS + 1
    if runs < 2:
        return 0.0
    # Only the hash of each run is kept: megabytes of text would make gigabytes of tuples.
    hashes = list(map(hash, words))
    seen = {hash(tuple(hashes[at : at + RUN_WORDS])) for at in range(runs)}
    return 1.0 - len(seen) / runs
