"""Which accepted answers to one prompt are kept. Pure, so that anyone who decides it again gets the same result.

An earlier generation's choice stands. Later answers join those that won, or fill free places, and displace nothing:
shards never change.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Selected:
    """A choice among the answers to one prompt, by ordinal."""

    kept: frozenset[int]
    shares: Mapping[int, float] = field(default_factory=dict)
    """The votes for an answer's class, divided by all answered samples; answers without a vote are missing."""


def rank(score: float | None, sample: int) -> tuple[bool, float, int]:
    """An answer's rank by its score, best first; answers without a score come last."""
    if score is None or math.isnan(score):
        return True, 0.0, sample
    return False, -score, sample


def by_score(scores: Mapping[int, float | None], *, places: int) -> Selected:
    """The answers with the highest scores, as many as there are places; of equal scores, the lower sample wins."""
    best = sorted(scores, key=lambda ordinal: rank(scores[ordinal], ordinal))
    return Selected(frozenset(best[: max(0, places)]))


def by_vote(classes: Mapping[int, str], *, answered: int) -> Selected:
    """All answers of the largest class; of several largest ones, the one with the lowest sample.

    Args:
        classes: by ordinal, the class of each answer that votes.
        answered: number of samples that were answered, accepted or not.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for ordinal, name in classes.items():
        members[name].append(ordinal)
    if not members:
        return Selected(frozenset())
    largest = max(members.values(), key=lambda ordinals: (len(ordinals), -min(ordinals)))
    shares = {ordinal: len(ordinals) / answered for ordinals in members.values() for ordinal in ordinals}
    return Selected(frozenset(largest), shares)


def joining(classes: Mapping[int, str], won: str, *, share: float | None) -> Selected:
    """The answers of the class that won an earlier vote, with that vote's share."""
    kept = frozenset(ordinal for ordinal, name in classes.items() if name == won)
    return Selected(kept, {} if share is None else dict.fromkeys(kept, share))
