"""A wait that a refusal states: the whole account's, unless what is served meanwhile shows it to be one prompt's own.

    unclear    nothing is sent: the teacher's word is honoured at once
    own        requests sent after the refused one were served: the account resumes, at `OWN_PART` of its limits
    account    another prompt was refused too: nothing is sent before the end, whatever is served meanwhile

An account at its limit serves nobody who asks later. Pure: times are arguments.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

MIN_OWN_S = 2.0
"""Shorter waits are the account's: an answer takes about as long, so others would hardly be asked sooner."""

OWN_PART = 0.5
"""Part of the account's rates and slots that may be used during a wait that is one prompt's own. If it was the
account's after all, the next refusal comes at half the speed and settles it."""

Whose: TypeAlias = Literal["unclear", "own", "account"]


class Asked(NamedTuple):
    """A request, as far as it tells whose wait it is."""

    prompt: Hashable
    server: Hashable
    """The teacher and its endpoint."""
    at: float
    """When it was sent."""

    def shows_own(self, refused: "Asked") -> bool:
        """True if this request was served, and that shows that the refused one's wait is its prompt's own."""
        return self.prompt != refused.prompt and self.server == refused.server and self.at > refused.at


@dataclass(frozen=True, slots=True)
class StatedWait:
    """The wait that ends last."""

    until: float = -math.inf
    by: Hashable = None
    """Who was told to wait: the prompt, or for the ledger the worker."""
    whose: Whose = "account"

    def told(self, by: Hashable, wait_s: float, *, whose: Whose, now: float) -> "StatedWait":
        """The wait after one more refusal, or the same one reported again."""
        until = max(self.until, now + wait_s)
        if now < self.until and (by != self.by or self.whose == "account"):
            whose = "account"
        return StatedWait(until, by, whose)

    def is_own(self) -> "StatedWait":
        """The wait after it was shown to be one prompt's own."""
        return replace(self, whose="own") if self.whose == "unclear" else self

    def left_s(self, now: float) -> float:
        """How long it lasts still."""
        return max(0.0, self.until - now)

    def silent_s(self, now: float) -> float:
        """How long nothing may be sent."""
        return 0.0 if self.whose == "own" else self.left_s(now)

    def part(self, now: float) -> float:
        """Part of the account's limits that may be used, once something may be sent."""
        return OWN_PART if self.whose == "own" and now < self.until else 1.0
