"""What replies must show before a search moves, with the reason for each threshold. Pure: times are arguments."""

import math

from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.search import Climbing, Knee, Recovering, Search, Verifying

TOLERANCE = 0.01
"""Share of refusals above the baseline that is ignored: the goal is at most one refused request in a hundred."""

ALARM, ALARM_PER_BASELINE = 1.75, 60.0
"""Score of a spell that is taken for overload: two refusals in a short time. A teacher that refuses some at any load
scores more by chance."""

BUNCH_S = 0.1
"""Seconds' worth of requests that may be sent at once: after a pause, or with a new lease."""

FEW_SENT = 10
"""Fewer requests say nothing about the share that is refused."""

OUTAGE = 0.9
"""Part of what is in flight at first that is refused in an outage."""

OUTAGE_ANSWERS, OUTAGE_ANSWERS_PER_SLOT = 8.0, 1.5
"""Missing answers that mean an outage; fewer where there are few slots."""

QUIET_S, QUIET_AFTER_CUT_S = 0.09, 0.4
"""Minimum time without an answer in an outage: workers report their answers some at a time."""

OUTAGE_REFUSALS = 8
"""Refusals needed to call it an outage: a few may all be refused by chance. After a cut, no minimum is needed."""

ANSWERS, ANSWERS_PER_SLOT = 48, 3
"""Answers that show the mean latency and the share of refusals well enough; fewer where there are few slots."""

EXPECTED_REFUSALS = 4
"""After a cut, as many replies are waited for as would contain this many refusals if their share were the same."""

SMALL_STEP_S = 5.0
"""A small step is judged after this time: an allowance for bursts hides it for long."""

RATE_MARGIN = 2.0
"""A declared rate gets this many times the concurrency that it needs according to the first answers, which are the fast
ones; for the same reason they overstate a slot's throughput by this factor."""

LEAP = 4.0
"""Only a declared rate causes a step of more than this factor. Such a step is judged by fewer answers: a teacher may be
far below its rate, and a step that was too large says little about the right size."""

CLEAR_GROWTH = 0.2
"""Steps smaller than this are not judged by their gain in throughput, which would drown in chance."""

MIN_GAIN = 0.2
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


def sent_per_s(search: Search, now: float) -> float:
    """Requests per second that are sent if every slot is used: a refused one keeps its slot as long as an answer."""
    return search.slots_at(now) / search.latency_s if search.latency_s else 0.0


def tolerated_per_s(search: Search, now: float) -> float:
    """Refusals per second that don't add to a spell: clearly more than the teacher refuses at any load."""
    return 2 * (_baseline(search) + TOLERANCE) * sent_per_s(search, now)


def is_overloaded(search: Search, now: float) -> bool:
    """True if a spell of refusals has more of them than chance explains."""
    alarm = ALARM + ALARM_PER_BASELINE * _baseline(search)
    return search.spell.score >= alarm + BUNCH_S * tolerated_per_s(search, now)


def _baseline(search: Search) -> float:
    """The baseline, or after a cut what it may be: so there is time to measure it."""
    possible = search.state.possible_baseline if isinstance(search.state, Verifying) else 0.0
    return max(search.baseline, possible)


def mean_slots(search: Search, now: float) -> float:
    """Mean concurrency since the last overload: an allowance that was used up then and is used up now grew by as much
    as was sent, or by more. 0 before the first."""
    lasted_s = now - search.overloaded_at
    return search.slot_s / lasted_s if lasted_s > 0.0 else 0.0


def spell_share(search: Search, now: float) -> float:
    """Share of refusals during the spell."""
    spell = search.spell
    # Refusals come at once: until the first answers, what is in flight may be one of them.
    sent = (now - spell.since + BUNCH_S) * sent_per_s(search, now) if search.latency_s else search.slots
    return min(1.0, spell.refused / max(FEW_SENT, sent))


def share_since_cut(search: Search, now: float) -> float:
    """Share of refusals since the last cut; at first they come sooner than answers, so those in flight count too."""
    in_flight = search.slots_at(now) if search.overloaded_at == math.inf else 0
    return search.since_cut.refused / max(FEW_SENT, search.since_cut.replies + in_flight)


def is_outage(search: Search, now: float) -> bool:
    """True if nothing is answered any more: a limit lets some through."""
    refused = search.spell.refused
    if not search.latency_s:
        return refused >= OUTAGE * search.slots_at(now)
    quiet_s = now - search.served_at
    missing = quiet_s * sent_per_s(search, now)
    if missing < min(OUTAGE_ANSWERS, OUTAGE_ANSWERS_PER_SLOT * search.slots):
        return False
    if isinstance(search.state, (Recovering, Verifying)):
        return quiet_s >= QUIET_AFTER_CUT_S
    return quiet_s >= QUIET_S and refused >= OUTAGE_REFUSALS


def is_small_step(search: Search) -> bool:
    """True if a step is tried that is too small to be judged by its gain."""
    return search.sustained < search.slots <= (1 + CLEAR_GROWTH) * search.sustained


def is_conclusive(search: Search, now: float) -> bool:
    """True if enough requests sent at this concurrency have been answered."""
    lasted = now >= search.sample.since + max(SMALL_STEP_S if is_small_step(search) else 1.0, search.latency_s)
    least: float = min(ANSWERS, ANSWERS_PER_SLOT * search.slots)
    if isinstance(search.state, Verifying):
        least = max(ANSWERS, EXPECTED_REFUSALS / max(3 * TOLERANCE, search.state.refused_share))
        return lasted and search.since_cut.served >= least
    return lasted and search.sample.served >= max(least, min(search.slots, LEAP * search.sustained) / 2)


def refuses_more(search: Search) -> bool:
    """True if refusals exceed the baseline by more than one and two standard deviations."""
    baseline, sample = search.baseline, search.sample
    chance = 2 * math.sqrt(baseline * (1 - baseline) * sample.replies)
    return sample.refused > 1 + (baseline + TOLERANCE) * sample.replies + chance


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
