"""Decides how long to wait for a teacher that has never answered, from the reports of all workers of a run.

Pure; one per run. The wait begins with a failure. Anything that shows a working server (a refusal, a 429, a reply that
it is loading) ends the wait until the next failure, and an answer ends it for good. A request to an endpoint that has
not failed is waited for, however long its answer takes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.errors import TeacherPaused
from stillhouse.gen.inert import inert

NOTE_AFTER_S = 15.0
"""A teacher that has not answered for this long is reported."""

ERRORS_ALONE_S = 90.0
ERRORS_ALONE_SHARE = 0.15
"""A teacher that is reachable but fails every request is waited for this long, or for this share of `give_up_after_s`,
whichever is more; this is longer than an outage is waited out (`gen.teachers.evidence`)."""

MAX_WORDS = 300
"""Maximum number of characters shown of a teacher's last message."""

_FAILURES = ("no_connection", "overload", "server_error", "ambiguous")
"""Troubles that do not show a working server."""


@dataclass(slots=True)
class _Silent:
    """A teacher that has not answered yet."""

    failures: int = 0
    """Troubles in `_FAILURES` so far."""
    signs: int = 0
    """Other troubles so far."""
    since: float | None = None
    """When the first failure after the last sign of a working server was seen."""
    is_noted: bool = False
    is_noted_loading: bool = False


class Silence:
    """Decides when to give up on teachers that never answered."""

    def __init__(self, *, give_up_after_s: float, is_chain: bool = False, judges: Collection[str] = ()) -> None:
        """`is_chain`: teachers replace one another, and workers report when none is left; nothing replaces `judges`."""
        self._give_up_after_s = give_up_after_s
        self._is_chain = is_chain
        self._judges = judges
        self._silent: dict[str, _Silent] = {}
        self._answered: set[str] = set()

    def look(self, tallies: Mapping[str, Tally], *, now: float) -> tuple[list[str], TeacherPaused | None]:
        """Process the totals at a monotonic time; returns notes to show, and the reason to stop, if any."""
        notes: list[str] = []
        reason = None
        for name, tally in tallies.items():
            if tally.answers:
                self._answered.add(name)
            if name in self._answered:
                continue
            silent = self._silent.setdefault(name, _Silent())
            failed = _take_in(silent, tally, now=now)
            if tally.troubles.get("loading") and not silent.is_noted_loading:
                silent.is_noted_loading = True
                notes.append(f"teacher {name} is still loading ({_said(tally)}); waiting until it is ready")
            if silent.since is None or tally.awaited:
                continue
            silent_s, patience_s = now - silent.since, self._patience_s(tally)
            if failed and silent_s >= patience_s and (not self._is_chain or name in self._judges):
                reason = reason or TeacherPaused(_reason(name, tally, silent_s=silent_s))
            elif silent_s >= NOTE_AFTER_S and not silent.is_noted:
                silent.is_noted = True
                notes.append(f"no answer yet from teacher {name}: {_said(tally)}; waiting up to {patience_s:.0f} s")
        return notes, reason

    def _patience_s(self, tally: Tally) -> float:
        if any(tally.troubles.get(kind) for kind in _FAILURES if kind != "server_error"):
            return self._give_up_after_s
        return min(self._give_up_after_s, max(ERRORS_ALONE_S, ERRORS_ALONE_SHARE * self._give_up_after_s))


def _take_in(silent: _Silent, tally: Tally, *, now: float) -> bool:
    """Count the troubles since the last look; True if they were all failures."""
    failures = sum(tally.troubles.get(kind, 0) for kind in _FAILURES)
    signs = sum(tally.troubles.values()) - failures
    failed, shown = failures > silent.failures, signs > silent.signs
    silent.failures, silent.signs = failures, signs
    if shown:
        silent.since = None
    elif failed and silent.since is None:
        silent.since = now
    return failed and not shown


def _reason(name: str, tally: Tally, *, silent_s: float) -> str:
    if all(not tally.troubles.get(kind) for kind in _FAILURES if kind != "no_connection"):
        return (
            f"teacher {name} could not be reached for {silent_s:.0f} s ({_said(tally)}): start it or correct its "
            "address, then run the same command again (run.give_up_after_s: how long to wait)"
        )
    kinds = ", ".join(f"{kind} {tally.troubles[kind]:,}" for kind in _FAILURES if tally.troubles.get(kind))
    return (
        f"teacher {name} sent only failures for {silent_s:.0f} s ({kinds}); the last was: {_said(tally)}. Find out "
        "what is wrong with it, then run the same command again (run.give_up_after_s: how long to wait)"
    )


def _said(tally: Tally) -> str:
    return inert(tally.said)[:MAX_WORDS]
