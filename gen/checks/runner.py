"""Runs a recipe's checks on one answer: in order, up to the first that does not accept it."""

from collections.abc import Iterator, Sequence

from stillhouse.gen.checks.base import Answer, CannotSay, OutOfTime, Row, Unchecked, Verdict
from stillhouse.gen.checks.registry import NamedCheck
from stillhouse.gen.errors import cause_of

OUT_OF_MEMORY = "ran out of memory"


def verdicts(checks: Sequence[NamedCheck], answer: Answer, row: Row) -> Iterator[Verdict]:
    """The verdicts of the checks that run, one after another, up to the first that does not accept."""
    for named in checks:
        verdict = _verdict(named, answer, row)
        yield verdict
        if isinstance(verdict, Unchecked) or not verdict.accepted:
            return


def _verdict(named: NamedCheck, answer: Answer, row: Row) -> Verdict:
    try:
        return named.check.judge(answer, row)
    except CannotSay as error:
        return Unchecked(str(error))
    except OutOfTime as error:
        return Unchecked(str(error))
    except MemoryError:
        return Unchecked(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - whatever a library does with an answer is that answer's matter
        return Unchecked(f"{named.kind} failed: {cause_of(error)}")
