"""The tests' process: runs them against the program, which is a separate process; only this one writes the verdict.

Everything here is plain Python with few imports, because it starts with each program. `main` is called by the code with
which `sandbox` starts a Python; standard input is a file with the program and, after it, the tests.
"""

from __future__ import annotations

import builtins
import marshal
import math
import os
import select
import sys
import time

from stillhouse.gen.checks.confine import die_with, hide_memory
from stillhouse.gen.checks.programs.peer import Ended, Late, Peer, Remote
from stillhouse.gen.checks.programs.solution import (
    OUTPUT_BYTES,
    confine,
    read_exactly,
    read_line,
    serve_names,
    serve_runs,
    write_all,
)

TYPE_CHECKING = False  # as a type checker reads it; typing and collections.abc take longer to load than the rest
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


TOLERANCE = 1e-6
"""Non-integer numbers are equal if they differ by at most this much, absolutely or relatively."""
_SHOWN_CHARS = 80
_SIGKILL = 9
_CPU_CLOCK = 2
"""With the complement of a process id above these bits, the clock of that process's CPU time (clock_getcpuclockid)."""
_BUSY_SHARE = 0.05
"""Share of the wall-clock time: a program that used less CPU was waiting for something other than a CPU."""
_MAX_VERDICT_BYTES = 2_000


class _Tally:
    """The results of the tests so far."""

    def __init__(self, total: int) -> None:
        self.passed = 0
        self.failed = 0
        self.total = total
        self.first_failure = ""
        self.is_busy = False

    def passes(self) -> None:
        self.passed += 1

    def fails(self, what: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or what

    def is_late(self, program: int, what: str, settings: dict[str, Any]) -> None:
        """Record a failure; if the program did use a CPU, the machine was too busy to tell."""
        used_s = time.clock_gettime((~program << 3) | _CPU_CLOCK)
        self.is_busy = used_s > _BUSY_SHARE * settings["wall_s"]
        self.fails(f"{what}, of which it had a CPU for {used_s:.1f} s" if self.is_busy else what)

    def verdict(self) -> bytes:
        """The counts of passed, failed and all tests, then the first failure in words."""
        if self.is_busy:
            return f"busy\n{self.first_failure}".encode()
        total = max(self.total, self.passed + self.failed)
        failure = self.first_failure or ("" if self.passed == total or not self.failed else "not all tests ran")
        text = f"{self.passed} {self.failed} {total}\n{failure}"
        return text.encode("utf-8", "replace")[:_MAX_VERDICT_BYTES]


def main(parent: int) -> None:
    """Fork the program's process, read the tests, run them, and write the verdict to the file at standard output.

    Args:
        parent: the process that started this one; 0 in a sandbox that ends with it anyway.
    """
    if parent:
        die_with(parent)
    hide_memory()
    settings = _frame()
    to_program, to_tests = os.pipe(), os.pipe()
    us = os.getpid()
    if (program := os.fork()) == 0:
        try:
            die_with(us)
            _be_program(settings, read_fd=to_program[0], write_fd=to_tests[1])
        finally:
            os._exit(1)
    os.close(to_program[0])
    os.close(to_tests[1])
    tests = _frame()
    verdict_fd = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    confine(cpu_s=settings["timeout_s"] + 1, memory_bytes=settings["memory_bytes"])
    tally = _Tally(tests["total"])
    if tests["kind"] == "runs":
        _runs(tests["pairs"], tally, to_program[1], to_tests[0], settings)
    else:
        peer = Peer(to_tests[0], to_program[1], _may, wall_s=settings["wall_s"])
        try:
            _calls(tests, tally, peer)
        except Late as error:
            tally.is_late(program, str(error), settings)
        except Ended as error:
            tally.fails(_how_it_ended(program, settings) or str(error))
    os.write(verdict_fd, tally.verdict())
    os._exit(0)


def _frame() -> Any:
    """The next value of the input: read without a buffer, so that nothing after it is in memory."""
    length = int.from_bytes(os.read(0, 8), "big")
    return marshal.loads(os.read(0, length))  # noqa: S302 - our own process wrote it


def _be_program(settings: dict[str, Any], *, read_fd: int, write_fd: int) -> None:
    text, memory_bytes = settings["program"], settings["memory_bytes"]
    if settings["kind"] == "runs":
        serve_runs(text, read_fd=read_fd, write_fd=write_fd, memory_bytes=memory_bytes)
        return
    serve_names(text, read_fd=read_fd, write_fd=write_fd, cpu_s=settings["timeout_s"], memory_bytes=memory_bytes)


# --- input and output


def _runs(
    pairs: Sequence[tuple[str, str]], tally: _Tally, write_fd: int, read_fd: int, settings: dict[str, Any]
) -> None:
    """Run the program with each input, and compare what it prints."""
    left_s: float = settings["timeout_s"]
    until = time.monotonic() + settings["wall_s"]
    for number, (given, expected) in enumerate(pairs, 1):
        if left_s <= 0:
            return
        data = given.encode("utf-8", "surrogatepass")
        write_all(write_fd, b"%.3f %d\n" % (left_s, len(data)) + data)
        program = int(read_line(read_fd))
        waiting = select.poll()
        waiting.register(read_fd, select.POLLIN)
        if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            tally.is_late(program, f"test {number}: did not end within {settings['wall_s']:g} s", settings)
            return
        how, used_s, out_size, out, said = _ended(read_fd)
        left_s -= used_s
        if left_s <= 0:
            tally.fails(f"test {number}: took more than {settings['timeout_s']:g} s of CPU time")
        elif how == -_SIGKILL:
            tally.fails(f"test {number}: {_killed(settings)}")
        elif how != 0:
            why = said.strip().splitlines()[-1] if said.strip() else f"ended with {_how(how)}"
            tally.fails(f"test {number}: {_short(why)}")
        elif out_size >= OUTPUT_BYTES:
            tally.fails(f"test {number}: printed more than {OUTPUT_BYTES // 2**20} MB")
        elif (difference := _difference(out, expected)) is not None:
            tally.fails(f"test {number}: {difference}")
        else:
            tally.passes()


def _ended(read_fd: int) -> tuple[int, float, int, str, str]:
    how, used_s, out_size, out_bytes, said_bytes = read_line(read_fd).split()
    out, said = read_exactly(read_fd, int(out_bytes)), read_exactly(read_fd, int(said_bytes))
    return int(how), float(used_s), int(out_size), out.decode("utf-8", "replace"), said.decode("utf-8", "replace")


def _killed(settings: dict[str, Any]) -> str:
    return f"took more than {settings['timeout_s']:g} s of CPU time, or too much memory"


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _difference(got: str, expected: str) -> str | None:
    """The first line that differs, in words; white space at the ends of lines and of the text is ignored."""
    lines, wanted = ([line.split() for line in text.strip().splitlines()] for text in (got, expected))
    if len(lines) != len(wanted) and [each for line in lines for each in line] == []:
        return f"expected {_short(expected)}, got nothing"
    for number in range(max(len(lines), len(wanted))):
        line = lines[number] if number < len(lines) else []
        other = wanted[number] if number < len(wanted) else []
        if len(line) != len(other) or not all(map(_is_same_word, line, other)):
            return f"line {number + 1}: expected {_short(' '.join(other))}, got {_short(' '.join(line))}"
    return None


def _is_same_word(got: str, expected: str) -> bool:
    """True if they are the same text, or close numbers of which the expected one is not an integer."""
    if got == expected:
        return True
    if "." not in expected and "e" not in expected.lower():
        return False
    try:
        return math.isclose(float(got), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False


# --- calls


def _calls(tests: dict[str, Any], tally: _Tally, peer: Peer) -> None:
    """Load the program, and run the tests that call it; raises Ended if it ends before they do."""
    try:
        peer.ask("load")
        found = peer.ask("names", tests["names"])
        names = {name: _named(*found[name]) for name in tests["names"] if name in found}
        if tests["kind"] == "cases":
            _cases(tests, tally, names)
        else:
            _script(tests, tally, names)
    except Ended:
        raise
    except BaseException as error:  # noqa: BLE001 - what the program raised, or the tests
        tally.fails(_raised(error))


def _named(kind: Any, value: Any) -> Any:
    """One of the program's names; for a module, the program returns only the name, and the tests get the real
    module."""
    if kind != "module":
        return value
    if not isinstance(value, str) or value.partition(".")[0] not in sys.stdlib_module_names:
        return None
    __import__(value)
    return sys.modules[value]


def _cases(tests: dict[str, Any], tally: _Tally, names: dict[str, Any]) -> None:
    """Call the function with each list of arguments, and compare what it returns."""
    first, *rest = tests["target"]
    if first not in names:
        tally.fails(f"the program has no {first!r}")
        return
    for number, (arguments, expected) in enumerate(tests["cases"], 1):
        try:
            function = names[first]
            for name in rest:  # a method, on a new object
                function = getattr(function(), name)
            got = function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever the program raised
            tally.fails(f"test {number}: {_raised(error)}")
            continue
        is_wrapped = tests["is_wrapped"] and isinstance(expected, list) and len(expected) == 1
        if is_same(got, expected) or (is_wrapped and is_same(got, expected[0])):
            tally.passes()
        else:
            tally.fails(f"test {number}: expected {_short(repr(expected))}, got {_short(_repr(got))}")


def is_same(got: Any, expected: Any) -> bool:
    """True if a value that a program returned is the expected one, which has JSON's types."""
    if isinstance(got, Remote):
        return False
    if isinstance(expected, list):
        is_list = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return is_list and all(is_same(one, other) for one, other in zip(got, expected, strict=True))
    if isinstance(expected, dict):
        if not isinstance(got, dict) or len(got) != len(expected):
            return False
        by_text = {str(key): value for key, value in got.items()}
        return all(key in by_text and is_same(by_text[key], value) for key, value in expected.items())
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, (int, float)) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(got == expected)


def _script(tests: dict[str, Any], tally: _Tally, names: dict[str, Any]) -> None:
    """Run pieces of Python, in which each `assert` reports to the tally."""
    shown: list[str] = tests["shown"]

    def failed(number: int, error: BaseException) -> None:
        why = "" if isinstance(error, AssertionError) and not str(error) else f": {_raised(error)}"
        tally.fails(f"{shown[number]}{why}")

    module = type(sys)("solution")
    module.__dict__.update(names)
    sys.modules["solution"] = module
    space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins, **names}
    space |= {tests["passed"]: tally.passes, tests["failed"]: failed}
    for code in tests["codes"]:
        try:
            exec(code, space)  # noqa: S102 - the tests
        except Ended:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: no way to end tests
            tally.fails(_raised(error))
    if not tally.failed:
        tally.total = 0  # those not reached are in branches that this answer does not lead to


def _how_it_ended(program: int, settings: dict[str, Any]) -> str | None:
    """How the program's process ended, in words; None if it still runs, or ended by itself."""
    ending = select.poll()
    ending.register(os.pidfd_open(program), select.POLLIN)
    if not ending.poll(500):
        return None
    how = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if how == -_SIGKILL:
        return _killed(settings)
    return f"the program ended: {_how(how)}"


def _may(action: str, values: list[Any]) -> bool:
    """True if the program may have the tests do this: call a function that it was given, or use an object's fields."""
    if action == "call":
        return isinstance(values[0], type(_may))
    if action in ("get", "set"):
        own = type(values[0]).__module__ == "tests" and not isinstance(values[0], type)
        return own and isinstance(values[1], str) and not values[1].startswith("_")
    return False


def _raised(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the program's
        return type(value).__name__


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _SHOWN_CHARS].split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}…"
