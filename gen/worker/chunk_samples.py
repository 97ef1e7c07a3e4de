"""A chunk's samples by ordinal: the prompt and the teacher of each, and those that its generation may ask."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.schemas.prompt import Prompt


class TeacherOf(Protocol):
    """The teacher each sample is assigned to."""

    @property
    def teachers(self) -> Sequence[Interpreter]:
        """All of the recipe's, in its order."""
        ...

    def __call__(self, key: bytes, sample: int, /) -> Interpreter:
        """The teacher for the sample of the prompt with this key; always the same one."""
        ...


class ChunkSamples:
    """Ordinals are prompt x `per_prompt` + sample."""

    def __init__(self, chunk: Chunk, *, per_prompt: int, teacher_of: TeacherOf) -> None:
        self.chunk = chunk
        self.per_prompt = per_prompt
        """Ordinals per prompt."""
        self.teachers = teacher_of.teachers
        """All of the recipe's, in its order."""
        self._teacher_of = teacher_of

    def __len__(self) -> int:
        return len(self.chunk.prompts) * self.per_prompt

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.chunk.prompts[ordinal // self.per_prompt]

    def teacher(self, ordinal: int, place: int | None = None) -> Interpreter:
        """The teacher with this place in the recipe; without one, the one that the sample is assigned to."""
        if place is not None:
            return self.teachers[place]
        return self._teacher_of(self.prompt(ordinal).key, ordinal % self.per_prompt)

    def need(self, number: int) -> int:
        """Accepted answers that the prompt with this number lacks; under `ask.accept` only."""
        retried = self.chunk.retried.get(number)
        return self.chunk.accept if retried is None or retried.need is None else retried.need

    def of_prompt(self, number: int) -> Iterable[int]:
        """The samples that may be asked of the prompt with this number."""
        retried = self.chunk.retried.get(number)
        return range(self.per_prompt) if retried is None else sorted(retried.kinds)

    def excluded(self) -> Iterator[int]:
        """Ordinals that this chunk does not ask: another generation's samples of a prompt that is asked again."""
        for number, retried in self.chunk.retried.items():
            for sample in set(range(self.per_prompt)) - retried.kinds.keys():
                yield number * self.per_prompt + sample
