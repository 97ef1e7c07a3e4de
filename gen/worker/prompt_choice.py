"""Which of the accepted answers to one prompt become records: selection, then equality. Pure; decided at the seal."""

from collections.abc import Mapping

from stillhouse.gen.checks.selection import Selected
from stillhouse.schemas.record import NOT_SELECTED, RejectReason


class PromptChoice:
    """Takes the accepted answers in the order of their samples."""

    def __init__(
        self, seen: Mapping[bytes, str], *, equal_once: bool, need: int | None, selected: Selected | None
    ) -> None:
        """Args:
        seen: by fingerprint, the record ids of the answers that earlier shards hold. Under `ask.accept` with a
            selection also those of this chunk: of equal ones, the id of the one that is kept or else of the first.
        equal_once: True if equal answers are kept once.
        need: accepted answers that the prompt lacks, under `ask.accept`; None if all samples are asked.
        selected: the recipe's choice; None if it makes none.
        """
        self._seen = dict(seen)
        self._equal_once = equal_once
        self._need = need
        self._selected = selected
        self._distinct = 0

    @property
    def accepted(self) -> int:
        """Answers so far that count towards `need`."""
        return self._distinct if self._need is None else min(self._need, self._distinct)

    def share(self, ordinal: int) -> float | None:
        """The answer's share of the votes; None if it did not vote, or there are no votes."""
        return None if self._selected is None else self._selected.shares.get(ordinal)

    def reject(self, ordinal: int, answer: bytes, record_id: str) -> tuple[RejectReason | None, str | None]:
        """Why the answer with this fingerprint is not a record, and the id of the equal answer that is kept instead."""
        same = self._seen.get(answer) if self._equal_once else None
        is_equal = same is not None and same != record_id
        if self._selected is not None and ordinal not in self._selected.kept:
            if is_equal and self._need is not None:  # equal answers count once, and later generations count reasons
                return "duplicate_answer", same
            self._distinct += 1
            return NOT_SELECTED, None
        if is_equal:
            return "duplicate_answer", same
        if self._selected is None and self._need is not None and self._distinct >= self._need:
            return NOT_SELECTED, None  # happens if rules or owners changed while it was asked
        self._seen[answer] = record_id
        self._distinct += 1
        return None, None
