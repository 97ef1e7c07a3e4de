"""The one retry policy: what to do with a sample after an attempt, as a value.

`gen.teachers.evidence` decides who is to blame for a refusal; the result is passed in.

Three budgets are kept apart. Real failures (the teacher failed at this request, or its answer was lost) count towards
`max_attempts`. Waiting for a limit does not count at all, and neither does a teacher that is unreachable or still
loading: that says nothing about the sample. Overload does not count either, up to a bound so generous that only a
prompt that itself overloads the teacher reaches it. A sample that waits holds no slot.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from tenacity import RetryCallState, Retrying, wait_random_exponential

from stillhouse.gen.counted import counted
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
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import FailureKind

MAX_OVERLOADS = 60
"""Overloads that one sample waits for; at the backoff's maximum, half an hour of refusals of this one sample."""

MAX_DEATHS = 3
"""A prompt that was in flight when this many workers died, while the run lived on, is given up on as poison."""

MAX_ALIKE = 2
"""A complete reply that comes back identical is not requested a third time: each may be paid for."""

MAX_DEADLINES = 2
"""An answer that exceeded the recipe's `timeout_s` this often is given up on: each is paid in full."""

MAX_UNREADY_WAIT_S = 5.0
"""The longest wait for a teacher that is unreachable or loading: its endpoint's circuit spaces the tries out."""

_WAIT = wait_random_exponential(multiplier=0.5, max=60)
"""Full jitter: uniform(0, min(60 s, 0.5 s x 2^(n-1)))."""
_RETRYING = Retrying(wait=_WAIT)


@dataclass(slots=True)
class Tries:
    """What has been tried for a sample; a fold over its journal's frames, so it survives its worker."""

    attempts: int = 0
    """Requests sent."""
    failures: int = 0
    """Attempts that were real failures."""
    overloads: int = 0
    unready: int = 0
    """Attempts that found the teacher unreachable, or loading."""
    maybe_billed: int = 0
    """Attempts sent without a complete answer."""
    deaths: int = 0
    deadlines: int = 0
    """Failures that took longer than `timeout_s`."""
    shape: str = ""
    """Shape of the last complete but useless reply."""
    alike: int = 0
    """How often in a row that shape came."""
    refused_by: tuple[str, ...] = ()
    """Endpoints that refused the request itself, or sent that reply."""
    wasted_input: int = 0
    """Input tokens of useless replies."""
    wasted_output: int = 0

    def at_next_teacher(self) -> "Tries":
        """What has been tried, when the next teacher is asked: failures are counted per teacher, costs add up."""
        return Tries(
            attempts=self.attempts,
            maybe_billed=self.maybe_billed,
            deaths=self.deaths,
            wasted_input=self.wasted_input,
            wasted_output=self.wasted_output,
        )


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is to blame for a refusal, from what other requests got meanwhile."""

    on: Literal["request", "account", "unclear"]
    wait_s: float = 0.0
    """Time until the next try, if unclear."""
    words: str = ""
    spares_account: bool = False
    """Others are served, so none of them has to wait for this one."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer stands: a record, or a rejection."""


@dataclass(frozen=True, slots=True)
class Again:
    """Ask again after a wait."""

    after_s: float
    last: bool = False
    """True to go behind all others that wait."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Ask no more: the sample becomes a Failure of this kind."""

    kind: FailureKind
    message: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Not this sample's fault: the run pauses, the sample is asked later."""

    reason: str
    auth: bool
    """True if the key or the address is at fault, not money: worth reading the secret once more."""


@dataclass(frozen=True, slots=True)
class MoveOn:
    """Its teacher gives up on it, and the next one of the chain may be asked (`route: fallback`)."""

    given_up: GiveUp


SETTLED = Settled()

Decision: TypeAlias = Settled | Again | GiveUp | Pause | MoveOn


def note(outcome: Outcome, tries: Tries, *, endpoint: str = "", blame: Blame | None = None) -> None:
    """Count an attempt's outcome."""
    match outcome:
        case ServerError() if blame is not None and blame.on == "account":
            tries.overloads += 1
        case ServerError():
            tries.failures += 1
            tries.maybe_billed += outcome.has_begun
            _waste(outcome, tries)
        case Ambiguous() | Malformed():
            tries.failures += 1
            tries.maybe_billed += 1
            if isinstance(outcome, Malformed):
                _waste(outcome, tries)
            elif outcome.deadline:
                tries.deadlines += 1
            again = bool(outcome.shape) and outcome.shape == tries.shape
            tries.alike = tries.alike + 1 if again else 1
            tries.shape = outcome.shape
            tries.refused_by = (*tries.refused_by, endpoint) if again else (endpoint,)
        case BadRequest():
            tries.refused_by = (*tries.refused_by, endpoint)
        case NoConnection() | Overload(loading=True):
            tries.unready += 1
        case Overload():
            tries.overloads += 1
        case _:
            pass


def _waste(outcome: ServerError | Malformed, tries: Tries) -> None:
    tries.wasted_input += outcome.usage.input_tokens or 0
    tries.wasted_output += outcome.usage.output_tokens or 0


def decide(  # noqa: C901 - one case per outcome
    outcome: Outcome, tries: Tries, *, max_attempts: int, endpoints: int = 1, blame: Blame | None = None
) -> Decision:
    """What to do after `outcome`, which `note` has counted; `endpoints`: how many the teacher has."""
    on = None if blame is None else blame.on
    match outcome:
        case Completion() | Policy():
            return SETTLED
        case TooLong():
            return GiveUp("too_long", outcome.message, outcome.status)
        case BadRequest():
            # What one endpoint of several refuses may be the endpoint's fault: another one is asked.
            if len(set(tries.refused_by)) < min(2, endpoints) and len(tries.refused_by) < max_attempts:
                return Again(0.0)
            return GiveUp("bad_request", outcome.message, outcome.status)
        case Money() | Auth() if blame is not None and on == "request":
            return GiveUp("bad_request", f"{blame.words}: {outcome.message}", outcome.status)
        case Money() | Auth() if blame is not None and on == "unclear":
            return Again(blame.wait_s, last=True)
        case Money():
            advice = f", and is back at {outcome.back}: wait until then" if outcome.back else ": top it up"
            return Pause(f"{_said(outcome)}: its account has no money or quota left{advice}", auth=False)
        case Auth():
            return Pause(f"{_said(outcome)}: check its api_key and its address", auth=True)
        case Rate() | Ramp() | Overload() if blame is not None and on == "request":
            return GiveUp("overload", f"{blame.words}: {outcome.message}", outcome.status)
        case Rate() | Ramp():
            # The whole account waits (gen.limits); this sample is simply next in line.
            return Again(0.0) if blame is None else Again(blame.wait_s, last=True)
        case ServerError() if on == "account" and tries.overloads < MAX_OVERLOADS:
            return Again(backoff_s(tries.overloads))
        case NoConnection():
            return Again(_unready_s(tries))
        case Overload(loading=True):
            return Again(max(_unready_s(tries), outcome.retry_after_s or 0.0))
        case Overload():
            if tries.overloads >= MAX_OVERLOADS:
                return GiveUp("overload", outcome.message, outcome.status)
            return Again(max(backoff_s(tries.overloads), outcome.retry_after_s or 0.0))
        case ServerError() | Ambiguous() | Malformed():
            if tries.failures >= max_attempts:
                words = f"{outcome.message} ({counted(max_attempts, 'failed attempt')}, the teacher's max_attempts)"
                return GiveUp(_KINDS[type(outcome)], words, outcome.status)
            if tries.deadlines >= MAX_DEADLINES:
                return GiveUp(_KINDS[type(outcome)], outcome.message, outcome.status)
            if _came_again(outcome, tries, endpoints=endpoints):
                words = f"{outcome.message} (the same reply came {tries.alike} times)"
                return GiveUp(_KINDS[type(outcome)], words, outcome.status)
            return Again(backoff_s(tries.failures))
        case _:
            assert_never(outcome)


def _unready_s(tries: Tries) -> float:
    return min(backoff_s(tries.unready), MAX_UNREADY_WAIT_S)


def _came_again(outcome: Outcome, tries: Tries, *, endpoints: int) -> bool:
    """True if a complete reply came again unchanged; with several endpoints, also from another one."""
    if not isinstance(outcome, (Malformed, Ambiguous)) or not outcome.shape:
        return False
    return tries.alike >= MAX_ALIKE and len(set(tries.refused_by)) >= min(2, endpoints)


def _said(outcome: Money | Auth) -> str:
    return f"answered HTTP {outcome.status} ({outcome.message})"


_KINDS: dict[type, FailureKind] = {ServerError: "overload", Ambiguous: "ambiguous", Malformed: "malformed"}


def backoff_s(failures: int) -> float:
    """The wait before the next try after this many failures, at least 1."""
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = failures
    return _WAIT(state)
