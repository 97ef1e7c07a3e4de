"""Checks that a chunk keeps the answers that the recipe's `select` chooses, by the shares and scores in its rows."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stillhouse.gen.checks.selection import rank
from stillhouse.gen.dataset.series import Series, SeriesKey
from stillhouse.schemas.columns import CHECKS, VOTE_SHARE
from stillhouse.schemas.record import NOT_SELECTED
from stillhouse.schemas.select import BestOf, Majority, Select

_NEAR = 1e-3
"""Tolerance for votes: shares are stored as float32."""


@dataclass(slots=True)
class _Answers:
    """The answers of one series: (share or score, sample) of each."""

    kept: list[tuple[float | None, int]] = field(default_factory=list)
    equal: list[tuple[float | None, int]] = field(default_factory=list)
    """Answers rejected because an equal one is kept."""
    left: list[tuple[float | None, int]] = field(default_factory=list)
    """Accepted answers that were not selected."""
    rejected: int = 0
    """Number of answers rejected for other reasons."""

    @property
    def count(self) -> int:
        """Answers."""
        return len(self.kept) + len(self.equal) + len(self.left) + self.rejected


class SelectionTally:
    """Collects rows of data/ and rejected/; call `against` at the end."""

    def __init__(self, select: Select, series: Series) -> None:
        self._rule = select.rule
        self._series = series
        self._answers: defaultdict[SeriesKey, _Answers] = defaultdict(_Answers)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return ("prompt_key", "teacher", "sample", CHECKS if isinstance(self._rule, BestOf) else VOTE_SHARE)

    def take(self, kind: str, batch: pa.RecordBatch) -> None:
        """Add rows from a file of this kind (`data` or `rejected`)."""
        reasons = batch["reject_reason"].to_pylist() if kind == "rejected" else [None] * len(batch)
        values = zip(*(batch[name].to_pylist() for name in self.columns), reasons, strict=True)
        for key, teacher, sample, value, reason in values:
            if sample is None:  # a duplicate prompt
                continue
            try:
                answers = self._answers[self._series.key(bytes.fromhex(key), teacher)]
            except ValueError:  # reported elsewhere
                continue
            placed = self._value(value), sample
            match reason:
                case None:
                    answers.kept.append(placed)
                case "duplicate_answer":
                    answers.equal.append(placed)
                case _ if reason == NOT_SELECTED:
                    answers.left.append(placed)
                case _:
                    answers.rejected += 1

    def _value(self, value: Any) -> float | None:
        if isinstance(self._rule, Majority):
            return None if value is None else float(value)
        verdict = (value or {}).get(self._rule.check)
        return None if verdict is None else verdict["score"]

    def against(self, *, again: Collection[SeriesKey], accept: bool) -> Iterator[str]:
        """Report prompts that keep other answers than `select` chooses.

        Args:
            again: series that an earlier generation asked: its choice stands, and is unknown here.
            accept: True if equal answers count once, selected or not.
        """
        wrong = 0
        for key, answers in self._answers.items():
            if isinstance(self._rule, Majority):
                wrong += not (_is_joined(answers) if key in again else _is_majority(answers))
            elif len(answers.kept) > self._rule.keep:
                wrong += 1
            elif key not in again:
                wrong += not _is_best(answers, keep=self._rule.keep, accept=accept)
        if wrong:
            name = "majority" if isinstance(self._rule, Majority) else "best_of"
            yield f"{wrong} prompts keep other answers than select.{name} chooses"


def _is_joined(answers: _Answers) -> bool:
    return all(share is not None and 0 < share <= 1 for share, _ in answers.kept)


def _is_majority(answers: _Answers) -> bool:
    """True if the largest class is kept completely, and the share states its size."""
    others = [(share, sample) for share, sample in answers.left if share is not None]
    if not answers.kept:
        return not others
    shares = {share for share, _ in (*answers.kept, *answers.equal)}
    (share, *more) = shares
    if more or share is None or abs(share * answers.count - len(answers.kept) - len(answers.equal)) > _NEAR:
        return False
    first = min(sample for _, sample in answers.kept)
    return all(other < share or (other == share and sample > first) for other, sample in others)


def _is_best(answers: _Answers, *, keep: int, accept: bool) -> bool:
    """True if no answer that was left out ranks before a kept one, and none was left out while there was a free
    place."""
    if not answers.left:
        return True
    selected = len(answers.kept) + (0 if accept else len(answers.equal))
    if not answers.kept or (not accept and selected != keep):
        return False
    return max(rank(*each) for each in answers.kept) < min(rank(*each) for each in answers.left)
