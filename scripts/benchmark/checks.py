"""What judging costs an answer, in CPU of a child and of the event loop: python -m benchmark.checks, with scripts/ on
the path.

Word problems are made here, in the form of GSM8K's: some lines of steps, then the number in one of four notations, a
quarter of them wrong. Symbolic answers differ from their references in form alone, or are wrong: no two are the same.
"""

import asyncio
import random
import resource
import time
from collections.abc import Callable, Iterator

from stillhouse.gen.checks.base import Answer, Row
from stillhouse.gen.checks.math import Math
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.schemas.checks import Check, MathCheck

ANSWERS, SYMBOLIC = 20_000, 600
STEPS = "Natalia sold {0}/2 = {1} clips in May.\nSo she sold {0} + {1} = {2} clips, which cost $5 and $7, altogether.\n"
NUMBERS = ("#### {}", "The answer is \\boxed{{{}}}.", "**Answer:** ${:,}.00", "She sold {} clips altogether.")
FORMS: tuple[tuple[str, str], ...] = (
    ("{a}x^2+{b}x+{c}", "{c}+{b}x+{a}x^2"),
    ("\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "{a}\\sqrt{{{b}}}/{c}"),
    ("({a},{b})", "({b},{a})"),
    ("[{a},\\infty)", "x \\ge {a}"),
    ("{a}\\pi", "\\pi \\cdot {a}"),
    ("\\sqrt{{{a}}}+{b}", "{b}+\\sqrt{{{a}}}"),
    ("(x+{a})(x+{b})", "x^2+({a}+{b})x+{a}\\cdot {b}"),
    ("{a}x+{b}", "{a}x+{c}"),
)

Judged = tuple[Answer, Row]


def word_problems(count: int) -> Iterator[Judged]:
    """Answers in prose with a number at the end."""
    for number in range(count):
        half = random.randint(10, 5000)
        total = 3 * half
        steps = STEPS.format(2 * half, half, total)
        said = total + (number % 4 == 3)
        yield Answer(steps + NUMBERS[number % len(NUMBERS)].format(said)), {"known": f"{steps}#### {total}"}


def expressions(count: int) -> Iterator[Judged]:
    """Answers that only mathematics can tell from their references."""
    for number in range(count):
        known, said = FORMS[number % len(FORMS)]
        values = dict(zip("abc", random.sample(range(2, 99), 3), strict=True))
        yield Answer(f"Therefore \\boxed{{{said.format(**values)}}}."), {"known": known.format(**values)}


def in_process(name: str, make: Callable[[int], Iterator[Judged]], count: int) -> None:
    """Print how many answers a core judges in a second."""
    check = Math(MathCheck(answer="known"))
    pairs = list(make(count))
    check.judge(Answer("\\boxed{y}"), {"known": "x"})
    began = time.process_time()
    accepted = sum(check.judge(answer, row).accepted for answer, row in pairs)
    seconds = time.process_time() - began
    print(f"math, {name:14}{count / seconds:12,.0f} answers/s per core ({accepted:,} of {count:,} accepted)")


async def through_a_pool(count: int) -> None:
    """Print what the event loop and the children take for an answer."""
    pairs = list(word_problems(count))
    async with CheckPool([Check(math=MathCheck(answer="known"))]) as pool:
        await pool.judge(*pairs[0])
        began = time.thread_time()
        await asyncio.gather(*(pool.judge(answer, row) for answer, row in pairs))
        ours = time.thread_time() - began
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = children.ru_utime + children.ru_stime
    print(f"pool: event loop {ours / count * 1e6:.1f} us an answer; children {theirs:.1f} s in all, start included")


if __name__ == "__main__":
    in_process("word problems", word_problems, ANSWERS)
    in_process("symbolic", expressions, SYMBOLIC)
    asyncio.run(through_a_pool(ANSWERS))
