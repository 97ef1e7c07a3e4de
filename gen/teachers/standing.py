"""Decides whether a teacher of a chain (`route: fallback`) may be left for the next one. Pure: the clock is passed in.

A teacher may be left once it has answered, or has not answered for `give_up_after_s`, and never while it says that it
is loading. That counts for `give_up_after_s` after it said so: if no sample is left to ask it, no reply ever says that
it has loaded. It is down while all its endpoints have been closed for `DOWN_AFTER_S` or its account is out of money; a
probe that it answers ends that. Limits and their waits do not matter here.
"""

import math

from stillhouse.gen.teachers.outcome import Outcome, Overload, Policy
from stillhouse.schemas.completion import Completion

DOWN_AFTER_S = 60.0
"""Shorter outages are waited out, like those of any teacher."""

PROBE_EVERY_S = 30.0
"""How often a teacher that is down is sent a sample, to learn whether it answers again."""

MIN_LOADING_S = 60.0
"""A teacher that says that it is loading counts as loading for at least this long: its samples ask it again sooner."""


class Standing:
    """Times are monotonic seconds."""

    def __init__(self, *, give_up_after_s: float) -> None:
        self.has_answered = False
        """True if an answer came from it, in this run or an earlier one."""
        self.out_of_money = ""
        """What the teacher said when its account was out of money; empty if it is not."""
        self._dry_since = 0.0
        """When the account was found to be out of money."""
        self._give_up_after_s = give_up_after_s
        self._waits_since: float | None = None
        """When the wait for its first answer began; time that it spends loading does not count."""
        self._closed_since: float | None = None
        """When the last of its endpoints' circuits opened; None while one is closed."""
        self._loading_until = -math.inf
        """Until when it counts as loading if no reply says otherwise."""
        self._probe_at = 0.0

    def waited_for(self, *, now: float) -> None:
        """A request is about to be sent, or a sample that it gave up on waits until it may be left."""
        if self._waits_since is None:
            self._waits_since = now

    def ended(self, outcome: Outcome, *, sent_at: float, all_closed: bool, now: float) -> None:
        """An attempt that was sent at this time ended; `all_closed`: its endpoints get nothing but probes."""
        self._loading_until = -math.inf
        if is_loading := isinstance(outcome, Overload) and outcome.loading:
            self._loading_until = now + (outcome.retry_after_s or 0.0) + max(self._give_up_after_s, MIN_LOADING_S)
            self._waits_since = now
        if isinstance(outcome, (Completion, Policy)):
            self.has_answered = True
            if sent_at > self._dry_since:  # requests that were in flight say nothing
                self.out_of_money = ""
        if not all_closed:
            self._closed_since = None
        elif self._closed_since is None or is_loading:
            self._closed_since = now

    def ran_dry(self, reason: str, *, now: float) -> None:
        """Record that the teacher's account is out of money."""
        self.out_of_money, self._dry_since = reason, now
        self.went_down(now=now)

    def may_be_left(self, *, now: float) -> bool:
        """True if a sample that it gives up on may go to the next teacher."""
        if now < self._loading_until:
            return False
        waited = self._waits_since is not None and now - self._waits_since >= self._give_up_after_s
        return self.has_answered or waited

    def is_down(self, *, now: float) -> bool:
        """True if all samples go to the next teacher."""
        closed = self._closed_since is not None and now - self._closed_since >= DOWN_AFTER_S
        return (closed or bool(self.out_of_money)) and self.may_be_left(now=now)

    def went_down(self, *, now: float) -> None:
        """Record that the teacher is down; the first probe is due after a while."""
        self._probe_at = now + PROBE_EVERY_S

    def takes_probe(self, *, now: float) -> bool:
        """True if a probe is due, which then counts as sent."""
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_EVERY_S
        return True
