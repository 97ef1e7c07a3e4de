"""What replies must show before a search moves, with the reason for each threshold. Pure: times are arguments."""

import math

from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.search import MAX_BASELINE, Climbing, Knee, Recovering, Search, Verifying

TOLERANCE = 0.01
"""Share of refusals above the baseline that is ignored: the goal is at most one refused request in a hundred."""

OUTAGE_REPLIES = 8
"""Refusals needed to call it an outage: a few may all be refused by chance. After a cut, no minimum is needed."""

RATE_MARGIN = 2.0
"""A declared rate gets this many times the concurrency that it needs according to the first answers, which are the fast
ones; for the same reason they overstate a slot's throughput by this factor."""

LEAP = 4.0
"""Only a declared rate causes a step of more than this factor. Such a step is judged by fewer answers: a teacher may be
far below its rate, and a step that was too large says little about the right size."""

CLEAR_GROWTH = 0.2
"""Steps smaller than this are not judged by their gain in throughput, which would drown in chance."""

MIN_GAIN = 0.3
"""A step must raise throughput by at least this part of its growth: past the knee it raises only the waiting."""


def slots_for_rate(search: Search, new: Replies) -> int:
    """Concurrency for the declared rate, estimated from these first answers; 0 if no rate is declared."""
    rates = [search.requests_per_s] if search.requests_per_s else []
    if search.output_per_s and new.tokens:
        rates.append(search.output_per_s * new.served / new.tokens)
    return math.ceil(RATE_MARGIN * min(rates) * search.latency_s) if rates else 0


def is_carried(search: Search, now: float) -> bool:
    """True if a step was taken for a declared rate, and everything that the rate lets through is answered."""
    is_declared = search.requests_per_s > 0 or search.output_per_s > 0
    lasted = now >= search.sample.since + max(1.0, search.latency_s)
    is_above = isinstance(search.state, Climbing) and search.slots > search.sustained
    return is_declared and is_above and lasted and search.sample.served > 0 and not refuses_more(search)


def is_overloaded(search: Search) -> bool:
    """True if refusals exceed the baseline by more than chance explains (three standard deviations)."""
    recent = search.recent
    baseline = MAX_BASELINE if isinstance(search.state, Verifying) else search.baseline
    usual = max(baseline, TOLERANCE)
    # Refusals come at once: until the first answers, what is in flight may be one of them.
    replies = recent.replies if search.latency_s else max(recent.replies, search.slots)
    chance = 3 * math.sqrt(usual * (1 - usual) / max(1.0, replies))
    return recent.refused > 2 and recent.refused / replies > baseline + TOLERANCE + chance


def useless_slots(search: Search, now: float) -> float:
    """Slots that only get refusals: a refused request keeps its slot for as long as an answer would take."""
    is_known = search.latency_s and search.flow.refused >= OUTAGE_REPLIES and not isinstance(search.state, Recovering)
    return search.flow.refused_per_s(now) * search.latency_s if is_known else 0.0


def is_conclusive(search: Search, now: float) -> bool:
    """True if enough requests sent at this concurrency have been answered."""
    lasted = now >= search.sample.since + max(1.0, search.latency_s)
    return lasted and search.sample.served >= min(search.slots, LEAP * search.sustained) / 2


def refuses_more(search: Search) -> bool:
    """True if refusals exceed the baseline, give or take two standard deviations."""
    baseline, sample = search.baseline, search.sample
    chance = 2 * math.sqrt(baseline * (1 - baseline) / sample.replies)
    return sample.refused_share > baseline + TOLERANCE + chance


def knee_after(search: Search, now: float) -> Knee | None:
    """The knee after this step; None if throughput did not grow with concurrency since the last knee."""
    knee, growth = search.knee, search.slots / search.knee.slots - 1
    if growth <= CLEAR_GROWTH:
        return knee
    tokens_per_s = search.slots * search.sample.slot_throughput
    # after a large step, latencies are short until the teacher's queue is full
    if search.slots > LEAP * search.sustained:
        tokens_per_s = min(tokens_per_s, search.sample.throughput(now))
    return Knee(search.slots, tokens_per_s) if tokens_per_s >= (1 + MIN_GAIN * growth) * knee.tokens_per_s else None
