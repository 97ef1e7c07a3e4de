"""What judging costs an answer, in CPU of a child and of the event loop: scripts/bench checks

Word problems are made here, in the form of GSM8K's: some lines of steps, then the number in one of four notations, a
quarter of them wrong. Symbolic answers differ from their references in form alone, or are wrong: no two are the same.
The bars: at least 1,000 and 100 answers a second on a core, 50 programs with their tests, and the event loop never held
for more than 20 ms, with answers of 5 MB among the others.
"""

import asyncio
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.bars import judged
from stillhouse.gen.checks.base import Answer, Row
from stillhouse.gen.checks.math import Math
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.python import Python
from stillhouse.gen.worker.checking import MOST_AT_ONCE
from stillhouse.schemas.checks import Check
from stillhouse.schemas.math_check import MathCheck
from stillhouse.schemas.python_check import PythonCheck

ANSWERS, SYMBOLIC, HELD = 20_000, 600, 2_000
PROGRAMS = 200
MANY_S, SYMBOLIC_S, PROGRAMS_S, HELD_MS = 1_000, 100, 50, 20.0
LONG = Answer("so " * 1_700_000)
"""One in 200 of those while which the event loop is watched."""
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


def in_process(name: str, make: Callable[[int], Iterator[Judged]], count: int, *, bar: int) -> int:
    """Print how many answers a core judges in a second; 1 if they are too few."""
    check = Math(MathCheck(answer="known"))
    pairs = list(make(count))
    check.judge(Answer("\\boxed{y}"), {"known": "x"})
    began = time.process_time()
    accepted = sum(check.judge(answer, row).accepted for answer, row in pairs)
    seconds = time.process_time() - began
    rate = count / seconds
    said = (
        f"math, {name:14}{rate:12,.0f} answers/s per core ({accepted:,} of {count:,} accepted; bar: at least {bar:,})"
    )
    return judged(said, met=rate >= bar)


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


async def held(count: int) -> int:
    """Print the longest turn of the event loop, in CPU, while answers are judged; 1 if it is too long."""
    pairs = [(LONG if number % 200 == 0 else answer, row) for number, (answer, row) in enumerate(word_problems(count))]
    longest_s, last = 0.0, time.thread_time()
    async with CheckPool([Check(math=MathCheck(answer="known"))]) as pool:
        for start in range(0, count, MOST_AT_ONCE):
            answered = asyncio.gather(*(pool.judge(answer, row) for answer, row in pairs[start : start + MOST_AT_ONCE]))
            last = time.thread_time()
            while not answered.done():
                await asyncio.sleep(0)
                longest_s, last = max(longest_s, time.thread_time() - last), time.thread_time()
            await answered
    said = f"pool: event loop held for at most {longest_s * 1000:.1f} ms (bar: at most {HELD_MS:g})"
    return judged(said, met=longest_s * 1000 <= HELD_MS)


def programs(count: int) -> int:
    """Print how many programs a core runs against their tests in a second, in CPU of all processes, start included."""
    check = Python(PythonCheck(tests="tests"))
    answer = Answer("```python\ndef add(a, b):\n    return a + b\n```")
    row = {"tests\0json": '"assert add(1, 2) == 3\\nassert add(2, 2) == 4"'}
    before, began = _cpu_s(check.launcher_pid), time.process_time()
    assert all(check.judge(answer, row).accepted for _ in range(count))
    seconds = _cpu_s(check.launcher_pid) - before + time.process_time() - began
    check.close()
    said = f"python: {count / seconds:.0f} programs/s per core, in bubblewrap (bar: at least {PROGRAMS_S})"
    return judged(said, met=count / seconds >= PROGRAMS_S)


def _cpu_s(pid: int) -> float:
    """CPU of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print the figures; 1 if one misses its bar."""
    codes = [programs(PROGRAMS)]
    codes.append(in_process("word problems", word_problems, ANSWERS, bar=MANY_S))
    codes.append(in_process("symbolic", expressions, SYMBOLIC, bar=SYMBOLIC_S))
    asyncio.run(through_a_pool(ANSWERS))
    codes.append(asyncio.run(held(HELD)))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
