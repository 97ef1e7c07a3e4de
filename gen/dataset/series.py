"""Series: the samples of a prompt that are counted together, for `ask.accept` and as equal answers.

A prompt has one series; under `route: each`, it has one per teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.identity import each_teacher


class SeriesKey(NamedTuple):
    """Identifies a series in its dataset."""

    prompt: bytes
    """The prompt's key."""
    teacher: int = 0
    """Under `route: each`, the teacher's position in the recipe; otherwise 0."""


@dataclass(frozen=True, slots=True)
class Series:
    """How the prompts of a dataset are divided into series."""

    teachers: tuple[str, ...] = ()
    """Under `route: each`, the teachers in the recipe's order; otherwise empty."""

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Self:
        """The series of a dataset with this identity."""
        return cls(each_teacher(identity))

    @property
    def per_prompt(self) -> int:
        """Number of series per prompt."""
        return len(self.teachers) or 1

    def key(self, prompt: bytes, teacher: str | None) -> SeriesKey:
        """The series of a stored row, by its prompt's key and its teacher.

        Raises:
            ValueError: under `route: each`, the dataset has no such teacher.
        """
        if not self.teachers:
            return SeriesKey(prompt)
        if teacher not in self.teachers:
            raise ValueError(f"expected a teacher of {', '.join(self.teachers)}, got {teacher!r}")
        return SeriesKey(prompt, self.teachers.index(teacher))

    def keys(self, prompt: bytes) -> list[SeriesKey]:
        """All series of a prompt, in order."""
        return [SeriesKey(prompt, place) for place in range(self.per_prompt)]

    def indexed(self, key: bytes, teacher: int | None) -> SeriesKey:
        """The series of a row of the index, by its columns `key` and `teacher`."""
        return SeriesKey(key, teacher or 0)

    def in_index(self, key: SeriesKey) -> int | None:
        """The value of the index's column `teacher`; null if each prompt has only one series."""
        return key.teacher if self.teachers else None


ONE_SERIES = Series()
"""For a dataset whose prompts have one series each."""


def read_series(store: ReadableStore) -> Series:
    """The division of the dataset at the store's root.

    Raises:
        DatasetError: its recipe is damaged or from a newer version.
    """
    bound = read_binding(store)
    return ONE_SERIES if bound is None else Series.of(bound.identity)
