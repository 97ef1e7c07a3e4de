"""The one retry policy: what to do with a sample after an attempt, as a value.

Three budgets are kept apart. Real failures (the teacher failed at this request, or its answer got lost) count towards
`max_attempts`. Waiting for a limit does not count at all. Overload does not count either, up to a bound so generous
that only a prompt that itself overloads the teacher meets it. A sample that waits holds no slot.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from tenacity import RetryCallState, Retrying, wait_random_exponential

from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Outcome,
    Overload,
    Policy,
    Ramp,
    Rate,
    ServerError,
    TooLong,
)
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import FailureKind

MAX_OVERLOADS = 60
"""Overloads one sample waits for; at the backoff's cap that is half an hour of refusals met by this one sample."""

MAX_DEATHS = 3
"""A prompt under way when so many workers died alone is poison."""

_WAIT = wait_random_exponential(multiplier=0.5, max=60)
"""Full jitter: uniform(0, min(60 s, 0.5 s x 2^(n-1)))."""
_RETRYING = Retrying(wait=_WAIT)


@dataclass(slots=True)
class Tries:
    """What has been tried for a sample; a fold over its journal's frames, so that it survives its worker."""

    attempts: int = 0
    """Requests sent."""
    failures: int = 0
    """Of these, real failures."""
    overloads: int = 0
    maybe_billed: int = 0
    """Of these, sent without a whole answer."""
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer stands: a record, or a rejection."""


@dataclass(frozen=True, slots=True)
class Again:
    """Ask again after a wait."""

    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A Failure."""

    kind: FailureKind
    message: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Not this sample's fault: the run pauses, the sample stays to be asked."""

    reason: str
    auth: bool
    """The key or the address, not money: worth one more look at the secret."""


Decision: TypeAlias = Settled | Again | GiveUp | Pause


def note(outcome: Outcome, tries: Tries) -> None:
    """Count an attempt's outcome."""
    match outcome:
        case ServerError():
            tries.failures += 1
        case Ambiguous() | Malformed():
            tries.failures += 1
            tries.maybe_billed += 1
        case Overload():
            tries.overloads += 1
        case _:
            pass


def decide(outcome: Outcome, tries: Tries, *, max_attempts: int) -> Decision:
    """What to do after `outcome`, which `note` has counted."""
    match outcome:
        case Completion() | Policy():
            return Settled()
        case TooLong():
            return GiveUp("too_long", outcome.message, outcome.status)
        case BadRequest():
            return GiveUp("bad_request", outcome.message, outcome.status)
        case Money():
            return Pause(f"{_said(outcome)}: its account has no money or quota left", auth=False)
        case Auth():
            return Pause(f"{_said(outcome)}: check its api_key and its address", auth=True)
        case Rate() | Ramp():
            # The account as a whole waits as told (gen.limits); this sample is simply next in line.
            return Again(0.0)
        case Overload():
            if tries.overloads >= MAX_OVERLOADS:
                return GiveUp("overload", outcome.message, outcome.status)
            return Again(max(backoff_s(tries.overloads), outcome.retry_after_s or 0.0))
        case ServerError() | Ambiguous() | Malformed():
            if tries.failures >= max_attempts:
                return GiveUp(_KINDS[type(outcome)], outcome.message, outcome.status)
            return Again(backoff_s(tries.failures))
        case _:
            assert_never(outcome)


def _said(outcome: Money | Auth) -> str:
    return f"answered HTTP {outcome.status} ({outcome.message})"


_KINDS: dict[type, FailureKind] = {ServerError: "overload", Ambiguous: "ambiguous", Malformed: "malformed"}


def backoff_s(failures: int) -> float:
    """The wait before the next try after so many failures, at least 1."""
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = failures
    return _WAIT(state)
