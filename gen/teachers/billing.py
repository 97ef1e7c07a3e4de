"""What an attempt costs, by its outcome. Never less than the teacher may bill for it."""

from collections.abc import Callable
from typing import Literal, NamedTuple, assert_never

from stillhouse.gen.teachers.expense import NOTHING, Expense, nano_usd
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    NoConnection,
    Outcome,
    Overload,
    Policy,
    Ramp,
    Rate,
    ServerError,
    TooLong,
)
from stillhouse.gen.teachers.prices import cost_usd
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.prompt import Prompt


class Bill(NamedTuple):
    """The cost of one attempt. A named tuple, for one is made per attempt."""

    expense: Expense
    of: Literal["answer", "waste", "doubt", "nothing"]
    """`answer` and `waste` (a reply of no use) as the teacher reports them; `doubt`: the worst case, as what is billed
    is not known."""


UNSENT = Bill(NOTHING, "nothing")
_REFUSED = Bill(Expense(requests=1), "nothing")


def bill(teacher: Interpreter, prompt: Callable[[], Prompt], outcome: Outcome | None) -> Bill:
    """The cost of an attempt.

    Args:
        teacher: the teacher that was asked.
        prompt: what it was asked; needed only if it does not report what it bills.
        outcome: how the attempt ended; None: it was in flight when its worker was gone.
    """
    match outcome:
        case Completion():
            used = _used(teacher, outcome.usage)
            return Bill(teacher.worst_case(prompt()), "doubt") if used is None else Bill(used, "answer")
        case Malformed() | ServerError():
            used = _used(teacher, outcome.usage)
            if used is not None:
                return Bill(used, "waste")
            may_be_billed = isinstance(outcome, Malformed) or outcome.has_begun
            return Bill(teacher.worst_case(prompt()), "doubt") if may_be_billed else _REFUSED
        case None | Ambiguous():
            return Bill(teacher.worst_case(prompt()), "doubt")
        case NoConnection():
            return UNSENT
        case Rate() | Ramp() | Overload() | Money() | Auth() | TooLong() | BadRequest() | Policy():
            return _REFUSED
        case _:
            assert_never(outcome)


def _used(teacher: Interpreter, usage: Usage) -> Expense | None:
    """The cost that the teacher reports; None if it does not report all of it."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    price = teacher.teacher.price
    usd = None if price is None else cost_usd(price, usage)
    return Expense(1, usage.output_tokens, 0 if usd is None else nano_usd(usd))
