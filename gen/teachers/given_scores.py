"""The log-probabilities of tokens that were sent, checked against what was sent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.outcome import Malformed, Outcome
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Ids, Scored

_NUMBERS, _INTEGERS = frozenset({int, float}), frozenset({int})
_MOST = np.finfo(np.float32).max
_ROUNDING = 0.05
"""More than servers' own roundings of one log-probability differ."""
_NOT_INT32 = "an id is not an int32"


class Misaligned(ValueError):
    """The scores are not those of the tokens that were sent."""


class Values(NamedTuple):
    """Values from the wire for some positions; each field may cover other positions."""

    logprobs: Sequence[Any] = ()
    top_ids: Sequence[Any] = ()
    """The most likely tokens at all positions, one position after the other."""
    top_logprobs: Sequence[Any] = ()
    lengths: Sequence[int] = ()
    """How many of them each position has."""


def _packed(values: Values) -> tuple[npt.NDArray[Any], ...]:
    """Raises Misaligned."""
    # NumPy would make numbers of texts, truths and fractions.
    for each in (values.logprobs, values.top_logprobs):
        _check(each, _NUMBERS, "a number as each log-probability")
    _check(values.top_ids, _INTEGERS, "an integer as each id")
    try:
        return tuple(
            np.array(each, kind)
            for each, kind in zip(values, (np.float64, np.int64, np.float64, np.int32), strict=True)
        )
    except OverflowError:
        raise Misaligned(_NOT_INT32) from None


def _check(values: Sequence[Any], types: frozenset[type], expected: str) -> None:
    if not {*map(type, values)} <= types:
        odd = next(value for value in values if type(value) not in types)
        raise Misaligned(f"expected {expected}, got {dumped(odd)[:80].decode('utf-8', 'replace')}")


@dataclass(frozen=True, slots=True, eq=False)
class GivenScores:
    """Scores of the tokens of one completion, which are known."""

    logprobs: npt.NDArray[np.float32]
    """[T]"""
    top_ids: Ids
    """The most likely tokens at all positions, one position after the other, in the server's order."""
    top_logprobs: npt.NDArray[np.float32]
    ends: Ids
    """[T + 1]: where the alternatives of each position begin, and where the last ones end."""

    @classmethod
    def of(cls, parts: Iterable[Values]) -> "GivenScores":
        """Check and pack values from the wire. They may come in parts, so that one part's objects are freed before the
        next part is read.

        Raises:
            Misaligned: a value is not a number, or not an id.
        """
        packed = [_packed(part) for part in parts]
        logprobs, ids, top_logprobs, lengths = (np.concatenate(each) for each in zip(*packed, strict=True))
        if any(not ((values >= -_MOST) & (values <= 1e-3)).all() for values in (logprobs, top_logprobs)):
            raise Misaligned("a score is not a log-probability: it is above 0, or too low for a float32")
        if len(ids) and (ids.min() < 0 or ids.max() >= 2**31):
            raise Misaligned(_NOT_INT32)
        ends = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
        return cls(logprobs.astype(np.float32), ids.astype(np.int32), top_logprobs.astype(np.float32), ends)

    @property
    def least_top(self) -> int:
        """The smallest number of alternatives at any position."""
        return int(np.diff(self.ends).min()) if len(self.logprobs) else 0

    def agree_with(self, scored: Scored) -> bool:
        """True if the tokens that were sent have the same log-probabilities where they are among the most likely: those
        of other positions would not."""
        there = np.flatnonzero(self.top_ids == np.repeat(scored.completion_ids, np.diff(self.ends)))
        positions = np.searchsorted(self.ends, there, side="right") - 1
        return bool((np.abs(self.top_logprobs[there] - self.logprobs[positions]) <= _ROUNDING).all())

    def rows(self) -> None:
        """There are no texts."""


class ScoresReply:
    """The scores in a reply, before it is known which tokens were sent."""

    def aligned(self, scored: Scored) -> GivenScores:
        """The scores of these tokens.

        Raises:
            Misaligned: the reply scores other tokens, or has an unexpected shape.
        """
        raise NotImplementedError

    def rows(self) -> None:
        """There are no texts."""


def aligned(outcome: Outcome, scored: Scored) -> Outcome:
    """The completion with the scores of the tokens that were sent; Malformed if the reply scores others."""
    if not isinstance(outcome, Completion):
        return outcome
    assert isinstance(outcome.scores, ScoresReply), "an answer came although scores were requested"
    try:
        return outcome._replace(scores=outcome.scores.aligned(scored))
    except Misaligned as error:
        words = f"the scores are not those of the tokens that were sent: {error}"
        # The same fault counts as the same reply, whose numbers may differ in their last digits.
        return Malformed(words, 200, outcome.usage, shape=str(error))
