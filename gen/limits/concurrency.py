"""Finds how many concurrent requests a teacher sustains where no limit is declared: a search for the knee.

The states are in `gen.limits.search`; `step` is the only way from one to the next.

Hosted teachers refuse requests at once. A teacher that queues them instead shows it by the time per output token: at
twice the concurrency, each token takes twice as long, and nothing is gained. (The latency of a whole answer depends on
its length, and shows nothing.) Pure: times are arguments.
"""

import math
from dataclasses import replace

from stillhouse.gen.limits.replies import Replies, Sample, Spell
from stillhouse.gen.limits.search import (
    CUT,
    FIRST_SLOTS,
    HOLD_S,
    MAX_BASELINE,
    MAX_HOLD_S,
    RISE_S,
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
    RATE_MARGIN,
    TOLERANCE,
    is_carried,
    is_conclusive,
    is_outage,
    is_overloaded,
    is_small_step,
    knee_after,
    mean_slots,
    refuses_more,
    share_since_cut,
    slots_for_rate,
    spell_share,
    tolerated_per_s,
)

BASELINE_DECAY_S = 300.0
"""Time constant of forgetting the baseline: a teacher's bad half hour must not hide its limit for the rest of a run."""

OUTAGE_DIVISOR = 16
"""During an outage, this part of the sustained concurrency is kept up, to notice when it ends."""

RECOVERED = 0.4
"""Part of the sustained concurrency that, after an outage, is followed by the rest."""

FAR_CUT = 0.5
"""Factor of the largest cut, and of the first: more refusals at once say little more about where the limit is."""

GROWTH = 1.35
"""Factor of a step up while nothing has been refused yet: while an allowance for bursts lasts, all steps succeed, and
the faster they follow, the more is refused in the end."""

PROBE = 1.1
"""Factor of a step up after holding: room for a tenth more is worth finding, and a failed probe refuses few."""

DIP = 0.7
"""Part of its aim at which a cut begins: until requests in flight have ended nothing is sent, all workers learn of the
cut, and the teacher's allowance recovers a little."""

BACK = 2.0
"""Factor of the step back up after an unfounded cut, at most to where it was: calling it unfounded may be a mistake."""

FIRST_DIP, FIRST_RISE_S = 0.3, 6.0
"""The first cut begins further down, and rises slowly. Until then the search climbed on an allowance for bursts, so the
limit may be anywhere below; a slow rise finds it with few refusals."""

HEAR_S = 0.5
"""Refusals are not counted for this long after a cut: some were on their way already."""

LEFT_S = 5.0
"""How long the requests in flight of a step that was too large may take to end, besides an answer's latency."""


def step(search: Search, new: Replies, *, saturated: bool, leased_at: float, now: float) -> Search:
    """The search after these replies to a worker.

    `saturated`: it had as many requests in flight as allowed; `leased_at`: when it got the oldest lease under which it
    sent what these replies answer.
    """
    if search.moved_at == math.inf:
        # Under a declared rate hardly anything is refused, so the first move need not be gradual.
        is_declared = search.requests_per_s > 0 or search.output_per_s > 0
        search = replace(search, moved_at=now, start=search.slots if is_declared else search.start)
    is_first = search.latency_s == 0.0
    search = _clocked(search, new, now=now)
    if is_first and new.served and not new.refused and (needed := slots_for_rate(search, new)) > search.slots:
        throughput = search.slots * (new.tokens or new.served) / max(new.busy_s, 1e-9)
        return _moved(replace(search, knee=Knee(search.slots, throughput / RATE_MARGIN)), needed, now, start=needed)
    if now >= search.cut_at + HEAR_S and leased_at >= search.cut_at:
        spell = search.spell.plus(new, tolerated_per_s=tolerated_per_s(search, now), now=now)
        search = replace(search, spell=spell, since_cut=search.since_cut.plus(new))
    if new.refused and is_overloaded(search, now):
        return _backed_off(search, now)
    if now < search.settled_at:
        return search
    if now >= search.sample.since:
        sample = search.sample.plus(new)
        search = replace(search, sample=sample, baseline=min(search.baseline, sample.most_refused_share))
    if isinstance(search.state, Recovering):
        return _recovered(search, search.state, now) if new.served else search
    if not saturated and is_carried(search, now):
        return replace(search, sustained=search.slots)
    return _judged(search, now) if saturated and is_conclusive(search, now) else search


def _clocked(search: Search, new: Replies, *, now: float) -> Search:
    """Decay the baseline, and update the latency, which says when a sample may begin."""
    passed_s = now - search.at
    search = replace(search, slot_s=search.slot_s + passed_s * search.slots_at(now))
    baseline = search.baseline * math.exp(-passed_s / BASELINE_DECAY_S)
    if not new.served:
        return replace(search, baseline=baseline, at=now)
    latency_s = new.busy_s / new.served
    if search.latency_s:  # a few answers say little about the mean
        latency_s = search.latency_s + (latency_s - search.latency_s) * new.served / (new.served + search.slots / 4)
    # The first answers are the fast ones, so at the first concurrency another latency is left out.
    sample = search.sample if search.latency_s else Sample(max(search.settled_at, now + latency_s))
    return replace(search, baseline=baseline, at=now, served_at=now, latency_s=latency_s, sample=sample)


def _backed_off(search: Search, now: float) -> Search:
    """Overload: keep what is not refused."""
    if is_outage(search, now):
        return _in_outage(search, now)
    share, slots, state = spell_share(search, now), search.slots_at(now), search.state
    is_first, mean = search.overloaded_at == math.inf, mean_slots(search, now)
    kept = (FAR_CUT if is_first else max(FAR_CUT, min(CUT, 1 - share))) * slots
    before = state.slots if isinstance(state, Verifying) else search.sustained
    cut = Verifying(before, share_since_cut(search, now), slots * (1 - share) / max(search.latency_s, 1e-9))
    if is_first and cut.possible_baseline:  # with fewer slots, it would take too long to measure
        kept = max(kept, min(slots, FIRST_SLOTS))
    if state == Climbing(tests_baseline=True):
        search = replace(search, baseline=0.0)
    search = replace(search, slot_s=0.0, overloaded_at=now)
    if not is_first and (is_small_step(search) or search.slots > search.sustained <= kept):
        return _undone(search, now)
    if not isinstance(state, Verifying):
        kept = max(kept, min(slots - 1, mean))
    elif state.refused_share > TOLERANCE:  # less says nothing about a baseline that has just begun
        cut = state
    is_rough = isinstance(state, Verifying) and now < search.settled_at
    search = replace(search, state=cut, not_sustained=slots, is_rough=is_rough)
    return _cut(search, kept, now, dip=FIRST_DIP, rise_s=FIRST_RISE_S) if is_first else _cut(search, kept, now)


def _cut(search: Search, kept: float, now: float, *, dip: float = DIP, rise_s: float = RISE_S) -> Search:
    sustained = max(1, int(kept))
    search = replace(search, sustained=sustained, since_cut=Sample(now))
    return _moved(search, sustained, now, start=int(dip * kept), rise_s=rise_s)


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
    not_sustained = max(search.not_sustained, sustained)
    search = replace(search, state=Recovering(then), sustained=sustained, not_sustained=not_sustained)
    return _moved(search, few, now)


def _recovered(search: Search, state: Recovering, now: float) -> Search:
    slots = 2 * search.slots
    if slots >= RECOVERED * search.sustained:
        slots, search = search.sustained, replace(search, state=state.then)
    return _moved(search, slots, now, start=slots)


def _judged(search: Search, now: float) -> Search:
    """The sample is complete: decide whether this concurrency stands, and what to try next."""
    state, sample = search.state, search.sample
    since_cut = search.since_cut
    if isinstance(state, Verifying) and state.was_unfounded(since_cut, served_per_s=sample.served_per_s(now)):
        baseline = min(MAX_BASELINE, since_cut.most_refused_share)
        search = replace(search, state=Climbing(tests_baseline=True), baseline=baseline, not_sustained=math.inf)
        return _moved(search, min(state.slots, int(BACK * search.slots) + 1), now)
    if search.slots <= search.sustained:
        if not refuses_more(search):
            return _stood(search, now)
        before = state.slots if isinstance(state, Verifying) else search.slots
        state = Verifying(before, since_cut.refused_share, sample.served_per_s(now))
        return _cut(replace(search, state=state, not_sustained=search.slots, is_rough=False), CUT * search.slots, now)
    knee = knee_after(search, now)
    if knee is None or refuses_more(search):
        return _undone(search, now)
    return _stood(replace(search, knee=knee), now)


def _stood(search: Search, now: float) -> Search:
    """This concurrency is sustained: try the next one, hold, or keep holding."""
    slots = search.slots
    knee = search.knee
    if slots <= knee.slots:  # measured again: a few answers say little, and the first are the fast ones
        knee = Knee(slots, slots * search.sample.slot_throughput)
    hold_s = HOLD_S if slots > (1 + CLEAR_GROWTH) * search.sustained else search.hold_s
    not_sustained = math.inf if search.is_rough and slots > search.sustained else search.not_sustained
    search = replace(search, sustained=slots, knee=knee, hold_s=hold_s, not_sustained=not_sustained)
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
    search = replace(search, state=Climbing(), not_sustained=not_sustained, is_rough=False)
    return _moved(search, search.sustained, now, start=int(DIP * search.sustained), left_s=LEFT_S)


def _moved(
    search: Search, slots: int, now: float, *, start: int | None = None, left_s: float = 0.0, rise_s: float = RISE_S
) -> Search:
    """`start`: where the move begins, by default at the present concurrency; `left_s`: how long what was sent before
    may take to end; `rise_s`: how long the move takes."""
    slots, present = min(slots, search.most), search.slots_at(now)
    start = max(1, min(slots, present if start is None else start))
    cut_at = now if start < present else search.cut_at
    moved = replace(search, slots=slots, start=start, moved_at=now, rise_s=rise_s, spell=Spell(), cut_at=cut_at)
    return replace(moved, sample=Sample(moved.settled_at + left_s + search.latency_s))
