"""What one judge is asked about a chunk's answers.

A question follows from the prompt, its row, the answer and the answer that it is compared with, so most are rendered
again whenever they are needed.
"""

from functools import partial

from stillhouse.gen.checks.judge import Judged
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.gen.worker.chunk_state import ChunkState
from stillhouse.gen.worker.judge_of import JudgeOf
from stillhouse.gen.worker.references import row_of
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt

_MAX_KEPT_CHARS = 2**20
"""Text of the questions kept until they are asked, so that their templates need not be rendered again; more would hold
a whole chunk in memory."""
MAX_JUDGED_CHARS = 4_000_000
"""No judge reads more: this is about a million tokens."""


class Questions:
    """By ordinal of the judged answer."""

    def __init__(self, judge: JudgeOf, samples: ChunkSamples, state: ChunkState, journal: JournalFile) -> None:
        self._judge = judge
        self._samples = samples
        self._state = state
        self._journal = journal
        names = [each.teacher.name for each in samples.teachers]
        self._rival = None if judge.rival_teacher is None else names.index(judge.rival_teacher)
        """The position of the teacher whose answers others are compared with."""
        self._kept: dict[int, Prompt | NoPrompt] = {}
        """The questions being asked, and the first of those that wait to be asked; or why there is none."""
        self._kept_chars = 0

    def awaited_by(self, ordinal: int) -> int | None:
        """The sample with whose answer it will be compared, while that answer is still missing; else None."""
        rival = self._rival_of(ordinal)
        return None if rival in (None, ordinal) or self._state.is_settled(rival) else rival

    def find(self, ordinal: int) -> Prompt | None:
        """The question about the answer; None if others are compared with it.

        Raises:
            NoPrompt: there is nothing to ask.
        """
        if (kept := self._kept.get(ordinal)) is not None:
            if isinstance(kept, NoPrompt):
                raise NoPrompt(str(kept))
            return kept
        prompt, rival = self._samples.prompt(ordinal), None
        row = row_of(self._judge.references, prompt)
        if self._judge.rival_column is not None:
            rival = str(row.get(self._judge.rival_column, ""))
            if not rival:
                raise NoPrompt(f"column {self._judge.rival_column!r} has nothing to compare the answer with")
        elif (other := self._rival_of(ordinal)) is not None:
            if other == ordinal:
                return None
            if (rival := self._answer_at(other)) is None:
                raise NoPrompt(f"{self._judge.rival_teacher} gave no answer to compare it with")
        asked = next((message[1] for message in reversed(prompt.messages) if message[0] == "user"), "")
        answer = self._state.answers.completion(ordinal).text or ""
        if (chars := max(len(answer), len(rival or ""))) > MAX_JUDGED_CHARS:
            raise NoPrompt(f"expected at most {MAX_JUDGED_CHARS:,} characters to judge, got {chars:,}")
        return self._judge.rubric.question(Judged(self.record_id(ordinal), asked, row, answer, rival))

    def of(self, ordinal: int) -> Prompt:
        """The question about an answer that is being judged."""
        found = self.find(ordinal)
        assert found is not None, f"{self._samples.chunk.id}: sample {ordinal} is judged without a question"
        return found

    def is_slow(self, ordinal: int) -> bool:
        """True if `find` would read a large answer again; then await `prepare` before it."""
        return ordinal not in self._kept and any(
            each is not None and self._state.answers.is_large(each) for each in (ordinal, self._rival_of(ordinal))
        )

    async def prepare(self, ordinal: int) -> None:
        """Render the question in a thread, and keep it until it is forgotten.

        Raises:
            StoreAway: the journal can't be read.
        """
        try:
            question: Prompt | NoPrompt | None = await reply_threads.read(partial(self.find, ordinal))
        except NoPrompt as why:
            question = NoPrompt(str(why))  # without its traceback, whose frames hold the answer
        if question is not None:
            self.keep(ordinal, question)

    def keep(self, ordinal: int, question: Prompt | NoPrompt) -> None:
        """Keep the question until it is forgotten."""
        if ordinal not in self._kept:
            self._kept[ordinal] = question
            self._kept_chars += _chars(question)

    @property
    def has_room(self) -> bool:
        """True if questions may be kept before they are asked."""
        return self._kept_chars < _MAX_KEPT_CHARS

    def forget(self, ordinal: int) -> None:
        """The answer was judged."""
        if (question := self._kept.pop(ordinal, None)) is not None:
            self._kept_chars -= _chars(question)

    def record_id(self, ordinal: int) -> str:
        """The id of the answer's record."""
        if isinstance(question := self._kept.get(ordinal), Prompt):
            return question.id
        ids = self._state.teacher(ordinal).ids
        return ids.of(self._samples.prompt(ordinal).key, ordinal % self._samples.per_series)

    def _rival_of(self, ordinal: int) -> int | None:
        """The sample of the teacher that this answer is compared with; its own number if it is that answer."""
        if self._rival is None:
            return None
        number, sample = divmod(ordinal, self._samples.per_series)
        first = number - number % self._samples.chunk.series.per_prompt
        return (first + self._rival) * self._samples.per_series + sample

    def _answer_at(self, ordinal: int) -> str | None:
        place = self._state.answers.places[ordinal]
        if place is None or not self._state.is_settled(ordinal):
            return None
        outcome = self._state.answers.outcome(ordinal, self._journal.read(*place))
        return outcome.text if isinstance(outcome, Completion) else None


def _chars(question: Prompt | NoPrompt) -> int:
    return question.chars if isinstance(question, Prompt) else 0
