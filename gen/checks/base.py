"""The contract of a check, and its verdicts as values.

A check is pure: the same answer and the same row always give the same verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from stillhouse.schemas.completion import Completion

MAX_DETAIL_CHARS = 300
"""The longest detail: details are stored with every answer."""
MAX_SHOWN_CHARS = 80
"""The longest excerpt of an answer in a detail."""

ReferenceValue: TypeAlias = str | tuple[str, ...]
"""What a check compares with: a text, or the texts of options."""
Row: TypeAlias = Mapping[str, ReferenceValue]
"""The reference values of a source row, by column."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of a completion that checks judge."""

    text: str
    """The assistant's text without its reasoning; empty if there is none."""
    reasoning: str | None = None
    tokens: int | None = None
    """Output tokens without reasoning, as the teacher reported them; None if it did not."""
    schema_key: str | None = None
    """The name of the JSON Schema that it must fit; None if no schema was asked for, or it only calls a tool."""


def answer_of(completion: Completion) -> Answer:
    """The parts of a completion that checks judge."""
    usage = completion.usage
    tokens = None if usage.output_tokens is None else max(0, usage.output_tokens - (usage.reasoning_tokens or 0))
    schema_key = None if completion.tool_calls and not completion.text else completion.schema_key
    return Answer(completion.text or "", completion.reasoning, tokens, schema_key)


OwnValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check's verdict on an answer."""

    accepted: bool
    score: float | None
    """How good it is, or how much of what the check measures; each check defines this."""
    detail: str
    """Why, for people; at most `MAX_DETAIL_CHARS`."""
    own: Mapping[str, OwnValue] | None = None
    """Values of the columns that the check adds, by name; None if it has none."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The check can't judge the answer: it raised, ran out of time or memory, died, or lacks something it needs."""

    reason: str


Verdict: TypeAlias = CheckResult | Unchecked


class CannotSay(Exception):
    """Raised by a check that can't judge an answer, with the reason; becomes `Unchecked`."""


class OutOfTime(BaseException):
    """Raised inside a check whose time is up; a library's `except Exception` does not stop it."""


class Check(Protocol):
    """One check of a recipe, ready to judge."""

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """The verdict on one answer.

        Args:
            answer: the answer.
            row: at least the columns that the check's settings name as references.

        Raises:
            CannotSay: the answer can't be judged.
        """
        ...


def text_in(row: Row, column: str) -> str:
    """A row's reference text.

    Raises:
        CannotSay: there is none.
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise CannotSay(f"column {column!r}: expected text to compare with, got {'options' if value else 'nothing'}")
    return value


def equal(is_equal: bool, *, expected: str, got: str) -> CheckResult:  # noqa: FBT001 - what the name asks
    """The result of a comparison."""
    detail = got if is_equal else f"expected {shown(expected)}, got {shown(got)}"
    return CheckResult(is_equal, 1.0 if is_equal else 0.0, shown(got) if is_equal else detail)


def shown(text: str) -> str:
    """An excerpt of an answer for a detail, on one line; of a long answer, its end."""
    line = " ".join(text[-4 * MAX_SHOWN_CHARS :].split())
    if len(line) > MAX_SHOWN_CHARS:
        return f"…{line[-MAX_SHOWN_CHARS:]}"
    return line or "nothing"
