"""Which of the accepted answers to one prompt are kept: pure, and the same for whoever decides it again.

An earlier generation's choice stands. What comes later joins the answers that won, or fills the places left, and
displaces nothing: shards never change.
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
    """Of the votes: those for an answer's class over all samples that were answered; without those that cast none."""


def rank(score: float | None, sample: int) -> tuple[bool, float, int]:
    """Where an answer stands by its score, the lowest first; one without a score comes last."""
    if score is None or math.isnan(score):
        return True, 0.0, sample
    return False, -score, sample


def by_score(scores: Mapping[int, float | None], *, places: int) -> Selected:
    """The answers with the highest scores, as many as there are places; of equal scores the lower sample wins."""
    best = sorted(scores, key=lambda ordinal: rank(scores[ordinal], ordinal))
    return Selected(frozenset(best[: max(0, places)]))


def by_vote(classes: Mapping[int, str], *, answered: int) -> Selected:
    """All answers of the largest class; of equally large ones, of that which has the lowest sample.

    Args:
        classes: by ordinal, the class of each answer that casts a vote.
        answered: samples that were answered, whatever became of their answers.
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
