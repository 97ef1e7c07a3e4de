"""`math`: the final answer equals the known one, as mathematics. Score: 1 if it does, else 0.

Plain numbers are compared exactly. This decides most word problems in microseconds, and supports notations that
math-verify does not read (mixed numbers, millions, units). Everything else is left to math-verify, which only sees
short expressions, because its patterns are slow on long texts. The caller limits the time.
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult, Row, equal, shown, text_in
from stillhouse.gen.checks.denials import is_denied, without_denied
from stillhouse.gen.checks.final_answer import FinalAnswer, final_answer, unwrapped
from stillhouse.gen.checks.latex import as_latex, squeezed
from stillhouse.gen.checks.plain_number import PlainNumber, plain_number
from stillhouse.gen.checks.units import units_in
from stillhouse.schemas.math_check import MathCheck

MAX_CHARS = 200_000
"""The longest answer that is read: the longest solutions of today's teachers are half as long."""
MAX_EXPRESSION_CHARS = 2_000
"""The longest final answer."""
MAX_PROSE_WORDS = 15
"""A known answer with more words is not valid, and an answer that ends in more words states nothing."""
_PROSE_WORD = re.compile(r"[^\W\d_]{2,}")
_LATEX_COMMAND = re.compile(r"\\[A-Za-z]+")
_MAX_SENTENCE_CHARS = 200
"""Longer text is prose, in which an expression is searched for."""
_NEAR = 1e-4
"""Numbers whose relative difference is smaller are left to math-verify, which rounds."""
_WORDS = re.compile(r"[^\W\d_]+(?:[ '’-]+[^\W\d_]+)*")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\(?\s*([A-Z])\s*[.)]?")
_LAST_NUMBER = re.compile(
    r"(?<![\w.,^/\\{])(?:[-\u2212](?=[$€£]?\d)|(?<=[-+*/=] )-|\bnegative\s+|(?<![\d)]\s)\bminus\s+)?[$€£]?"
    r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+(?:\.{3}|…)?)?(?:\s*%|\s+percent\b)?(?![\w^/{])"
)
_MAX_UNIT_CHARS = 60
_UNIT_BEHIND = re.compile(r"\s*-?[^\W\d_]+\.?(?:\s*(?:/|per\b)\s*[^\W\d_]+|\s+[^\W\d_]+)?(?:\^\{?[23]\}?|[²³])?")
"""A possible unit after a number in prose."""
_BRACKETED = re.compile(r"([(\[])([^()\[\]]+)([)\]])")
_HEAD = re.compile(
    r"\**\s*(?:(?:about|approximately|only|exactly)\s+)?([-\u2212]?\s*\\?\$?\d[\d,]*(?:\.\d+)?(?:\s*\\?%)?)\**"
    r"(?=\s+(?!(?:or|and|to|plus|minus|times|over|pi)\b)[a-z]{2}|,\s)"
)
_DOLLARS = re.compile(r"\$[^\s$](?:[^$\n]*[^\s$])?\$(?!\d)")
"""A formula rather than two sums of money: no white space inside either dollar sign, and no digit after the second."""


_FORMULA = re.compile(rf"{_DOLLARS.pattern}|\\\([^\n]+?\\\)")


class Math:
    """Compares one answer after another; recently parsed references are kept, because samples share theirs."""

    def __init__(self, settings: MathCheck) -> None:
        self._column = settings.answer
        self._verify = MathVerify()

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        expected = _reference(text_in(row, self._column))
        if len(answer.text) > MAX_CHARS:
            raise CannotSay(f"the answer has {len(answer.text):,} characters; at most {MAX_CHARS:,} are read")
        got = final_answer(answer.text)
        if not got.text:
            return CheckResult(False, 0.0, "no final answer")
        if max(len(expected), len(got.text)) > MAX_EXPRESSION_CHARS:
            raise CannotSay(f"the final answer has more than {MAX_EXPRESSION_CHARS:,} characters")
        text = _asserted(got, expected)
        if not text:
            return CheckResult(False, 0.0, f"no final answer but {shown(got.text)}")
        return equal(self._equal(expected, text, got), expected=expected, got=text)

    def _equal(self, expected: str, text: str, got: FinalAnswer) -> bool:
        if (is_same := _plainly_same(expected, text)) is not None:
            return is_same
        known, number = _numbers(expected, text)
        if got.marked == "words" and known is not None and number is None and (head := _leading(text)):
            return known.equals(head)
        if got.marked == "box" or got.marked == "hashes":
            return self._verify.equal(expected, as_latex(text))
        is_short = len(text) <= _MAX_SENTENCE_CHARS and "\n" not in text
        return (is_short and self._verify.equal(expected, as_latex(text))) or self._verify.equal(
            expected, text, as_prose=True
        )


class MathVerify:
    """The only call of math-verify. Its own time limits are off, because they need their own signals."""

    def __init__(self) -> None:
        import math_verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)
        self._parse: Any = math_verify.parse
        self._compare: Any = math_verify.verify
        self._reference = lru_cache(maxsize=1024)(self._parsed)

    def equal(self, expected: str, text: str, *, as_prose: bool = False) -> bool:
        """True if both are equal; `as_prose`: the expression may be anywhere in the text."""
        known = self._reference(as_latex(expected))
        found = self._parse(text, parsing_timeout=None) if as_prose else self._parsed(text)
        return bool(self._compare(known, found, timeout_seconds=None, allow_set_relation_comp=True))

    def _parsed(self, expression: str) -> list[Any]:
        parsed: list[Any] = self._parse(f"\\boxed{{{expression}}}", parsing_timeout=None)
        return parsed


def stated(text: str) -> str | None:
    """A solution's final answer, in a form that can be compared with others; None if there is none.

    Raises:
        CannotSay: it is too long.
    """
    final = final_answer(text)
    said = final.text
    if final.marked == "words" and _number(said) is None and (head := _HEAD.match(said)):
        said = head[1].rstrip(",")
    elif final.marked == "whole":
        said = _last_stated(said)
    if len(said) > MAX_EXPRESSION_CHARS:
        raise CannotSay(f"the final answer has more than {MAX_EXPRESSION_CHARS:,} characters")
    return None if not said or is_denied(said) or _is_prose(said) else squeezed(said)


def same(one: str, other: str, verify: MathVerify) -> bool:
    """True if two statements are equal as mathematics."""
    is_same = _plainly_same(one, other)
    return verify.equal(one, as_latex(other)) if is_same is None else is_same


def wrong_reference(settings: MathCheck, row: Row) -> str | None:
    """Why the row's known answer can't be used, such as prose; None if it can."""
    known = _reference(text_in(row, settings.answer))
    if len(known) > MAX_EXPRESSION_CHARS or _is_prose(known):
        return "expected a number, an expression, or a solution that ends in `#### 72` or \\boxed{72}, got prose"
    return None


def _is_prose(text: str) -> bool:
    return len(_PROSE_WORD.findall(_LATEX_COMMAND.sub(" ", text))) > MAX_PROSE_WORDS


def _plainly_same(known: str, text: str) -> bool | None:
    """True or False if reading both is enough; None if only math-verify can tell."""
    if squeezed(known) == squeezed(text):
        return True
    a, b = _numbers(known, text)
    is_same = _same_number(a, b) if a is not None and b is not None else _same_numbers(known, text)
    if is_same is None and (words := _words(known)) is not None and (said := _words(text)) is not None:
        return words == said
    return is_same


@lru_cache(maxsize=1024)
def _reference(text: str) -> str:
    """The known answer in a reference: marked in a solution, or the whole text."""
    found = final_answer(text)
    if found.marked in ("box", "hashes"):
        return found.text
    return unwrapped(text)


@lru_cache(maxsize=1024)
def _number(text: str) -> PlainNumber | None:
    return plain_number(text)


def _is_near(known: PlainNumber, number: PlainNumber) -> bool:
    if known.is_percent != number.is_percent:
        return any(_close(known.value * factor, number.value) for factor in (1, 100)) or _close(
            known.value, number.value * 100
        )
    return _close(known.value, number.value)


def _close(a: Fraction, b: Fraction) -> bool:
    is_rounded = a.denominator != 1 or b.denominator != 1  # of two integers, neither is
    return is_rounded and abs(a - b) <= _NEAR * max(Fraction(1), abs(a))


def _same_numbers(expected: str, text: str) -> bool | None:
    """True if both are points or intervals of the same plain numbers, False if not; None if they are neither."""
    known, found = _BRACKETED.fullmatch(squeezed(expected)), _BRACKETED.fullmatch(squeezed(text))
    if known is None or found is None:
        return None
    pairs = [(_number(a), _number(b)) for a, b in zip(known[2].split(","), found[2].split(","), strict=False)]
    if known[2].count(",") != found[2].count(",") or not all(a and b for a, b in pairs):
        return None
    verdicts = [_same_number(a, b) for a, b in pairs if a and b]
    if False in verdicts:
        return False
    if (known[1], known[3]) != (found[1], found[3]) or None in verdicts:
        return None
    return True


def _same_number(known: PlainNumber, number: PlainNumber) -> bool | None:
    """None if they are so close that only math-verify can tell."""
    converted = number.in_unit_of(known)
    if converted is None:
        return False
    if known.equals(converted):
        return True
    if converted.value != number.value:  # math-verify knows no units
        return _is_near(known, converted)
    return None if _is_near(known, converted) else False


def _numbers(expected: str, text: str) -> tuple[PlainNumber | None, PlainNumber | None]:
    """Both as numbers; if one has a unit of measure, the other may have a unit of a single letter, such as `5 m`."""
    known, number = _number(expected), _number(text)
    if known is None and number is not None and number.units:
        known = plain_number(expected, letters=True)
    elif number is None and known is not None and known.units:
        number = plain_number(text, letters=True)
    return known, number


def _words(text: str) -> str | None:
    """A text made only of words, such as a choice's letter or yes and no, in normal form."""
    bare = _TEXT.sub(r"\1", text).strip().rstrip(".").strip()
    if letter := _LETTER.fullmatch(bare):
        return letter[1].casefold()
    return bare.casefold() if len(bare) > 1 and _WORDS.fullmatch(bare) else None


def _leading(text: str) -> PlainNumber | None:
    """The number at the start of a statement: `72 clips in April and May`."""
    head = _HEAD.match(text)
    return None if head is None else plain_number(head[1].rstrip(","))


def _last_stated(tail: str) -> str:
    """The final answer at the end of a solution that marks none: the last formula, or else the last number."""
    if _number(tail) is not None or not _PROSE_WORD.search(_LATEX_COMMAND.sub(" ", tail)):
        return unwrapped(tail)
    if formulas := _FORMULA.findall(tail):
        return unwrapped(formulas[-1])
    numbers = _LAST_NUMBER.findall(without_denied(tail))
    return numbers[-1] if numbers else unwrapped(tail)


def _asserted(got: FinalAnswer, expected: str) -> str:
    """The text that states the answer, without numbers that it only denies or compares with; empty if nothing is
    left."""
    known = _number(expected) or plain_number(expected, letters=True)
    text = got.text
    if known is None:
        return "" if is_denied(text) and not is_denied(expected) else text
    if got.marked == "whole":
        has_formula = "\\" in text or _DOLLARS.search(text) is not None
        last = _last_number(text, known)
        return without_denied(text) if has_formula or (last is None and without_denied(text) == text) else last or ""
    if without_denied(text) == text:
        return text
    return _last_number(text, known) or _last_number(got.rest, known) or ""


def _last_number(text: str, known: PlainNumber) -> str | None:
    """The last number of prose that is not denied there, with its unit if requested."""
    asserted = without_denied(text)
    found = list(_LAST_NUMBER.finditer(asserted))
    if not found:
        return None
    last, end = found[-1][0], found[-1].end()
    if last in _LAST_NUMBER.findall(text[end:]) and last not in _LAST_NUMBER.findall(
        without_denied(text, compared=False)[end:]
    ):
        return None  # the sentence denies it afterwards
    behind = asserted[end:][:_MAX_UNIT_CHARS].partition("\n")[0]
    if not known.units or not (units := _UNIT_BEHIND.match(behind)) or not units_in(units[0]):
        return last
    return last + units[0]
