"""Decides how far to trust limit headers: a header that says nothing is left is contradicted by further answers.

Pure: times are arguments. Only a header that would stop everyone for more than `SHORT_S` is doubted; a refusal confirms
it. A limit that only one reply stated, even a refusal, lapses after `SILENT` answers that don't repeat it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stillhouse.gen.limits.shares import Ceiling, Resource

SHORT_S = 60.0
"""An empty limit that resets sooner than this is waited out; it ends before it could be doubted."""

PROBE_S = 5.0
"""While a limit is empty for longer, one request per this interval is sent anyway."""

LIES = 2
"""Answers to requests sent while nothing was left, after which the header is no longer trusted."""

SILENT = 20
"""Answers without a limit that one reply stated, after which it no longer applies: a real limit would be stated again,
at the latest by the refusals that follow."""

DISTRUST_S = 600.0
"""How long a disproved header is not trusted."""

_MINUTE_S = 60.0

_FREE = 1e6
"""Units per second: no limit, as a number that can be summed."""


@dataclass(slots=True)
class _State:
    none_since: float | None = None
    for_s: float = 0.0
    lies: int = 0
    distrust_until: float = float("-inf")


@dataclass(slots=True)
class _Stated:
    """A limit that applies now."""

    at: float
    for_s: float
    is_alone: bool = True
    """True if only one reply has stated it."""
    silent: int = 0
    """Answers since then, to requests sent after it, that did not state it."""


class HeaderTrust:
    """Trust in one teacher's limit headers."""

    def __init__(self) -> None:
        self._states: dict[Resource, _State] = {}
        self._stated: dict[Resource, _Stated] = {}
        self._minute_began = float("-inf")
        self._answers = self._answers_before = 0
        """Answers in this minute, and in the one before."""

    def answered(self, ceilings: Mapping[Resource, Ceiling], *, sent_at: float, now: float) -> dict[Resource, Ceiling]:
        """The ceilings of an answer that are trusted, plus those that revoke earlier ones."""
        self._answers += 1
        if not ceilings and not self._states and not self._stated:
            return {}
        lapsed = self._lapsed(ceilings, sent_at=sent_at, now=now)
        self.stated(ceilings, now=now)
        said = lapsed | {name: self._believed(name, ceiling, now=now) for name, ceiling in ceilings.items()}
        return said | {
            name: self._lied(name, state, now=now)
            for name, state in list(self._states.items())
            if name not in ceilings and state.none_since is not None and self._counts(state, sent_at, now=now)
        }

    def stated(self, ceilings: Mapping[Resource, Ceiling], *, now: float) -> None:
        """A reply states these limits, which apply to the account."""
        for name, ceiling in ceilings.items():
            before = self._stated.get(name)
            is_alone = before is None or now >= before.at + before.for_s
            self._stated[name] = _Stated(now - ceiling.age_s, ceiling.for_s, is_alone)

    def _lapsed(self, ceilings: Mapping[Resource, Ceiling], *, sent_at: float, now: float) -> dict[Resource, Ceiling]:
        """Ceilings that revoke limits which this answer should have repeated."""
        for name, stated in self._stated.items():
            stated.silent += stated.is_alone and name not in ceilings and sent_at > stated.at
        over = [name for name, stated in self._stated.items() if stated.silent >= SILENT]
        return {name: Ceiling(_FREE, self._stated.pop(name).for_s, 0.0) for name in over}

    def answers(self, *, now: float) -> int:
        """Recent answers per minute."""
        if (passed_s := now - self._minute_began) >= _MINUTE_S:
            self._answers_before = self._answers if passed_s < 2 * _MINUTE_S else 0
            self._answers, self._minute_began = 0, now
        return max(self._answers, self._answers_before)

    def refused(self) -> None:
        """A request was refused for a limit: the headers are right."""
        self._states.clear()

    def _believed(self, name: Resource, ceiling: Ceiling, *, now: float) -> Ceiling:
        state = self._states.setdefault(name, _State())
        if now < state.distrust_until:
            return Ceiling(_FREE, ceiling.for_s, ceiling.age_s)
        if ceiling.for_s <= SHORT_S or ceiling.rate * ceiling.for_s > 1.0:
            state.none_since, state.lies = None, 0
            if ceiling.for_s > SHORT_S and self._stated[name].is_alone:  # other answers must confirm it within its time
                return Ceiling(max(ceiling.rate, 1 / PROBE_S), ceiling.for_s, ceiling.age_s)
            return ceiling
        if state.none_since is None:
            state.none_since = now
            state.for_s = ceiling.for_s
        elif self._counts(state, now - ceiling.age_s, now=now):
            return self._lied(name, state, now=now)
        return Ceiling(max(ceiling.rate, 1 / PROBE_S), ceiling.for_s, ceiling.age_s)

    def _counts(self, state: _State, sent_at: float, *, now: float) -> bool:
        """Count an answer to a request sent at that time; True if the header is disproved."""
        state.lies += (
            state.none_since is not None and state.none_since < sent_at and now < state.none_since + state.for_s
        )
        return state.lies >= LIES

    def _lied(self, name: Resource, state: _State, *, now: float) -> Ceiling:
        self._states[name] = _State(distrust_until=now + DISTRUST_S)
        return Ceiling(_FREE, state.for_s, 0.0)
