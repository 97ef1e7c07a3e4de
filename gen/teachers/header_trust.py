"""How far limit headers are believed: answers that go on coming contradict a header that says that none is left.

Pure: times are arguments. Only a header that would hold all others back for more than `SHORT_S` is doubted; a refusal
confirms what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stillhouse.gen.limits.shares import Ceiling, Resource

SHORT_S = 60.0
"""Nothing left for less than this is waited for; it is over before it could be doubted."""

PROBE_S = 5.0
"""Where none is left for longer, one request in so long is sent all the same."""

LIES = 2
"""So many answers to requests that were sent although none was left, and the header is not believed,"""

DISTRUST_S = 600.0
"""for so long."""

_FREE = 1e6
"""Units a second: no limit, in a number that can be added up."""


@dataclass(slots=True)
class _State:
    none_since: float | None = None
    for_s: float = 0.0
    lies: int = 0
    distrust_until: float = float("-inf")


class HeaderTrust:
    """What one teacher's limit headers are worth."""

    def __init__(self) -> None:
        self._states: dict[Resource, _State] = {}

    def answered(self, ceilings: Mapping[Resource, Ceiling], *, sent_at: float, now: float) -> dict[Resource, Ceiling]:
        """The part of an answer's ceilings that is believed, with those that take back what was believed before."""
        said = {name: self._believed(name, ceiling, now=now) for name, ceiling in ceilings.items()}
        return said | {
            name: self._lied(name, state, now=now)
            for name, state in list(self._states.items())
            if name not in ceilings and state.none_since is not None and self._counts(state, sent_at, now=now)
        }

    def refused(self) -> None:
        """A request was refused as too much: what the headers say holds."""
        self._states.clear()

    def _believed(self, name: Resource, ceiling: Ceiling, *, now: float) -> Ceiling:
        state = self._states.setdefault(name, _State())
        if now < state.distrust_until:
            return Ceiling(_FREE, ceiling.for_s, ceiling.age_s)
        if ceiling.for_s <= SHORT_S or ceiling.rate * ceiling.for_s > 1.0:
            state.none_since, state.lies = None, 0
            return ceiling
        if state.none_since is None:
            state.none_since = now
            state.for_s = ceiling.for_s
        elif self._counts(state, now - ceiling.age_s, now=now):
            return self._lied(name, state, now=now)
        return Ceiling(max(ceiling.rate, 1 / PROBE_S), ceiling.for_s, ceiling.age_s)

    def _counts(self, state: _State, sent_at: float, *, now: float) -> bool:
        """Count an answer to a request of that time; True if it was one too many."""
        state.lies += (
            state.none_since is not None and state.none_since < sent_at and now < state.none_since + state.for_s
        )
        return state.lies >= LIES

    def _lied(self, name: Resource, state: _State, *, now: float) -> Ceiling:
        self._states[name] = _State(distrust_until=now + DISTRUST_S)
        return Ceiling(_FREE, state.for_s, 0.0)
