"""Finds how many concurrent requests a teacher sustains where no limit is declared: a search for the knee.

A search is in one of four states, and `step` is the only way from one to the next:

    Climbing     tries more. A step up stands if hardly more was refused than before it and throughput grew with it;
                 otherwise it is undone, and the search narrows between what was sustained and what was not.
    Holding      the knee is found; after a while there may be more room.
    Verifying    refusals came at a concurrency that had been sustained, so it was cut, and the cut must prove itself:
                 a share of refusals that stays the same at any concurrency is the teacher's baseline, not overload.
    Recovering   nearly everything was refused: an outage, which says nothing about limits. Few requests are sent,
                 and once some are served, concurrency doubles back to what was sustained.

If a rate is declared, the first answers show how many requests in flight it needs, and the first step goes there.

Hosted teachers refuse requests at once. A teacher that queues them instead shows it by the time per output token: at
twice the concurrency, each token takes twice as long, and nothing is gained. (The latency of a whole answer depends on
its length, and shows nothing.) Pure: times are arguments.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

DECAY_S = 5.0
"""Time constant of the recent share of refusals: long enough for chance to even out, short enough to react."""

TOLERANCE = 0.01
"""Share of refusals above the baseline that is ignored: the goal is at most one refused request in a hundred."""

MAX_BASELINE = 0.1
"""A steady share of refusals above this is overload: no usable teacher refuses one in ten at any load."""

BASELINE_DECAY_S = 300.0
"""Time constant of forgetting the baseline: a teacher's bad half hour must not hide its limit for the rest of a run."""

OUTAGE = 0.9
"""Share of refusals that means an outage: a limit lets some through, so it never refuses nearly everything."""

OUTAGE_REPLIES = 8
"""Refusals needed to call it an outage: a few may all be refused by chance. After a cut, no minimum is needed."""

OUTAGE_DIVISOR = 16
"""During an outage, this part of the sustained concurrency is kept up, to notice when it ends."""

GROWTH = 1.5
"""Factor of a step up while nothing has been refused yet: doubling would overshoot by as much as it finds."""

RATE_MARGIN = 2.0
"""A declared rate gets this many times the concurrency that it needs according to the first answers, which are the fast
ones; for the same reason they overstate a slot's throughput by this factor."""

LEAP = 4.0
"""Only a declared rate causes a step of more than this factor. Such a step is judged by fewer answers: a teacher may be
far below its rate, and a step that was too large says little about the right size."""

CUT = 0.85
"""Factor of a cut: large enough for the refusals to change clearly, if concurrency is what causes them."""

PROBE = 1.1
"""Factor of a step up after holding: room for a tenth more is worth finding, and a failed probe refuses few."""

CLEAR_GROWTH = 0.2
"""Steps smaller than this are not judged by their gain in throughput, which would drown in chance."""

MIN_GAIN = 0.3
"""A step must raise throughput by at least this part of its growth: past the knee it raises only the waiting."""

NARROW = 1.1
"""If sustained and not sustained concurrency are closer than this, the search ends: it would gain too little."""

HOLD_S, MAX_HOLD_S = 30.0, 120.0
"""First and longest time to hold; it doubles each time, because a limit that was confirmed once usually is again."""

SETTLE_S = 1.0
"""Replies in this time after a change still reflect the old concurrency: workers renew their leases once a second."""


SWAMPED = 0.3
"""Part of the concurrency that refusals make useless, at which it is cut by as much at once, without waiting for a
sample: a teacher whose allowance for a burst is used up refuses most requests, and each second costs hundreds."""

SWAMPED_S = 0.3
"""How long a flow of refusals is measured, and before that how long workers take to learn of a change: each that is
refused reports at once."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies since the last report."""

    served: int = 0
    refused: int = 0
    """Refused for overload, or without a whole answer."""
    busy_s: float = 0.0
    """Sum of the latencies of the served requests."""
    tokens: int = 0
    """Output tokens of the served requests."""


@dataclass(frozen=True, slots=True)
class _Recent:
    """Replies, decayed exponentially."""

    replies: float = 0.0
    refused: float = 0.0
    at: float = -math.inf

    def plus(self, new: Replies, *, now: float) -> "_Recent":
        kept = math.exp((self.at - now) / DECAY_S)
        return _Recent(self.replies * kept + new.served + new.refused, self.refused * kept + new.refused, now)

    @property
    def refused_share(self) -> float:
        return self.refused / self.replies if self.replies else 0.0


@dataclass(frozen=True, slots=True)
class _Sample:
    """Replies to requests that were sent at one concurrency, counted from `since`."""

    since: float
    served: int = 0
    refused: int = 0
    busy_s: float = 0.0
    tokens: int = 0

    def plus(self, new: Replies) -> "_Sample":
        return _Sample(
            self.since,
            self.served + new.served,
            self.refused + new.refused,
            self.busy_s + new.busy_s,
            self.tokens + new.tokens,
        )

    @property
    def slot_throughput(self) -> float:
        """Tokens per second of one slot; answers per second if the replies state no tokens."""
        return (self.tokens or self.served) / max(self.busy_s, 1e-9)

    @property
    def replies(self) -> int:
        return max(1, self.served + self.refused)

    @property
    def refused_share(self) -> float:
        return self.refused / self.replies

    def throughput(self, now: float) -> float:
        """Tokens per second; answers per second if the replies state no tokens."""
        return (self.tokens or self.served) / max(1.0, now - self.since)

    def served_per_s(self, now: float) -> float:
        return self.served / max(1.0, now - self.since)


@dataclass(frozen=True, slots=True)
class _Flow:
    """Replies since workers know the present concurrency."""

    since: float = -math.inf
    served: int = 0
    refused: int = 0

    def plus(self, new: Replies, *, now: float) -> "_Flow":
        return _Flow(self.since, self.served + new.served, self.refused + new.refused) if now >= self.since else self

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.served + self.refused)

    def refused_per_s(self, now: float) -> float:
        """0 before they were counted for long enough."""
        return self.refused / (now - self.since) if now >= self.since + SWAMPED_S else 0.0


@dataclass(frozen=True, slots=True)
class Climbing:
    """At the sustained concurrency, or trying a step above it."""


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
    """After a cut; the fields describe the state before it."""

    slots: int
    refused_share: float
    served_per_s: float

    def was_unfounded(self, sample: _Sample, *, now: float) -> bool:
        """True if the cut only lost throughput: refusals did not drop, and less was served than before."""
        lost = sample.served_per_s(now) < (1 + CUT) / 2 * self.served_per_s
        return lost and self.refused_share <= MAX_BASELINE and sample.refused_share > self.refused_share / 3


State: TypeAlias = Climbing | Holding | Recovering | Verifying


@dataclass(frozen=True, slots=True)
class _Knee:
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
    """Concurrent requests to allow now."""
    state: State = Climbing()
    most: int = 2048
    sustained: int = 32
    """The last concurrency that was sustained."""
    not_sustained: float = math.inf
    """The lowest concurrency known not to be sustained."""
    baseline: float = 0.0
    """Share of refusals that no cut removes."""
    knee: _Knee = _Knee()
    recent: _Recent = _Recent()
    flow: _Flow = _Flow()
    sample: _Sample = _Sample(-math.inf)
    latency_s: float = 0.0
    hold_s: float = HOLD_S
    """How long to hold the next time."""
    at: float = 0.0
    settled_at: float = -math.inf
    """Replies before this time reflect another concurrency."""

    @property
    def is_narrow(self) -> bool:
        """True if sustained and not sustained concurrency are close enough."""
        return self.not_sustained <= max(NARROW * self.sustained, self.sustained + 1)


def step(search: Search, new: Replies, *, saturated: bool, now: float) -> Search:
    """The search after these replies; `saturated`: as many requests were in flight as allowed."""
    is_first = search.latency_s == 0.0
    search = _clocked(search, new, now=now)
    if is_first and new.served and not new.refused and (needed := _needed(search, new)) > search.slots:
        throughput = search.slots * (new.tokens or new.served) / max(new.busy_s, 1e-9)
        return _moved(replace(search, knee=_Knee(search.slots, throughput / RATE_MARGIN)), needed, now)
    search = replace(search, flow=search.flow.plus(new, now=now))
    if new.refused and (useless := _useless(search, now)) > SWAMPED * search.slots:
        return _swamped(search, useless, now)
    if now < search.settled_at:
        return search
    sample = search.sample.plus(new) if now >= search.sample.since else search.sample
    search = replace(search, recent=search.recent.plus(new, now=now), sample=sample)
    if new.refused and _is_overloaded(search):
        return _backed_off(search, now)
    if isinstance(search.state, Recovering):
        return _recovered(search, search.state, now) if new.served else search
    if not saturated and _is_carried(search, now):
        return replace(search, sustained=search.slots)
    return _judged(search, now) if saturated and _is_conclusive(search, now) else search


def _needed(search: Search, new: Replies) -> int:
    """Concurrency for the declared rate, estimated from these first answers; 0 if no rate is declared."""
    rates = [search.requests_per_s] if search.requests_per_s else []
    if search.output_per_s and new.tokens:
        rates.append(search.output_per_s * new.served / new.tokens)
    return math.ceil(RATE_MARGIN * min(rates) * search.latency_s) if rates else 0


def _is_carried(search: Search, now: float) -> bool:
    """True if a step was taken for a declared rate, and everything that the rate lets through is answered."""
    is_declared = search.requests_per_s > 0 or search.output_per_s > 0
    lasted = now >= search.sample.since + max(1.0, search.latency_s)
    is_above = isinstance(search.state, Climbing) and search.slots > search.sustained
    return is_declared and is_above and lasted and search.sample.served > 0 and not _refuses_more(search)


def _clocked(search: Search, new: Replies, *, now: float) -> Search:
    """Decay the baseline, and update the latency, which says when a sample may begin."""
    baseline = search.baseline * math.exp(-min(DECAY_S, now - search.at) / BASELINE_DECAY_S)
    if not new.served:
        return replace(search, baseline=baseline, at=now)
    latency_s = new.busy_s / new.served
    if search.latency_s:  # a few answers say little of the mean
        latency_s = search.latency_s + (latency_s - search.latency_s) * new.served / (new.served + search.slots / 4)
    # The first answers are the fast ones, so at the first concurrency another latency is left out.
    sample = search.sample if search.latency_s else _Sample(now + latency_s)
    return replace(search, baseline=baseline, at=now, latency_s=latency_s, sample=sample)


def _is_overloaded(search: Search) -> bool:
    """True if refusals exceed the baseline by more than chance explains (three standard deviations)."""
    recent = search.recent
    baseline = MAX_BASELINE if isinstance(search.state, Verifying) else search.baseline
    usual = max(baseline, TOLERANCE)
    # Refusals come at once: until the first answers, what is in flight may be one of them.
    replies = recent.replies if search.latency_s else max(recent.replies, search.slots)
    chance = 3 * math.sqrt(usual * (1 - usual) / max(1.0, replies))
    return recent.refused > 2 and recent.refused / replies > baseline + TOLERANCE + chance


def _backed_off(search: Search, now: float) -> Search:
    share, state = search.recent.refused_share, search.state
    if not search.latency_s:
        share = min(share, search.recent.refused / search.slots)
    if share > OUTAGE and (search.recent.refused >= OUTAGE_REPLIES or isinstance(state, (Recovering, Verifying))):
        return _in_outage(search, now)
    if search.slots > search.sustained:
        return _undone(search, now)
    if not isinstance(state, Verifying):
        state = Verifying(search.slots, share, search.slots * (1 - share) / max(search.latency_s, 1e-9))
    kept = max(1, int(max(0.5, min(CUT, 1 - share)) * search.slots))
    return _moved(replace(search, state=state, sustained=kept, not_sustained=search.slots), kept, now)


def _useless(search: Search, now: float) -> float:
    """Slots that only get refusals: a refused request keeps its slot for as long as an answer would take."""
    is_known = search.latency_s and search.flow.refused >= OUTAGE_REPLIES and not isinstance(search.state, Recovering)
    return search.flow.refused_per_s(now) * search.latency_s if is_known else 0.0


def _swamped(search: Search, useless: float, now: float) -> Search:
    """Most of what is sent is refused: keep what is left at once."""
    if search.slots > search.sustained:
        return _undone(search, now)
    if search.flow.refused_share > OUTAGE:
        return _in_outage(search, now)
    state, least = search.state, search.slots // 4
    if isinstance(state, Verifying):  # some of it was sent before the last cut
        least = search.slots // 2
    else:
        state = Verifying(search.slots, search.recent.refused_share, 0.0)
    kept = max(1, least, int(search.slots - useless))
    return _moved(replace(search, state=state, sustained=kept, not_sustained=search.slots), kept, now)


def _in_outage(search: Search, now: float) -> Search:
    sustained = search.sustained
    then: Climbing | Holding
    match search.state:
        case Verifying() as cut:  # the outage began with a few refusals, which were not a limit
            then, sustained = Climbing(), cut.slots
        case Recovering() as recovering:
            then = recovering.then
        case standing:
            then = standing
    few = max(1, min(search.slots, sustained // OUTAGE_DIVISOR))
    return _moved(replace(search, state=Recovering(then), sustained=sustained), few, now)


def _recovered(search: Search, state: Recovering, now: float) -> Search:
    slots = min(search.sustained, 2 * search.slots)
    return _moved(replace(search, state=state.then if slots == search.sustained else state), slots, now)


def _is_conclusive(search: Search, now: float) -> bool:
    """True if enough requests sent at this concurrency have been answered."""
    lasted = now >= search.sample.since + max(1.0, search.latency_s)
    return lasted and search.sample.served >= min(search.slots, LEAP * search.sustained) / 2


def _judged(search: Search, now: float) -> Search:
    """The sample is complete: decide whether this concurrency stands, and what to try next."""
    state = search.state
    if isinstance(state, Verifying):
        if state.was_unfounded(search.sample, now=now):
            baseline = min(MAX_BASELINE, max(search.sample.refused_share, state.refused_share))
            search = replace(search, state=Climbing(), baseline=baseline, not_sustained=math.inf, sustained=state.slots)
            return _moved(search, state.slots, now)
        return _stood(replace(search, state=Climbing()), now)
    if search.slots > search.sustained:
        knee = _knee_after(search, now)
        if knee is None or _refuses_more(search):
            return _undone(search, now)
        search = replace(search, knee=knee)
    return _stood(search, now)


def _refuses_more(search: Search) -> bool:
    """True if refusals exceed the baseline, give or take two standard deviations."""
    baseline, sample = search.baseline, search.sample
    chance = 2 * math.sqrt(baseline * (1 - baseline) / sample.replies)
    return sample.refused_share > baseline + TOLERANCE + chance


def _knee_after(search: Search, now: float) -> _Knee | None:
    """The knee after this step; None if throughput did not grow with concurrency since the last knee."""
    knee, growth = search.knee, search.slots / search.knee.slots - 1
    if growth <= CLEAR_GROWTH:
        return knee
    tokens_per_s = search.slots * search.sample.slot_throughput
    # after a large step, latencies are short until the teacher's queue is full
    if search.slots > LEAP * search.sustained:
        tokens_per_s = min(tokens_per_s, search.sample.throughput(now))
    return _Knee(search.slots, tokens_per_s) if tokens_per_s >= (1 + MIN_GAIN * growth) * knee.tokens_per_s else None


def _stood(search: Search, now: float) -> Search:
    """This concurrency is sustained: try the next one, hold, or keep holding."""
    slots = search.slots
    knee = search.knee
    if slots < knee.slots:
        knee = _Knee(slots, slots * search.sample.slot_throughput)
    hold_s = HOLD_S if slots > (1 + CLEAR_GROWTH) * search.sustained else search.hold_s
    search = replace(search, sustained=slots, knee=knee, hold_s=hold_s)
    if not search.is_narrow:
        above = search.not_sustained
        wanted = min(GROWTH * slots + 1, (slots + above) / 2)
        return _moved(replace(search, state=Climbing()), int(wanted), now)
    if not isinstance(search.state, Holding):
        return replace(search, state=Holding(now + hold_s), hold_s=min(MAX_HOLD_S, 2 * hold_s))
    if now < search.state.until:
        return search
    probe = PROBE * slots + 1
    return _moved(replace(search, state=Climbing(), not_sustained=probe), int(probe), now)


def _undone(search: Search, now: float) -> Search:
    """The step was too large: wait until its requests in flight have ended before judging another one."""
    not_sustained = search.slots if search.slots <= LEAP * search.sustained else search.not_sustained
    search = replace(search, state=Climbing(), not_sustained=not_sustained)
    return _moved(search, search.sustained, now, left_s=DECAY_S)


def _moved(search: Search, slots: int, now: float, *, left_s: float = 0.0) -> Search:
    """`left_s`: how long what was sent before may take to end."""
    settled_at = now + SETTLE_S
    return replace(
        search,
        slots=min(slots, search.most),
        recent=_Recent(),
        flow=_Flow(now + SWAMPED_S),
        settled_at=settled_at,
        sample=_Sample(settled_at + left_s + search.latency_s),
    )
