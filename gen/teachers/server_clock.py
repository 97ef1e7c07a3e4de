"""The time at the server, if this machine's clock is so far off that the server rejects what it signs."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

SKEWED_S = 60.0
"""A smaller difference may be the request's travel time; AWS allows five minutes."""

REFUSED = frozenset({400, 401, 403})
"""Statuses for a signature with a wrong time."""

TRUSTED_FOR_S = 3600.0
"""A correction is kept this long: if it does not help, the clock is not the problem."""


def ahead_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """How far the server's clock is ahead of `now`, seconds since 1970, by its `Date`; None if it gives none."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None


class ServerClock:
    """Corrects the time that requests are signed with, once, by the `Date` of a refusal."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        """What to add to this machine's time."""
        self._corrected_at: float | None = None

    def refused(self, status: int, headers: Mapping[str, str], *, now: float) -> bool:
        """Look at a refusal's `Date`; True if requests are signed for another time from now on."""
        if status not in REFUSED or (found := ahead_s(headers, now=now)) is None:
            return False
        if abs(found - self.ahead_s) <= SKEWED_S:
            return False
        if self._corrected_at is not None and abs(now - self._corrected_at) < TRUSTED_FOR_S:
            return False
        self.ahead_s, self._corrected_at = found, now
        return True

    def words(self) -> str | None:
        """What a person should know."""
        if not self.ahead_s:
            return None
        off, which = abs(self.ahead_s), "behind" if self.ahead_s > 0 else "ahead of"
        spelt = f"{off / 60:,.0f} minutes" if off < 5400 else f"{off / 3600:,.1f} hours"
        return f"this machine's clock is {spelt} {which} the server's, by which requests are signed now: set it (NTP)"
