"""The check `math`: which answers count as the same, in the notations that people and teachers use."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult
from stillhouse.gen.checks.final_answer import final_answer
from stillhouse.gen.checks.math import MAX_CHARS, Math, MathVerify, stated
from stillhouse.gen.checks.plain_number import plain_number
from stillhouse.schemas.math_check import MathCheck

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k-train.jsonl"

RIGHT = [
    # plain numbers
    ("72", r"\boxed{72}"),
    ("72", "So 48 + 24 = 72.\n#### 72"),
    ("72", "She sold 72 clips altogether."),
    ("72", r"\boxed{72.0}"),
    ("072", "#### 72"),
    ("-5", "\\boxed{\u22125}"),
    ("+5", r"\boxed{5}"),
    (".5", r"\boxed{0.50}"),
    ("1,234", "The answer is $1234$."),
    ("1234567", r"\boxed{1{,}234{,}567}"),
    ("1234567", r"\boxed{1\,234\,567}"),
    ("1000", "#### 1e3"),
    ("6.02e23", r"\boxed{6.02 \times 10^{23}}"),
    ("0.0015", "\\boxed{1.5\u00b710^{-3}}"),
    ("2500000", r"\boxed{2.5 \text{ million}}"),
    ("2500000", "#### 2.5 million"),
    # money, units, percent
    ("1234.5", r"\boxed{\$1,234.50}"),
    ("18", "The total is $18.00"),
    ("18", "Answer: $18 per week."),
    ("-5", "#### -$5"),
    ("5000", "#### $5K"),
    ("20", "\\boxed{20\u20ac}"),
    ("72", "The answer is **72 apples**."),
    ("5", r"\boxed{5 \text{ cm}}"),
    ("5 cm", r"\boxed{5\,\mathrm{cm}}"),
    ("10", r"\boxed{10 \frac{\text{km}}{\text{h}}}"),
    ("25", "\\boxed{25 cm\u00b2}"),
    ("30", r"\boxed{30^\circ}"),
    ("30 degrees", "\\boxed{30\u00b0}"),
    ("50%", r"\boxed{0.5}"),
    ("50", "**Answer:** 50%"),
    ("12.5", r"\boxed{12.5\%}"),
    ("0.125", "12.5 percent"),
    # fractions and roots
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("1/2", r"\boxed{\dfrac12}"),
    ("0.75", "#### \u00be"),
    ("3.5", "#### 3 1/2"),
    (r"3\frac{1}{2}", r"\boxed{\frac{7}{2}}"),
    ("1/3", r"\boxed{0.333333}"),
    (r"\sqrt{8}", r"\boxed{2\sqrt2}"),
    ("sqrt(2)/2", r"\boxed{\frac{1}{\sqrt{2}}}"),
    ("\u221a3", r"\boxed{\sqrt{3}}"),
    # expressions, sets, intervals, text
    ("x^2 + 2x + 1", r"\boxed{(x+1)^2}"),
    ("2*pi", r"\boxed{2\pi}"),
    ("x = 5", r"\boxed{5}"),
    ("5", r"\boxed{x = 5}"),
    ("2^{10}", "The answer is 1024."),
    (r"\{1, 2, 3\}", r"\boxed{\{3, 2, 1\}}"),
    ("1, 2, 3", r"\boxed{3, 2, 1}"),
    ("(1, 2)", r"\boxed{\left(1, 2\right)}"),
    ("(0.5, -3)", r"\boxed{\left(\frac{1}{2}, -3\right)}"),
    ("[0, 1)", r"$0 \le x < 1$"),
    ("(-\u221e, 3]", r"\boxed{(-\infty, 3]}"),
    (r"(-\infty,1)\cup(2,\infty)", "\\boxed{(-\\infty,1)\u222a(2,\\infty)}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}"),
    ("B", r"\boxed{\text{(B)}}"),
    ("(B)", "The answer is B."),
    ("Yes", "Final answer: yes."),
    ("12:30", "The answer is 12:30."),
    # repeating decimals
    ("1/3", r"\boxed{0.\overline{3}}"),
    ("1/3", "The answer is 0.333..."),
    ("1/6", r"\boxed{0.1\dot{6}}"),
    (r"0.\overline{142857}", r"\boxed{\frac17}"),
    ("5/11", "#### 0.(45)"),
    ("0.1666\u2026", r"\boxed{\frac{1}{6}}"),
    # signs in words
    ("-3", "The answer is negative 3."),
    ("-3", "It is minus 3"),
    ("7", "So 10 minus 3 is 7"),
    # the same in another unit
    ("5 km", r"\boxed{5000 m}"),
    ("5 km", "The answer is 5 kilometres."),
    ("5 m", "The answer is 5 meters."),
    ("5 km", "The answer is 5 km away from home."),
    ("5 km", r"\boxed{5}"),
    ("5", r"\boxed{5 \text{ km}}"),
    ("5 m", r"\boxed{5 m}"),
    ("5 km/h", r"\boxed{5 \frac{\text{km}}{\text{h}}}"),
    ("5 km/h", "The answer is 5 kilometers per hour."),
    ("60 mph", "The answer is 60 miles per hour"),
    ("1 hour", "It takes 60 minutes."),
    ("2.5 hours", "It takes 150 minutes."),
    ("5 m^2", "The answer is 5 square meters."),
    (r"5\text{ cm}^2", "5 centimeters squared"),
    ("1 liter", r"\boxed{1000\text{ cm}^3}"),
    ("3 feet", "The answer is 36 inches."),
    ("$5", "The answer is 500 cents."),
    ("$5", "The answer is 5 dollars."),
    ("\u00a35", "The answer is 5 pounds."),
    ("5 lb", "The answer is 5 pounds."),
    ("$5 per hour", "The answer is 5 dollars per hour."),
    ("5 dollars per hour", "The answer is $5."),
    ("5 cents", r"\boxed{\$0.05}"),
    ("6\\text{ in}", "The answer is 0.5 ft."),
    ("12 square units", r"\boxed{12}"),
    ("72 clips", "The answer is 72."),
    ("72 clips", "The answer is 72 hair clips in all."),
    ("$18", "She makes $18 every day."),
    # stated next to a number that is denied or compared
    ("72", "The answer is 72, not 73."),
    ("72", "The answer is 72 (not 73)."),
    ("72", "The answer is not 70 but 72."),
    ("72", "The answer is not 70, it is 72."),
    ("72", "The answer is not 70. The answer is 72."),
    ("72", "It is not only 72 but even."),
    ("72", "She has 72, which is more than 50."),
    ("72", "It is 72 rather than 73."),
    ("72", "So the price rose from 50 to 72."),
    ("72", "I thought the answer is 70, but that is wrong. It is 72."),
    ("4", "She needs at least 4 boxes."),
    ("[5,\\infty)", r"\boxed{x \ge 5}"),
]
WRONG = [
    ("72", r"\boxed{71}"),
    ("72", "#### 72.5"),
    ("72", r"\boxed{-72}"),
    ("72", "It is between 70 and 75."),
    ("72", "I do not know."),
    ("72", ""),
    ("72", "72 + 1 = 73"),
    ("72", r"\boxed{72}, or rather \boxed{73}"),
    ("1,000", r"\boxed{1.000}"),
    ("1/3", r"\boxed{0.33}"),
    ("0.5", r"\boxed{0.5\%}"),
    ("50", r"\boxed{0.5}"),
    ("5", "#### $5K"),
    ("2.5", r"\boxed{2.5 \text{ million}}"),
    ("5", r"\boxed{5x}"),
    ("5x", r"\boxed{5}"),
    ("5", r"\boxed{5 \text{ or } 6}"),
    ("5", "The answer is 5 or 6."),
    ("5", "The answer is 5 x + 2."),
    ("3.5", "#### 3-1/2"),
    ("31/2", "#### 3 1/2"),
    ("12", r"\boxed{1 2}"),
    (r"\pi", r"\boxed{3.14}"),
    ("x+1", r"\boxed{x-1}"),
    ("(1, 2)", r"\boxed{(2, 1)}"),
    ("(1, 2)", r"\boxed{(1, 2]}"),
    ("[0, 0)", r"\boxed{[0, -1)}"),
    ("(1, 2)", r"\boxed{(1, 2, 3)}"),
    ("[0, 1)", r"\boxed{[0, 1]}"),
    ("1, 2, 3", r"\boxed{1, 2}"),
    ("B", r"\boxed{C}"),
    ("yes", "Final answer: no"),
    ("no", r"\boxed{on}"),
    ("0.3", r"\boxed{0.\overline{3}}"),
    ("1/3", "The answer is 0.3..."),
    ("3", "The answer is negative 3."),
    # denied, compared or bounded
    ("72", "The answer is not 72"),
    ("72", "The answer isn't 72."),
    ("72", "The answer isn\u2019t 72."),
    ("72", "The answer cannot be 72."),
    ("72", "The answer can't be 72"),
    ("72", "The answer is definitely not 72."),
    ("72", "The answer is not **72**."),
    ("72", "The answer is not $72$."),
    ("72", "It is not 72."),
    ("72", "48 + 24 = 72, but it is not 72."),
    ("72", "72 is not the answer."),
    ("72", "72 is wrong."),
    ("72", "I thought the answer is 72, but that is wrong."),
    ("72", "The answer is no longer 72."),
    ("72", "The answer is anything but 72."),
    ("72", "The answer is neither 71 nor 72."),
    ("72", "It is 73 rather than 72."),
    ("72", "The answer is more than 72."),
    ("72", "The answer is less than 72"),
    ("72", "The answer is between 70 and 72."),
    ("72", "The answer is 70 to 72."),
    ("72", r"\boxed{\text{not } 72}"),
    ("72", "#### not 72"),
    ("72", r"\boxed{\neq 72}"),
    ("72", r"\boxed{x \ne 72}"),
    ("72", r"\boxed{> 72}"),
    ("x+1", "The answer is not $x+1$."),
    ("B", "The answer is not B."),
    # the same number of something else
    ("5 m", r"\boxed{5 km}"),
    ("5 km", r"\boxed{5 m}"),
    ("5 km", "The answer is 5 m."),
    ("5 km", "She walked 5 m."),
    ("5 km", "The answer is 5 miles."),
    (r"5\text{ km}", r"\boxed{5\text{ m}}"),
    ("5 kg", "#### 5 g"),
    ("5 kg", "The answer is 5 liters"),
    ("5 hours", "It took 5 minutes."),
    ("5 cm", r"\boxed{5 cm^2}"),
    ("5 cm^2", r"\boxed{5 \text{ cm}}"),
    ("5 km/h", r"\boxed{5 m/s}"),
    ("60 mph", "The answer is 60 km/h"),
    ("9 m/s^2", r"\boxed{9 \text{ m/s}}"),
    ("$5", r"\boxed{5 cents}"),
    ("$5", "\\boxed{\u20ac5}"),
    ("5 pm", "The answer is 5 am."),
    ("20 \u00b0C", "\\boxed{20 \u00b0F}"),
]


@pytest.fixture(scope="module")
def math() -> Math:
    """The check, for the column `known`."""
    return Math(MathCheck(answer="known"))


def judged(math: Math, known: str, answer: str) -> CheckResult:
    """The verdict on an answer."""
    return math.judge(Answer(answer), {"known": known})


@pytest.mark.parametrize(("known", "answer"), RIGHT)
def test_right_answers_are_accepted_in_any_notation(math: Math, known: str, answer: str) -> None:
    """Fifty notations and more, on either side."""
    verdict = judged(math, known, answer)
    assert (verdict.accepted, verdict.score) == (True, 1.0), verdict.detail


@pytest.mark.parametrize(("known", "answer"), WRONG)
def test_wrong_answers_are_rejected_however_near(math: Math, known: str, answer: str) -> None:
    """With what was expected and what came."""
    verdict = judged(math, known, answer)
    assert (verdict.accepted, verdict.score) == (False, 0.0), verdict.detail
    assert verdict.detail.startswith(("expected ", "no final answer"))


numbers = st.one_of(
    st.integers(-9999, 9999).map(str),
    st.decimals(-999, 999, places=3, allow_nan=False).map(lambda number: f"{number:f}"),
    st.tuples(st.integers(-40, 40), st.integers(1, 40)).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.integers(1000, 9_999_999).map(lambda number: f"{number:,}"),
)


@given(numbers, st.data())
@example("0.333", None)
@example("1.000", None)
def test_plain_numbers_are_judged_as_by_math_verify(math: Math, known: str, data: st.DataObject | None) -> None:
    """The shortcut around it changes no verdict, whether the two are equal, close or far apart."""
    if data is None:
        answer = r"\frac{1}{3}"
    else:
        number = plain_number(known)
        value = float(number.value) if number else 0.0
        near = st.sampled_from([value, value + 1e-9, value + 4e-7, value + 1e-3, -value, value * 100])
        answer = data.draw(st.one_of(numbers, st.just(known), near.map(lambda number: f"{number:.9f}")))
    verify = MathVerify()
    assert judged(math, known, f"\\boxed{{{answer}}}").accepted == verify.equal(known, answer), answer


def value_of(number: str) -> Fraction:
    """A plain number's value."""
    read = plain_number(number)
    assert read is not None
    return read.value


ascending = st.lists(numbers, min_size=2, max_size=3, unique_by=value_of).map(
    lambda values: sorted(values, key=value_of)
)
"""Of empty intervals math-verify takes all for the same, which points with falling coordinates may look like."""
points = st.tuples(st.sampled_from("(["), ascending, st.sampled_from(")]"))


@given(points, points, st.booleans())
def test_points_and_intervals_are_judged_as_by_math_verify(math: Math, one: Any, other: Any, same: bool) -> None:
    """Of plain numbers, in the same order and between the same brackets."""
    known, answer = (
        f"{opening}{', '.join(values)}{closing}" for opening, values, closing in (one, one if same else other)
    )
    assert judged(math, known, f"\\boxed{{{answer}}}").accepted == MathVerify().equal(known, answer)


def test_exactly_the_known_answers_of_gsm8k_are_accepted() -> None:
    """Each as the data set writes it, boxed, stated in a sentence, and (rejected) off by one."""
    if not GSM8K.exists():
        pytest.skip("needs ../shared")
    math = Math(MathCheck(answer="known"))
    for line in GSM8K.read_text().splitlines()[::5]:
        known = json.loads(line)["answer"]
        steps, number = known.split("#### ")
        other = int(number.replace(",", "")) + 1
        assert judged(math, known, known).accepted, known
        assert judged(math, known, f"{steps}\\boxed{{{number}}}").accepted, known
        assert judged(math, known, f"{steps}The answer is ${number}.").accepted, known
        assert not judged(math, known, f"{steps}#### {other}").accepted, known
        assert not judged(math, known, f"{steps}The answer is {other:,} in total.").accepted, known


@pytest.mark.parametrize(
    ("solution", "stated"),
    [
        (r"First \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"\boxed 7 is it", "7"),
        (r"\fbox{8}", "8"),
        (r"\boxed{never closed", r"\boxed{never closed"),
        ("#### Step 1\nfirst\n#### 5", "5"),
        ("#### 5\nHope this helps!", "5"),
        ("#### Answer: 5", "5"),
        ("#### A heading\nThe answer is 6.", "6"),
        ("The final answer is: **7**", "7"),
        ("Answer: $x^2$", "x^2"),
        ("The answer to the question is 8, because 4 + 4 = 8.", "8"),
        ("The answer is 3. No: the answer is 4.", "4"),
        (r"\boxed{1} but #### 2", "2"),
        (r"#### 2 but \boxed{1}", "1"),
    ],
)
def test_the_final_answer_is_the_last_marked_one(solution: str, stated: str) -> None:
    """In a box, after four hashes that head no section, or in words."""
    assert final_answer(solution).text == stated


@pytest.mark.parametrize(
    "text", ["", "x", "5x", "5 x", "5 m", "3,5", "1,23", "5!", "12:30", "5/0", "5 or 6", "2 dozen"]
)
def test_ambiguous_text_is_not_a_number(text: str) -> None:
    """It is left to the checks that know mathematics."""
    assert plain_number(text) is None


def test_numbers_of_any_size_are_read_at_once() -> None:
    """A billion digits are not made of ten characters."""
    assert plain_number("1e999999999") is None
    assert plain_number("1e401") is None
    read = plain_number("9" * 200)
    assert read is not None
    assert read.value == Fraction(10**200 - 1)
    assert plain_number("9" * 201) is None


def test_texts_too_long_to_read_are_left_unchecked(math: Math) -> None:
    """The message gives their length; so it does for a final answer that is too long."""
    with pytest.raises(CannotSay, match="5,000,000 characters; at most 200,000 are read"):
        judged(math, "72", "7" * 5_000_000)
    with pytest.raises(CannotSay, match="the final answer has more than 2,000 characters"):
        judged(math, "72", f"\\boxed{{{'1+' * 2000}1}}")
    assert judged(math, "72", "x" * (MAX_CHARS - 10) + "#### 72").accepted


@pytest.mark.parametrize("text", ["The answer is not 72.", r"\boxed{\ne 72}", "It is not 72, I think."])
def test_a_denied_result_is_not_a_vote(text: str) -> None:
    """A majority counts what solutions state."""
    assert stated(text) != "72"


def test_a_row_without_its_reference_is_left_unchecked(math: Math) -> None:
    """It names the column."""
    with pytest.raises(CannotSay, match="column 'known': expected text to compare with, got nothing"):
        math.judge(Answer("72"), {})


def test_unclosed_boxes_are_read_in_one_pass() -> None:
    """As many as fit into the longest answer that is read: looking at each box separately takes minutes."""
    assert final_answer("so \\boxed{7} " + "\\boxed{" * 28_000).text == "7"
