"""Finds how many concurrent requests a teacher sustains where no limit is declared: a search for the knee.

The states are in `gen.limits.search`; `step` is the only way from one to the next.

Hosted teachers refuse requests at once. A teacher that queues them instead shows it by the time per output token: at
twice the concurrency, each token takes twice as long, and nothing is gained. (The latency of a whole answer depends on
its length, and shows nothing.) Pure: times are arguments.
"""

import math
from dataclasses import replace

from stillhouse.gen.limits.replies import DECAY_S, SWAMPED_S, Flow, Recent, Replies, Sample
from stillhouse.gen.limits.search import (
    CUT,
    HOLD_S,
    MAX_BASELINE,
    MAX_HOLD_S,
    Climbing,
    Holding,
    Knee,
    Recovering,
    Search,
    Verifying,
)
from stillhouse.gen.limits.thresholds import (
    CLEAR_GROWTH,
    LEAP,
    OUTAGE_REPLIES,
    RATE_MARGIN,
    is_carried,
    is_conclusive,
    is_overloaded,
    knee_after,
    refuses_more,
    slots_for_rate,
    useless_slots,
)

BASELINE_DECAY_S = 300.0
"""Time constant of forgetting the baseline: a teacher's bad half hour must not hide its limit for the rest of a run."""

OUTAGE = 0.9
"""Share of refusals that means an outage: a limit lets some through, so it never refuses nearly everything."""

OUTAGE_DIVISOR = 16
"""During an outage, this part of the sustained concurrency is kept up, to notice when it ends."""

GROWTH = 1.5
"""Factor of a step up while nothing has been refused yet: doubling would overshoot by as much as it finds."""

PROBE = 1.1
"""Factor of a step up after holding: room for a tenth more is worth finding, and a failed probe refuses few."""

SETTLE_S = 1.0
"""Replies in this time after a change still reflect the old concurrency: workers renew their leases once a second."""

SWAMPED = 0.3
"""Part of the concurrency that refusals make useless, at which it is cut by as much at once, without waiting for a
sample: a teacher whose allowance for a burst is used up refuses most requests, and each second costs hundreds."""


def step(search: Search, new: Replies, *, saturated: bool, now: float) -> Search:
    """The search after these replies; `saturated`: as many requests were in flight as allowed."""
    is_first = search.latency_s == 0.0
    search = _clocked(search, new, now=now)
    if is_first and new.served and not new.refused and (needed := slots_for_rate(search, new)) > search.slots:
        throughput = search.slots * (new.tokens or new.served) / max(new.busy_s, 1e-9)
        return _moved(replace(search, knee=Knee(search.slots, throughput / RATE_MARGIN)), needed, now)
    search = replace(search, flow=search.flow.plus(new, now=now))
    if new.refused and (useless := useless_slots(search, now)) > SWAMPED * search.slots:
        return _swamped(search, useless, now)
    if now < search.settled_at:
        return search
    sample = search.sample.plus(new) if now >= search.sample.since else search.sample
    search = replace(search, recent=search.recent.plus(new, now=now), sample=sample)
    if new.refused and is_overloaded(search):
        return _backed_off(search, now)
    if isinstance(search.state, Recovering):
        return _recovered(search, search.state, now) if new.served else search
    if not saturated and is_carried(search, now):
        return replace(search, sustained=search.slots)
    return _judged(search, now) if saturated and is_conclusive(search, now) else search


def _clocked(search: Search, new: Replies, *, now: float) -> Search:
    """Decay the baseline, and update the latency, which says when a sample may begin."""
    baseline = search.baseline * math.exp(-min(DECAY_S, now - search.at) / BASELINE_DECAY_S)
    if not new.served:
        return replace(search, baseline=baseline, at=now)
    latency_s = new.busy_s / new.served
    if search.latency_s:  # a few answers say little of the mean
        latency_s = search.latency_s + (latency_s - search.latency_s) * new.served / (new.served + search.slots / 4)
    # The first answers are the fast ones, so at the first concurrency another latency is left out.
    sample = search.sample if search.latency_s else Sample(now + latency_s)
    return replace(search, baseline=baseline, at=now, latency_s=latency_s, sample=sample)


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
        knee = knee_after(search, now)
        if knee is None or refuses_more(search):
            return _undone(search, now)
        search = replace(search, knee=knee)
    return _stood(search, now)


def _stood(search: Search, now: float) -> Search:
    """This concurrency is sustained: try the next one, hold, or keep holding."""
    slots = search.slots
    knee = search.knee
    if slots < knee.slots:
        knee = Knee(slots, slots * search.sample.slot_throughput)
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
        recent=Recent(),
        flow=Flow(now + SWAMPED_S),
        settled_at=settled_at,
        sample=Sample(settled_at + left_s + search.latency_s),
    )
