"""A wait that a refusal states: the whole account's, unless what happens meanwhile shows it to be one prompt's own.

    unclear    nothing is sent: the teacher's word is honoured at once; a long wait is tried once, by one other request
    own        a request sent after the refused one was served, or at least admitted: the account resumes
    account    another prompt was refused too: nothing is sent before the end, whatever is served meanwhile

An account at its limit does not serve later requests either. Pure: times are arguments.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

MIN_OWN_S = 2.0
"""Shorter waits apply to the account: an answer takes about as long, so other prompts could hardly be asked sooner."""

TRIAL_AFTER_S = 8.0
"""A wait that is unclear for this long is tried. The waits of most limits are over by then, and one more refused
request hurts nobody; a minute of silence costs as much as a prompt may."""

TRIAL_S = 2.0
REFUSALS_TIME = 3.0
"""The trial was admitted if it is not refused within `TRIAL_S`, nor within this many times the refusal's latency: a
whole answer may take minutes."""

SERVED_LATELY_S = 60.0
"""There is a trial only if the teacher has served somebody this recently: else there is no rate to lose."""

Whose: TypeAlias = Literal["unclear", "own", "account"]


class Asked(NamedTuple):
    """A request, as evidence of whose wait it is."""

    prompt: Hashable
    server: Hashable
    """The teacher and its endpoint."""
    at: float
    """When the trial was sent."""

    def shows_own(self, refused: "Asked") -> bool:
        """True if serving this request shows that the refused prompt's wait is its own."""
        return self.prompt != refused.prompt and self.server == refused.server and self.at > refused.at


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """The right to send one request. Each is equal only to itself."""

    at: float


class Trial(NamedTuple):
    """One request that is sent during an unclear wait, to see if it is refused too."""

    at: float
    """When the trial may be sent."""
    lasts_s: float
    """A trial that is not refused in this time was admitted."""
    grant: Grant | None = None
    """The request's, once it is sent."""

    @staticmethod
    def after(refused_at: float, *, refusal_s: float) -> "Trial":
        """The trial of a wait that was stated at this time, by a refusal that took this long."""
        return Trial(refused_at + TRIAL_AFTER_S, max(TRIAL_S, REFUSALS_TIME * refusal_s))


@dataclass(frozen=True, slots=True)
class StatedWait:
    """The wait that ends last."""

    until: float = -math.inf
    by: Hashable = None
    """Who was refused: the prompt, or for the ledger the worker."""
    whose: Whose = "account"
    trial: Trial | None = None

    def told(
        self, by: Hashable, wait_s: float, *, whose: Whose, now: float, trial: Trial | None = None
    ) -> "StatedWait":
        """The wait after one more refusal, or the same one reported again."""
        until = max(self.until, now + wait_s)
        if now >= self.until:
            return StatedWait(until, by, whose, trial)
        if by != self.by or self.whose == "account":
            whose = "account"
        return replace(self, until=until, by=by, whose=whose)

    def is_own(self) -> "StatedWait":
        """The wait after it was shown to be one prompt's own."""
        return replace(self, whose="own") if self.whose == "unclear" else self

    def left_s(self, now: float) -> float:
        """Seconds until it ends."""
        return max(0.0, self.until - now)

    def silent_s(self, now: float) -> float:
        """How long nothing may be sent, but for a trial."""
        return 0.0 if self.whose == "own" else self.left_s(now)

    def trial_in_s(self, now: float) -> float:
        """Seconds until the wait's trial may be sent; infinity for never."""
        if self.whose != "unclear" or self.trial is None or self.trial.grant is not None:
            return math.inf
        return max(0.0, self.trial.at - now)

    @property
    def is_tried(self) -> bool:
        """True if the trial was sent and nothing has shown yet whose wait it is."""
        return self.whose == "unclear" and self.trial is not None and self.trial.grant is not None

    def trial_sent(self, grant: Grant) -> "StatedWait":
        """The wait with its trial sent."""
        return self if self.trial is None else replace(self, trial=self.trial._replace(grant=grant))

    def trial_ended(self, grant: Grant | None, now: float) -> "StatedWait":
        """The wait after the request of this grant ended: if it was the trial, and proved nothing, another follows."""
        if not self.is_tried or self.trial is None or self.trial.grant is not grant:
            return self
        return replace(self, trial=Trial(now + TRIAL_AFTER_S, self.trial.lasts_s))

    def weighed(self, now: float) -> "StatedWait":
        """The wait as time shows it: its prompt's own if the trial was admitted."""
        if self.trial is None or self.trial.grant is None or now < self.trial.grant.at + self.trial.lasts_s:
            return self
        return self.is_own()
