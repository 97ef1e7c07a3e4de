"""A chunk's settled answers: where each is in the journal, and what it says.

The parsed answers of a few megabytes of replies are kept, so that the seal need not read them again.
"""

from stillhouse.gen.journal.file import JournalFile, Place
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.reading import Read
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.schemas.completion import Completion

REMEMBERED_BYTES = 4 * 2**20
"""Maximum bytes of a chunk's replies whose parsed answers are kept, and of the texts of others, whose log-probabilities
are not."""


class Answers:
    """The answers to a chunk's samples, by ordinal."""

    def __init__(self, samples: ChunkSamples, journal: JournalFile) -> None:
        self.places: list[Place | None] = [None] * len(samples)
        """Position of each settled answer; for a Failure, of its last reply."""
        self.remembered_bytes = 0
        """Bytes of the replies whose answers are kept."""
        self._samples = samples
        self._journal = journal
        self._outcomes: dict[int, Outcome] = {}
        self._texts: dict[int, Completion] = {}
        """Answers without their log-probabilities. Checks and judges need no more, and they ask on the event loop."""
        self._text_bytes = 0

    def remember(self, ordinal: int, outcome: Outcome, *, place: Place, size: int) -> None:
        """Keep the outcome of a reply of this size, if it is the sample's answer and there is room."""
        if self.places[ordinal] is place and self.remembered_bytes + size <= REMEMBERED_BYTES:
            self._outcomes[ordinal] = outcome
            self.remembered_bytes += size
        elif self.places[ordinal] is place and isinstance(outcome, Completion):
            if outcome.scores is None and place[1] < LARGE_BYTES:
                return  # it is little more than its texts
            texts = (outcome.text, outcome.reasoning, outcome.tool_calls, outcome.refusal, outcome.reasoning_signatures)
            size = sum(len(text) for text in texts if text is not None)
            if self._text_bytes + size <= REMEMBERED_BYTES:
                self._texts[ordinal] = outcome._replace(scores=None)
                self._text_bytes += size

    def outcome(self, ordinal: int, frame: Frame) -> Outcome:
        """The content of the sample's settled answer, which is in this frame."""
        return self._outcomes.get(ordinal) or self.read(frame)[0]

    def is_large(self, ordinal: int) -> bool:
        """True if the sample's answer has to be read again, and would hold up the event loop."""
        place = self.places[ordinal]
        return place is not None and place[1] >= LARGE_BYTES and not self._kept(ordinal)

    def _kept(self, ordinal: int) -> Outcome | None:
        return self._outcomes.get(ordinal) or self._texts.get(ordinal)

    def completion(self, ordinal: int) -> Completion:
        """The sample's answer, which the rules accept; it may lack its log-probabilities.

        Raises:
            StoreAway: the journal can't be read.
        """
        outcome = self._kept(ordinal)
        if outcome is None:
            place = self.places[ordinal]
            assert place is not None, f"{self._samples.chunk.id}: sample {ordinal} is judged without an answer"
            outcome, _ = self.read(self._journal.read(*place))
        assert isinstance(outcome, Completion), f"{self._samples.chunk.id}: sample {ordinal} is judged as {outcome}"
        return outcome

    def read(self, frame: Frame) -> Read:
        """Read the reply in the frame with the teacher that the frame names."""
        reply = Reply(frame.status, dict(frame.headers), frame.body, frame.latency_s)
        return self._samples.read(frame.ordinal, reply, place=frame.teacher)
