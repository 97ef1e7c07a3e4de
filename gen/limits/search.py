"""The state of a search for the concurrency that a teacher sustains; `gen.limits.concurrency` moves it.

A search is in one of four states, and `step` is the only way from one to the next:

    Climbing     tries more. A step up stands if hardly more was refused than before it and throughput grew with it;
                 otherwise it is undone, and the search narrows between what was sustained and what was not.
    Holding      the knee is found; after a while there may be more room.
    Verifying    refusals came at a concurrency that had been sustained, so it was cut, and the cut must prove itself:
                 a share of refusals that stays the same at any concurrency is the teacher's baseline, not overload.
                 The next step tests that: if it is overload, there is no baseline.
    Recovering   nearly everything was refused: an outage, which says nothing about limits. Few requests are sent,
                 and once some are served, concurrency doubles back to what was sustained.

A move to a higher concurrency is gradual, so the first refusals show a limit on the way, before more than a few
requests are sent in vain. A cut begins below its aim, and rises to it; the first one begins far below, and rises
slowly. What was sustained on average since the last overload is sustained from then on, so a later cut from a
concurrency that had been sustained goes no lower.

If a rate is declared, the first answers show how many requests in flight it needs, and the first step goes there.
"""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from stillhouse.gen.limits.replies import Sample, Spell

FIRST_SLOTS = 16
"""Where a search begins: few teachers refuse that many at once."""

MAX_BASELINE = 0.1
"""A steady share of refusals above this is overload: no usable teacher refuses one in ten at any load."""

MOST_BY_CHANCE = 2 * MAX_BASELINE
"""Before a cut, a larger share than this is overload: a few refusals may be more than the baseline by chance."""

SAME = 0.4
"""A cut that leaves this part of the share of refusals did not help: where concurrency is the cause, a share that is
small enough for a baseline falls to less. If the share has grown as much, it is not a steady one either."""

CUT = 0.8
"""Factor of a cut: large enough for the refusals to change clearly, if concurrency is what causes them."""

RISE_S = 1.6
"""How long a move takes: enough for workers to renew their leases once."""

NARROW = 1.1
"""If sustained and not sustained concurrency are closer than this, the search ends: it would gain too little."""

HOLD_S, MAX_HOLD_S = 30.0, 120.0
"""First and longest time to hold; it doubles each time, because a limit that was confirmed once usually is again."""


@dataclass(frozen=True, slots=True)
class Climbing:
    """At the sustained concurrency, or trying a step above it."""

    tests_baseline: bool = False
    """True for the first step since refusals were found to be the teacher's baseline: if it is overload, they were not.
    """


@dataclass(frozen=True, slots=True)
class Holding:
    """At the knee; nothing is tried before `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Recovering:
    """Below the sustained concurrency after an outage, and on the way back up to it."""

    then: Climbing | Holding


@dataclass(frozen=True, slots=True)
class Verifying:
    """After a cut."""

    slots: int
    """The sustained concurrency before the first cut."""
    refused_share: float
    """Share of refusals between the cut before and the last one."""
    served_per_s: float
    """Answers per second before the last cut."""

    @property
    def possible_baseline(self) -> float:
        """Share of refusals before the last cut if it may be the teacher's baseline, else 0."""
        return min(MAX_BASELINE, self.refused_share) if self.refused_share < MOST_BY_CHANCE else 0.0

    def was_unfounded(self, since: Sample, *, served_per_s: float) -> bool:
        """True if the cut only lost throughput: refusals did not drop since, and less is served than before."""
        lost = served_per_s < (1 + CUT) / 2 * self.served_per_s
        chance = 2 * math.sqrt(MAX_BASELINE * (1 - MAX_BASELINE) / since.replies)
        is_same = SAME * self.refused_share <= since.refused_share <= self.refused_share / SAME
        return lost and is_same and since.refused > 1 and since.refused_share <= MAX_BASELINE + chance


State: TypeAlias = Climbing | Holding | Recovering | Verifying


@dataclass(frozen=True, slots=True)
class Knee:
    """The highest concurrency that clearly raised throughput."""

    slots: float = math.inf
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Search:
    """The state of a search."""

    requests_per_s: float = 0.0
    """Declared requests per second; 0 if none is declared."""
    output_per_s: float = 0.0
    """Declared output tokens per second; 0 if none are declared."""
    slots: int = 32
    """Concurrent requests to allow, once the last move is complete."""
    state: State = Climbing()
    most: int = 2048
    sustained: int = 32
    """The last concurrency that was sustained."""
    not_sustained: float = math.inf
    """The lowest concurrency known not to be sustained."""
    is_rough: bool = False
    """True if `not_sustained` comes from refusals on the rise after a cut: workers that had not heard of it yet may
    have caused them. The first step up that stands proves it wrong."""
    baseline: float = 0.0
    """Share of refusals that no cut removes."""
    knee: Knee = Knee()
    spell: Spell = field(default_factory=Spell)
    sample: Sample = field(default_factory=lambda: Sample(-math.inf))
    latency_s: float = 0.0
    hold_s: float = HOLD_S
    """The length of the next hold."""
    at: float = 0.0
    slot_s: float = 0.0
    """Sum of the concurrency over the time since the last overload."""
    overloaded_at: float = math.inf
    """When it was; infinite before the first."""
    since_cut: Sample = field(default_factory=lambda: Sample(-math.inf))
    """Replies to what was sent since the last cut of a sustained concurrency, on its slow rise too."""
    served_at: float = 0.0
    """When an answer came last."""
    cut_at: float = -math.inf
    """When concurrency was last lowered; what was sent under an older lease says nothing about it."""
    start: int = FIRST_SLOTS
    """The concurrency at which the last move began."""
    moved_at: float = math.inf
    """When it began; the first report begins the first one."""
    rise_s: float = RISE_S
    """How long it takes."""

    def slots_at(self, now: float) -> int:
        """Concurrent requests to allow now: during a move, they grow exponentially."""
        part = max(0.0, now - self.moved_at) / self.rise_s
        return self.slots if part >= 1.0 else int(self.start * (self.slots / self.start) ** part)

    @property
    def settled_at(self) -> float:
        """Replies before this time reflect another concurrency."""
        return self.moved_at + self.rise_s

    @property
    def is_narrow(self) -> bool:
        """True if sustained and not sustained concurrency are close enough."""
        return self.not_sustained <= NARROW * self.sustained + 1
