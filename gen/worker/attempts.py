"""What has been tried for each sample of a chunk.

Nearly all samples were asked once and need only a byte; the others have an entry.
"""

from collections.abc import Iterable

from stillhouse.gen.teachers.retry import Tries

_UNTRIED = Tries()
_ONCE = Tries(attempts=1)
"""For samples without an entry of their own; never changed."""


class Attempts:
    """Attempts at a chunk's samples, by ordinal."""

    def __init__(self, count: int, *, asked: Iterable[int] = ()) -> None:
        """`asked`: samples that another chunk has asked."""
        self._once = bytearray(count)
        """1 for samples that were asked once and have no entry."""
        for ordinal in asked:
            self._once[ordinal] = 1
        self._tries: dict[int, Tries] = {}
        """Entries of samples with more to remember than one attempt."""

    def of(self, ordinal: int) -> Tries:
        """What has been tried; must not be changed."""
        if (tries := self._tries.get(ordinal)) is not None:
            return tries
        return _ONCE if self._once[ordinal] else _UNTRIED

    def entry(self, ordinal: int) -> Tries:
        """The sample's own entry, which may be changed."""
        if (tries := self._tries.get(ordinal)) is None:
            tries = self._tries[ordinal] = Tries(attempts=self._once[ordinal])
            self._once[ordinal] = 0
        return tries

    def sent(self, ordinal: int) -> None:
        """Count an attempt."""
        if self._once[ordinal] or ordinal in self._tries:
            self.entry(ordinal).attempts += 1
        else:
            self._once[ordinal] = 1

    def is_first(self, ordinal: int) -> bool:
        """True if the sample was asked once, and no attempt counts as failed."""
        return self._once[ordinal] == 1

    def moved_on(self, ordinal: int) -> None:
        """The next teacher is asked: of the last one, only the cost is kept."""
        if self._once[ordinal] or ordinal in self._tries:
            self._tries[ordinal] = self.entry(ordinal).at_next_teacher()

    def forget(self, ordinal: int) -> None:
        """Start over: the sample is asked as if it had never been asked."""
        self._once[ordinal] = 0
        self._tries[ordinal] = Tries()

    def compact(self, ordinal: int) -> None:
        """Drop the entry of a settled sample if there is nothing to keep but that it was asked once."""
        if self._tries.get(ordinal) == _ONCE:
            del self._tries[ordinal]
            self._once[ordinal] = 1
