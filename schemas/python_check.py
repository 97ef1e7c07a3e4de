"""The check `python`: the answer is a program, and the row has its tests."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.schemas.check_settings import CheckSettings, Reference

_HANGS_AFTER, _GRACE_S = 3.0, 5.0
"""By the clock, a program may take so many times its CPU time, and a little more: verdicts don't depend on how busy a
machine is."""


class PythonCheck(CheckSettings):
    """The answer's Python program passes the row's tests."""

    tests: Annotated[str, Field(min_length=1)]
    """The column with the tests: Python that asserts, or a list of it (HumanEval, MBPP); {inputs, outputs} or a list of
    {input, output}, of texts for a program that reads and prints, or of arguments and values with the `fn_name`."""
    timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    """CPU time for all tests of an answer; by the clock they may take three times as long and 5 s."""
    memory_mb: Annotated[int, Field(ge=64, le=65_536)] = 512
    """Memory for the program, and as much again for its tests."""
    isolation: Literal["bubblewrap", "process"] = "bubblewrap"
    """What keeps programs in bounds. `bubblewrap`: no network, no files but Python's and an empty /tmp. `process`:
    limits alone, where bubblewrap can't run; it does not stop a program from reading and changing the user's files."""

    @property
    def wall_s(self) -> float:
        """The longest that all tests of an answer take by the clock."""
        return _HANGS_AFTER * self.timeout_s + _GRACE_S

    def references(self) -> Iterator[Reference]:
        """The tests."""
        yield Reference("tests", self.tests, "tests")
