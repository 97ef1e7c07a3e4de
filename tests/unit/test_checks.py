"""Every check but `math`, in this process: what it accepts, what it rejects, and its details."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import recipe_of

from stillhouse.gen.checks.base import MAX_DETAIL_CHARS, Answer, CannotSay, CheckResult, Unchecked, answer_of
from stillhouse.gen.checks.registry import NamedCheck, built, needs_extra
from stillhouse.gen.checks.repetition import repeated_share
from stillhouse.gen.checks.runner import verdicts
from stillhouse.schemas.checks import Check
from stillhouse.schemas.completion import Completion, Usage

LETTERS = {"choice": {"answer": "known", "options": ["A", "B", "C", "D"]}}
TEXTS = {"choice": {"answer": "known", "options": "options"}}
CITIES = ("Paris", "Rome", "New York", "a prime number")


def settings(**check: Any) -> Check:
    """A check as a recipe has it."""
    return Check.model_validate(check)


def judged(
    check: Check, text: str, *, reasoning: str | None = None, tokens: int | None = None, **row: Any
) -> CheckResult:
    """The check's verdict."""
    (named,) = built([check])
    return named.check.judge(Answer(text, reasoning, tokens), row)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B) Rome", "B"),
        ("B. Rome", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B) Rome.", "B"),
        ("**Answer:** B", "B"),
        ("The answer is (b).", "B"),
        (r"Final answer: \boxed{B}", "B"),
        (r"\boxed{\textbf{(B)}\ Rome}", "B"),
        ("#### D", "D"),
        ("A is wrong. B is wrong.\nC", "C"),
        ("So B is wrong, and the answer is C.", "C"),
        ("I choose option D because it fits.", "D"),
        ("The best option would be **C**.", "C"),
        ("The answer is B, because A is wrong", "B"),
        ("Rome", "B"),
        ("The answer is Rome.", "B"),
        ("The answer is a prime number.", "D"),
        ("The answer is A or B.", None),
        ("A, B", None),
        ("Both A and B", None),
        ("E", None),
        ("A prime number is it", None),
        ("I don't know", None),
        ("", None),
    ],
)
def test_choice_finds_the_chosen_option(text: str, chosen: str | None) -> None:
    """By its letter or its text; an answer that names none, or several, has chosen nothing."""
    for known in "ABCD":
        verdict = judged(settings(**TEXTS), text, known=known, options=CITIES)
        assert verdict.accepted == (known == chosen), verdict


def test_choice_takes_the_known_option_by_letter_or_text() -> None:
    """What is neither can't be compared, and a number is not guessed to be a place from 0 or from 1."""
    assert judged(settings(**TEXTS), "B", known="Rome", options=CITIES).accepted
    assert judged(settings(**LETTERS), "B", known="(b)").accepted
    assert judged(settings(choice={"answer": "known"}), "F", known="F").accepted
    assert judged(
        settings(choice={"answer": "known", "options": ["1", "2", "3"]}), "The answer is 2.", known="2"
    ).accepted
    with pytest.raises(
        CannotSay, match="column 'known': expected one of A, B, C, D or an option, got 1; a number is not"
    ):
        judged(settings(**TEXTS), "B", known="1", options=CITIES)
    with pytest.raises(CannotSay, match="column 'options': expected a list of 2 to 26 options"):
        judged(settings(**TEXTS), "B", known="A")


def test_exact_compares_the_whole_answer() -> None:
    """Ignoring white space around it and the form of accents; case matters unless set otherwise."""
    check, loose = settings(exact={"answer": "known"}), settings(exact={"answer": "known", "ignore_case": True})
    assert judged(check, " caf\u00e9\n", known="cafe\u0301").accepted
    assert not judged(check, "Paris", known="paris").accepted
    assert judged(loose, "STRASSE", known="stra\u00dfe").accepted
    assert judged(check, "Lyon", known="Paris").detail == "expected Paris, got Lyon"
    assert len(judged(check, "x" * 10_000, known="y" * 10_000).detail) <= MAX_DETAIL_CHARS


def test_contains_looks_for_a_text() -> None:
    """The recipe's text, or each row's; the score is the number of occurrences."""
    assert judged(settings(contains={"text": "def "}), "def a(): ...\ndef b(): ...").score == 2.0
    assert judged(settings(contains={"column": "word"}), "a cat sat", word="cat").accepted
    assert not judged(settings(contains={"column": "word"}), "a dog sat", word="cat").accepted


def test_regex_takes_linear_time_whatever_the_pattern() -> None:
    """Patterns that never come back in Python's own module; half a surrogate pair is just another character."""
    began = time.process_time()
    for pattern in (r"(a+)+$", r"(x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*)*=(.*)*"):
        for text in ("a" * 100_000 + "!", "x" * 100_000, "aa.\ud800"):
            judged(settings(regex={"pattern": pattern}), text)
    assert time.process_time() - began < 5
    assert judged(settings(regex={"pattern": r"(?i)ANSWER: (\d+)$"}), "The answer: 72").detail == "found answer: 72"
    assert not judged(settings(regex={"pattern": r"^72$"}), "x\n72").accepted
    assert judged(settings(regex={"pattern": r"(?m)^72$"}), "x\n72").accepted


def test_json_schema_reads_the_answer_as_json() -> None:
    """Without a code fence around it; what does not fit is named by its place."""
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    check = settings(json_schema={"schema": schema})
    assert judged(check, '{"a": [1, 2]}').accepted
    assert judged(check, '```json\n{"a": []}\n```\n').accepted
    assert judged(check, '{"a": [1, "x"]}').detail == '/a/1: "x" is not of type "integer"'
    assert judged(check, "{}").detail == 'the answer: "a" is a required property'
    assert judged(check, "Sure! {}").detail.startswith("not JSON: ")
    assert judged(check, '{"a": \ud800}').detail.startswith("not JSON: ")
    assert judged(check, "[" * 100_000).detail.startswith("not JSON: ")


def test_json_schema_matches_patterns_in_linear_time() -> None:
    """A schema's patterns are as dangerous as a recipe's."""
    check = settings(json_schema={"schema": {"type": "string", "pattern": "^(a+)+$"}})
    began = time.process_time()
    assert not judged(check, json.dumps("a" * 50_000 + "!")).accepted
    assert time.process_time() - began < 5


def test_length_counts_in_its_unit() -> None:
    """Characters, words, or the tokens that the teacher reported; without them it can't say."""
    assert judged(settings(length={"max": 3}), " abc\n").detail == "3 chars"
    assert judged(settings(length={"min": 3, "unit": "words"}), "one two").detail == "2 words, expected at least 3"
    assert judged(settings(length={"max": 1000, "unit": "tokens"}), "x", tokens=1200) == CheckResult(
        False, 1200.0, "1,200 tokens, expected at most 1,000"
    )
    with pytest.raises(CannotSay, match="did not report its output tokens; use another unit"):
        judged(settings(length={"max": 9, "unit": "tokens"}), "x")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "Natalia sold 24 clips in May, so she sold 72 altogether."),
        ("de", "Im Mai hat sie 24 Klammern verkauft, also insgesamt 72."),
        ("fr", "En mai, elle a vendu 24 pinces, donc 72 en tout."),
        ("es", "En mayo vendió 24 pinzas, así que en total son 72."),
        ("ru", "В мае она продала 24 заколки, всего получилось 72."),
        ("zh", "她五月卖了二十四个夹子，所以一共卖了七十二个。"),
        ("ja", "五月に24個のクリップを売ったので、合計は72個です。"),
        ("ar", "باعت في مايو أربعة وعشرين مشبكًا، فيكون المجموع اثنين وسبعين."),
    ],
)
def test_language_is_told_from_prose(code: str, text: str) -> None:
    """Each text is in its own language and in no other; code and formulas around it change nothing."""
    for other in ("en", "de", "fr", "es", "ru", "zh", "ja", "ar"):
        verdict = judged(settings(language={"is": other}), text)
        assert verdict.accepted == (other == code), verdict
    formula = (
        "```python\nfor item in the_list_of_things: print(item, 'and the other words')\n``` $x^2 + \\text{of the}$ "
    )
    assert judged(settings(language={"is": ["it", code]}), formula + text).accepted


def test_language_accepts_text_without_a_language() -> None:
    """A bare number or formula is not in the wrong language."""
    for text in ("42", r"\boxed{\frac{1}{2}}", "$x = 3$", ""):
        assert judged(settings(language={"is": "de"}), text) == CheckResult(True, None, "too few letters to tell")


def test_reasoning_must_be_present() -> None:
    """White space does not count."""
    assert judged(settings(reasoning={}), "x", reasoning="so").accepted
    assert not judged(settings(reasoning={}), "x", reasoning=" \n").accepted
    assert not judged(settings(reasoning={}), "x").accepted
    assert judged(settings(reasoning={"min_chars": 9}), "x", reasoning="so").detail == "2 chars, expected at least 9"


PROSE = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. In May she sold "
    "48/2 = 24 clips. Altogether she sold 48 + 24 = 72 clips in April and May. To check this, we can go back from the "
    "total: 72 less 24 is 48, which is what she sold in April, and half of it is 24, which is what she sold in May."
)


def test_repetition_is_the_share_of_repeated_word_runs() -> None:
    """Zero in prose, nearly one in a loop, in any script; reasoning counts as much as the answer."""
    check = settings(repetition={"max": 0.3})
    assert repeated_share(PROSE) == 0.0
    assert repeated_share(PROSE * 4) == pytest.approx(0.74, abs=0.02)
    assert repeated_share("Wait, let me think. " * 200) > 0.98
    assert repeated_share("我们再想一想。" * 200) > 0.98
    assert repeated_share("") == repeated_share("one word") == 0.0
    assert judged(check, PROSE).accepted
    verdict = judged(check, PROSE, reasoning="Hmm, wait. " * 100)
    assert (verdict.accepted, verdict.detail) == (False, "99% of the reasoning is repeated, expected at most 30%")


def accepted(checks: Sequence[NamedCheck], answer: Answer, row: Mapping[str, Any]) -> list[bool]:
    """Which of the checks accept it; each can check it."""
    said = list(verdicts(checks, answer, row))
    assert all(isinstance(each, CheckResult) for each in said)
    return [isinstance(each, CheckResult) and each.accepted for each in said]


def test_the_first_check_that_does_not_accept_ends_it() -> None:
    """Those after it do not run; one that raises, or has no memory left, leaves the answer unchecked."""

    class Raises:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def judge(self, answer: Answer, row: object) -> CheckResult:
            raise self.error

    checks = built([settings(contains={"text": "a"}), settings(length={"max": 3})])
    assert accepted(checks, Answer("abc"), {}) == [True, True]
    assert accepted(checks, Answer("abcd"), {}) == [True, False]
    assert accepted(checks, Answer("bcde"), {}) == [False]
    for error, reason in (
        (ValueError("of no use"), "bad failed: ValueError: of no use (test_checks.py:"),
        (MemoryError(), "ran out of memory"),
        (CannotSay("no tokens"), "no tokens"),
    ):
        _, unchecked = verdicts([checks[0], NamedCheck("b", "bad", Raises(error)), checks[1]], Answer("abc"), {})
        assert isinstance(unchecked, Unchecked)
        assert unchecked.reason.startswith(reason)


def test_an_answer_is_a_completion_without_its_reasoning() -> None:
    """The reasoning's tokens do not count; a bare tool call has no text."""
    usage = Usage(output_tokens=30, reasoning_tokens=20)
    assert answer_of(Completion("x", "stop", "stop", reasoning="so", usage=usage)) == Answer("x", "so", 10)
    assert answer_of(Completion(None, "tool_calls", None)) == Answer("", None, None)


def test_checks_that_need_the_extra_are_known(tmp_path: Path) -> None:
    """A cluster's nodes then get it."""
    length = {"length": {"max": 3}}
    assert needs_extra(recipe_of(tmp_path, checks=[length, {"math": {"answer": "a"}}]))
    assert needs_extra(recipe_of(tmp_path, select={"majority": {"answer": "math"}}))
    assert not needs_extra(recipe_of(tmp_path, checks=[length, {"regex": {"pattern": "a"}}]))
    assert not needs_extra(recipe_of(tmp_path, select={"majority": {"answer": "choice"}}))
