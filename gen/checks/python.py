"""`python`: the answer's program passes the row's tests. Score: the share of tests that it passes.

A program that fails, hangs or does harm is rejected, with the first test that shows it. What it prints, raises or
returns is never taken for a verdict, which another process writes (`gen.checks.programs`).
"""

import math
import os
import socket
import subprocess
import sys

import orjson

from stillhouse.gen.checks.base import MAX_DETAIL_CHARS, Answer, CannotSay, CheckResult, Row
from stillhouse.gen.checks.link import packed, receive_frame
from stillhouse.gen.checks.programs.answers import Program, program_in
from stillhouse.gen.checks.programs.sandbox import WAYS_OUT, framed
from stillhouse.gen.checks.programs.suites import Suite, kind_of, prepared, suite_of
from stillhouse.gen.errors import UsageError
from stillhouse.schemas.python_check import PythonCheck

_TRIED = program_in("def tried(): return 1")
_TESTS = "assert tried() == 1"
_KILLED = ("exit code 137", "exit code -9")


class Python:
    """Runs programs through its own launcher.

    Raises:
        UsageError: programs can't be isolated here; says why, and what to do.
    """

    def __init__(self, settings: PythonCheck) -> None:
        self._settings = settings
        ours, theirs = socket.socketpair()
        with theirs:
            # It ends with this process, or earlier, when its end of the socket closes.
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", "stillhouse.gen.checks.programs.launcher"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        self._link = ours
        try:
            ours.sendall(packed({"parent": os.getpid(), "isolation": settings.isolation}))
            problem = receive_frame(ours)
        except (EOFError, ConnectionError):
            problem = "checks: python: the process that starts programs ended"
        if problem is not None:
            raise UsageError(problem)
        self._try()

    def _try(self) -> None:
        assert isinstance(_TRIED, Program)
        try:
            result = self._judged(_TRIED, suite_of(_TESTS))
        except CannotSay as error:
            raise UsageError(f"checks: `python` can't run programs on this node: {error}. {WAYS_OUT}") from None
        if not result.accepted:
            raise UsageError(f"checks: `python` can't run programs on this node: {result.detail}. {WAYS_OUT}")

    @property
    def launcher_pid(self) -> int:
        """The process below which programs run."""
        return self._launcher.pid

    def close(self) -> None:
        """End the launcher; if the process that judges ends, the launcher ends by itself."""
        self._link.close()
        self._launcher.wait()

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        (reference,) = self._settings.references()
        suite = suite_in(row, reference.key)
        program = program_in(answer.text)
        if isinstance(program, str):
            return CheckResult(False, 0.0, program[:MAX_DETAIL_CHARS])
        return self._judged(program, suite)

    def _judged(self, program: Program, suite: Suite) -> CheckResult:
        tests = prepared(suite, program)
        if isinstance(tests, str):
            return CheckResult(False, 0.0, tests[:MAX_DETAIL_CHARS])
        settings = {
            "kind": kind_of(suite),
            "program": program.text,
            "timeout_s": self._settings.timeout_s,
            "wall_s": self._settings.wall_s,
            "memory_bytes": self._settings.memory_mb * 2**20,
        }
        job = {"input": framed(settings, tests), "wall_s": self._settings.wall_s + 2}
        try:
            self._link.sendall(packed(job))
            verdict, how = receive_frame(self._link)
        except (EOFError, ConnectionError):  # this process is no longer usable: the pool replaces it, and asks again
            raise SystemExit("the process that starts programs ended") from None
        return _result(verdict, how)


def suite_in(row: Row, key: str) -> Suite:
    """The tests of a row; raises CannotSay if it has none that can be run."""
    column, value = key.partition("\0")[0], row.get(key)
    if not isinstance(value, str):
        raise CannotSay(f"column {column!r}: expected tests, got nothing")
    try:
        return suite_of(orjson.loads(value))
    except CannotSay as error:
        raise CannotSay(f"column {column!r}: {error}") from None


def wrong_reference(settings: PythonCheck, row: Row) -> str | None:
    """Why a row's tests can't be run; None if they can."""
    (reference,) = settings.references()
    try:
        suite_in(row, reference.key)
    except CannotSay as error:
        return str(error)
    return None


def _result(verdict: bytes, how: str) -> CheckResult:
    """What the tests' process wrote, as a verdict; if it wrote nothing, why."""
    head, _, failure = verdict.decode("utf-8", "replace").partition("\n")
    if head == "busy":
        raise CannotSay(f"the machine is too busy: {failure}"[:MAX_DETAIL_CHARS])
    counts = head.split()
    if len(counts) != 3 or not all(count.isdecimal() for count in counts):
        if how.startswith(_KILLED):
            return CheckResult(False, 0.0, "the tests exceeded their limits of time or memory")
        raise CannotSay(f"the tests ended without a verdict: {how}"[:MAX_DETAIL_CHARS])
    passed, failed, total = map(int, counts)
    is_accepted = failed == 0 and passed == total > 0
    score = passed / total if total else 0.0
    assert math.isfinite(score)
    detail = f"{passed:,} of {total:,} tests passed"
    return CheckResult(is_accepted, score, f"{detail}{f'; {failure}' if failure else ''}"[:MAX_DETAIL_CHARS])
