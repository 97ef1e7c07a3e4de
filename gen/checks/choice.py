"""`choice`: the answer chooses the known option. Score: 1 if it does, else 0.

An option is chosen by its letter, or by its text if the source has the texts. An answer that names several options, or
none, has made no choice and is rejected.
"""

import re
import string
from collections.abc import Sequence

from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult, Row, equal, shown, text_in
from stillhouse.gen.checks.final_answer import final_answer
from stillhouse.schemas.choice_check import ChoiceCheck

MAX_CHARS = 200_000
"""The longest answer that is read."""
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox)\s*\{([^{}]*)\}")
_BY_NAME = re.compile(r"(?:option|choice|letter|answer)\s+", re.IGNORECASE)
_STATED = re.compile(
    r"(?:\b(?:answer|choice|option)\b[^.\n]{0,60}?\b(?:is|are|be|=)|\banswer\s*\**\s*:|\b(?:choose|select|pick|option|choice))"
    r"\s*:?\s*(?:(?:option|choice|letter)\s+)?(?P<said>[^\n]{1,200})",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b)\s*(?:option\s+)?[(\[*]*(?P<other>\w)(?![\w'’])", re.IGNORECASE)


class Choice:
    """Finds the letter of the chosen option."""

    def __init__(self, settings: ChoiceCheck) -> None:
        self._settings = settings

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        if len(answer.text) > MAX_CHARS:
            raise CannotSay(f"the answer has {len(answer.text):,} characters; at most {MAX_CHARS:,} are read")
        letters, texts = _options(self._settings, row)
        known = text_in(row, self._settings.answer)
        expected = _chosen(known, letters, texts)
        if expected is None:
            raise CannotSay(
                f"column {self._settings.answer!r}: {_expected(letters, texts)}, got {shown(known)}; a number is "
                "not used as a position in the list"
            )
        got = chosen(answer.text, letters, texts)
        if got is None:
            return CheckResult(False, 0.0, f"expected {expected}, got no choice, or several")
        return equal(got == expected, expected=expected, got=got)


def wrong_reference(settings: ChoiceCheck, row: Row) -> str | None:
    """What is wrong with a row's known choice; None if it is valid."""
    letters, texts = _options(settings, row)
    if _chosen(text_in(row, settings.answer), letters, texts) is not None:
        return None
    return f"{_expected(letters, texts)}, got other text; a number is not used as a position in the list"


def _options(settings: ChoiceCheck, row: Row) -> tuple[Sequence[str], Sequence[str]]:
    """The options' letters, and their texts if the source has them."""
    if isinstance(settings.options, tuple):
        return settings.options, ()
    if settings.options is None:
        return string.ascii_uppercase, ()
    texts = row.get(settings.options)
    if not isinstance(texts, tuple) or not 2 <= len(texts) <= len(string.ascii_uppercase):
        raise CannotSay(
            f"column {settings.options!r}: expected a list of 2 to 26 options' texts, got {shown(str(texts))}"
        )
    return string.ascii_uppercase[: len(texts)], texts


def chosen(text: str, letters: Sequence[str], texts: Sequence[str]) -> str | None:
    """The letter of the option that an answer chooses; None if it chooses none, or several."""
    final = final_answer(text)
    if final.marked in ("box", "hashes"):
        return _chosen(final.text, letters, texts)
    stripped = text.strip()
    if (whole := _chosen(stripped, letters, texts)) is not None:
        return whole
    for found in reversed(list(_STATED.finditer(stripped))):
        if (said := _chosen(found["said"], letters, texts)) is not None:
            return said
    lines = [line for line in stripped.splitlines() if line.strip()]
    return next((said for line in (*lines[-1:], *lines[:1]) if (said := _chosen(line, letters, texts))), None)


def _chosen(text: str, letters: Sequence[str], texts: Sequence[str]) -> str | None:
    """The option that a short statement names: `B`, `(b)`, `**B. Paris**` or `Paris`."""
    bare = _plain(text)
    named = _BY_NAME.sub("", bare, count=1) if _BY_NAME.match(bare) else bare
    by_text = [letter for letter, option in zip(letters, texts, strict=False) if _plain(option) == bare]
    if len(by_text) == 1:
        return by_text[0]
    # A lower-case letter counts only in brackets or alone, because `a` is a word.
    found = re.match(r"[(\[](?P<in>\w)[)\]]|(?P<alone>\w)(?:[.):](?=\s|$)|(?=\s|$|[,;/&]))", named)
    if found is None:
        return None
    letter = found["in"] or found["alone"]
    is_word = found["in"] is None and letter.islower() and len(named.rstrip(".):")) > 1
    letter = letter if letter in letters else letter.upper()
    other = _SEVERAL.match(named, found.end())
    if letter not in letters or is_word or (other and other["other"].upper() in letters and other["other"].isupper()):
        return None
    if found["alone"] and letter in "AI" and re.match(r"\s+[a-z]", named[found.end() :]):
        return None  # `A prime number`, `I think`: an article or a pronoun
    return letter


def _expected(letters: Sequence[str], texts: Sequence[str]) -> str:
    listed = f"{letters[0]} to {letters[-1]}" if len(letters) > 6 else ", ".join(letters)
    return f"expected one of {listed}{' or an option' if texts else ''}"


def _plain(text: str) -> str:
    text = _TEXT.sub(r"\1", text).strip()
    return text.strip("*_`$ \t").strip().rstrip(".").rstrip("*_` ").strip()
