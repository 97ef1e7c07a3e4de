"""Options of a call of `stillhouse run` or `retry`, besides its recipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.schemas.failure import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The default is a whole run on this machine."""

    address: str | None = None
    """The address of a running Ray cluster."""
    limit: int | None = None
    """A pilot: plan at most this many of the next source rows."""
    retry: Sequence[FailureKind] | None = None
    """The kinds of Failures to ask again; nothing else is asked."""
    finish: bool = False
    """Only seal what is open."""
    follow: bool = False
    """Also ask the rows of files that are added to the source; ends at a signal, or for any reason that stops other
    runs."""
    no_wait: bool = False
    """End once nothing can be done until a batch at a provider ends."""
