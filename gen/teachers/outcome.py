"""The outcome of an attempt: a Completion, or one of these. Values, not exceptions: a bad answer is data, not a crash.

    Rate        too fast: wait as ordered, the sample's count untouched
    Ramp        growing too fast: wait, then grow slowly
    Overload    the teacher can't now: wait; it was not served
    NoConnection  no connection was made, so nothing was sent: wait
    Money       the account is empty: pause the run
    Auth        the key is refused, or the address is wrong: pause the run
    TooLong     the prompt does not fit: give up
    BadRequest  the request is refused as such: give up
    Policy      refused by policy: rejected/, never asked again
    ServerError the teacher failed at this request: try again, a few times
    Ambiguous   sent, and no whole answer came: perhaps billed; try again, a few times
    Malformed   a 200 that is not an answer: perhaps billed; try again, a few times

Classes and signals as published by the providers (2026-11).
"""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from stillhouse.schemas.completion import Completion, Usage


@dataclass(frozen=True, slots=True)
class _Trouble:
    message: str
    """One line, for people."""
    status: int | None = None
    """The HTTP status, if there was one."""


@dataclass(frozen=True, slots=True)
class Rate(_Trouble):
    """The teacher says we are too fast."""

    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ramp(_Trouble):
    """The teacher says we grow too fast."""

    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Overload(_Trouble):
    """The teacher can't serve now; this request was not served."""

    retry_after_s: float | None = None
    loading: bool = False
    """True if it says that it is still loading its model."""


@dataclass(frozen=True, slots=True)
class NoConnection(_Trouble):
    """No connection could be made, so nothing was sent: nobody listens, or the host's name is unknown."""


@dataclass(frozen=True, slots=True)
class Money(_Trouble):
    """The account's money or daily quota is used up."""

    back: str | None = None
    """When the allowance resets, in words, if the teacher says so."""


@dataclass(frozen=True, slots=True)
class Auth(_Trouble):
    """The key is refused, or the address is not the API's: a person has to act."""


@dataclass(frozen=True, slots=True)
class TooLong(_Trouble):
    """The prompt does not fit the teacher's context."""


@dataclass(frozen=True, slots=True)
class BadRequest(_Trouble):
    """The request is refused as such."""

    parameter: str | None = None
    """The name of the parameter at fault on the wire, if the reply states it outside its message."""


@dataclass(frozen=True, slots=True)
class Policy(_Trouble):
    """Refused by the teacher's policy before an answer was made."""


@dataclass(frozen=True, slots=True)
class ServerError(_Trouble):
    """The teacher failed at this request."""

    usage: Usage = field(default_factory=Usage)
    """What the attempt cost nevertheless."""

    @property
    def has_begun(self) -> bool:
        """True if the failure came within an answer, which may be billed."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Ambiguous(_Trouble):
    """Sent, but no complete answer came: it may be billed."""

    deadline: bool = False
    """True if it took longer than the recipe's `timeout_s`."""
    shape: str = ""
    """For a complete 2xx reply: equal for bodies that differ only in ids and numbers."""


@dataclass(frozen=True, slots=True)
class Malformed(_Trouble):
    """A 200 that is not an answer: it may be billed."""

    usage: Usage = field(default_factory=Usage)
    """What the attempt cost nevertheless."""
    shape: str = ""
    """Equal for bodies that differ only in ids and numbers."""


Trouble: TypeAlias = (
    Rate
    | Ramp
    | Overload
    | NoConnection
    | Money
    | Auth
    | TooLong
    | BadRequest
    | Policy
    | ServerError
    | Ambiguous
    | Malformed
)
Outcome: TypeAlias = Completion | Trouble


def kind_of(trouble: Trouble) -> str:
    """The name in counters and logs: `bad_request`, like the kind of Failure that results from it."""
    if isinstance(trouble, Overload) and trouble.loading:
        return "loading"
    return _snake(type(trouble).__name__)


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
