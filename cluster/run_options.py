"""What a call of `stillhouse run` or `retry` asks for beside its recipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.schemas.failure import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """By default a whole run on this machine."""

    address: str | None = None
    """A running Ray cluster's."""
    limit: int | None = None
    """A pilot: plan at most this many of the next source rows."""
    retry: Sequence[FailureKind] | None = None
    """Only ask Failures of these kinds again."""
    finish: bool = False
    """Only seal what is open."""
    follow: bool = False
    """Also ask files that appear in the source; ends by a signal, or by what stops any run."""
    no_wait: bool = False
    """End once nothing can be done until a batch at a provider ends."""
