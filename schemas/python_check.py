"""The check `python`: the answer is a program, and the row has its tests."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.schemas.check_settings import CheckSettings, Reference

_HANGS_AFTER, _GRACE_S = 3.0, 5.0
"""A program's wall-clock limit is this many times its CPU time, plus a little: verdicts must not depend on how busy a
machine is."""


class PythonCheck(CheckSettings):
    """Accepts an answer whose Python program passes the row's tests."""

    tests: Annotated[str, Field(min_length=1)]
    """The column with the tests: Python assertions, or a list of them (HumanEval, MBPP); {inputs, outputs} or a list of
    {input, output}: texts for a program that reads stdin and prints, or arguments and return values with `fn_name`."""
    timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    """CPU time in seconds for all tests of an answer; they may take three times as long plus 5 s of wall-clock time."""
    memory_mb: Annotated[int, Field(ge=64, le=65_536)] = 512
    """Memory for the program in MB, and as much again for its tests."""
    isolation: Literal["bubblewrap", "process"] = "bubblewrap"
    """How programs are confined. `bubblewrap`: no network, no files but Python's and an empty /tmp. `process`: resource
    limits only, for nodes where bubblewrap can't run; a program can then read and change the user's files."""

    @property
    def wall_s(self) -> float:
        """The longest wall-clock time that all tests of an answer may take."""
        return _HANGS_AFTER * self.timeout_s + _GRACE_S

    def references(self) -> Iterator[Reference]:
        """The tests."""
        yield Reference("tests", self.tests, "tests")
