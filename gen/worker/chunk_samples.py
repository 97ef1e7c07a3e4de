"""A chunk's samples by ordinal: the prompt and the teacher of each."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.teachers.assigner import ONLINE
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.reading import Read, read
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.prompt import Prompt


class TeacherOf(Protocol):
    """Assigns each sample to a teacher."""

    @property
    def teachers(self) -> Sequence[Interpreter]:
        """All teachers of the recipe, in order."""
        ...

    @property
    def is_chain(self) -> bool:
        """True if each teacher replaces the one before it."""
        ...

    def at(self, place: int, /) -> Interpreter:
        """The teacher at this position, also where `ONLINE` is added to it."""
        ...

    def __call__(self, key: bytes, sample: int, /) -> Interpreter:
        """The teacher for the sample of the prompt with this key; always the same one."""
        ...


class ChunkSamples:
    """Ordinals are series x `per_series` + sample; see `Chunk.series`."""

    def __init__(self, chunk: Chunk, *, per_series: int, teacher_of: TeacherOf) -> None:
        self.chunk = chunk
        self.per_series = per_series
        """Ordinals per series."""
        self.teachers = teacher_of.teachers
        """All teachers of the recipe, in order."""
        self.is_chain = teacher_of.is_chain
        """True if each teacher replaces the one before it (`route: fallback`)."""
        self._teacher_of = teacher_of
        self._per_prompt = per_series * chunk.series.per_prompt  # called several times per answer

    def __len__(self) -> int:
        return self.chunk.series_count * self.per_series

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.chunk.prompts[ordinal // self._per_prompt]

    def teacher(self, ordinal: int, place: int | None = None) -> Interpreter:
        """The teacher with this position in the recipe; by default the one that the sample is assigned to."""
        if place is not None:
            return self._teacher_of.at(place)
        if self.chunk.series.teachers:
            return self._teacher_of.at(self.chunk.key_of(ordinal // self.per_series).teacher)
        return self._teacher_of(self.prompt(ordinal).key, ordinal % self.per_series)

    def read(self, ordinal: int, reply: Reply, *, place: int | None) -> Read:
        """What a reply to the sample says; `place`: the position of the teacher that sent it."""
        return read(self.teacher(ordinal, place), reply, self.prompt(ordinal).scored)

    def knows(self, place: int) -> bool:
        """True if the recipe has a teacher at this position."""
        return place % ONLINE < len(self.teachers)

    def has_next(self, place: int) -> bool:
        """True if another teacher follows the one with this position (`route: fallback`)."""
        return self.is_chain and place + 1 < len(self.teachers)

    def excluded(self) -> Iterator[int]:
        """Ordinals that this chunk does not ask: another generation's samples of a prompt that is asked again."""
        if self.chunk.retried:
            for number in range(self.chunk.series_count):
                for sample in set(range(self.per_series)).difference(self.chunk.samples_of(number)):
                    yield number * self.per_series + sample
