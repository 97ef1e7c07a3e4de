"""Guards against checks that fail on every answer, or accept none: decides when to stop, and with which message.

Pure, one per worker. It counts the verdicts of its own run only, because those in journals may come from a check that
was fixed since.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.gen.checks.base import CheckResult, Unchecked, Verdict
from stillhouse.gen.errors import Paused, StillhouseError

BROKEN_AFTER = 50
"""After this many consecutive verdicts that say nothing, the check is at fault, not the answers."""

USELESS_AFTER = 500
"""After this many verdicts without one acceptance, the check, or what it compares with, is probably wrong."""


class ChecksFail(StillhouseError):
    """A check can't judge any answer."""


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    rejected: int = 0
    unchecked_in_a_row: int = 0


class CheckGuard:
    """Counts verdicts by check."""

    def __init__(self, names: Sequence[str], *, keep_going: bool) -> None:
        self._names = names
        self._keep_going = keep_going
        self._tallies = [_Tally() for _ in names]

    def note(self, verdicts: Sequence[Verdict]) -> StillhouseError | None:
        """Count the verdicts on one answer; returns why to stop, if they are enough evidence."""
        found: StillhouseError | None = None
        for name, tally, verdict in zip(self._names, self._tallies, verdicts, strict=False):
            match verdict:
                case Unchecked(reason):
                    tally.unchecked_in_a_row += 1
                    if tally.unchecked_in_a_row == BROKEN_AFTER:
                        found = found or _broken(name, reason)
                case CheckResult(accepted=accepted, detail=detail):
                    tally.unchecked_in_a_row = 0
                    tally.accepted += accepted
                    tally.rejected += not accepted
                    if not tally.accepted and tally.rejected == USELESS_AFTER and not self._keep_going:
                        found = found or _useless(name, detail)
        return found


def _broken(name: str, reason: str) -> StillhouseError:
    return ChecksFail(
        f"checks: {name} could not judge the last {BROKEN_AFTER} answers: {reason}. Correct what it needs and run the "
        "same command again: all answers are kept, and it judges them then"
    )


def _useless(name: str, detail: str) -> StillhouseError:
    return Paused(
        f"checks: {name} rejected all of the first {USELESS_AFTER} answers, the last one with: {detail}. "
        "`stillhouse check RECIPE DATASET` shows its verdicts on answers; if it is right, continue with "
        "--keep-going. All answers are kept"
    )
