"""Settlements: the outcomes of a chunk's samples, in the form in which the guard counts them."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.retry import GiveUp, Settled
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.schemas.completion import Completion

HEAD_BYTES = 300
"""Bytes of a reply that are shown when it stops a run."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Outcome of a sample, as the guard counts it."""

    teacher: str
    endpoint: str
    prompt: Hashable
    """None for a record."""
    reason: str | None
    """Why it is rejected or a Failure; None for a record."""
    words: str = ""
    word: str = ""
    """The answer's own finish reason."""
    head: str = ""
    """The start of the reply."""
    settled: bool = True
    """False if the reply was useless and the sample is asked again."""
    ordinal: int = -1
    moves_on: bool = False
    """True if the sample may go to the next teacher of a chain."""


class Settlements:
    """The settlements of one chunk since they were last taken."""

    def __init__(self, samples: ChunkSamples) -> None:
        self._samples = samples
        self._noted: list[Settlement] = []
        self._records: dict[tuple[str, str], Settlement] = {}
        """The settlement of every record of a teacher and endpoint: they are alike."""

    def take(self) -> list[Settlement]:
        """Settlements added since the last call."""
        taken, self._noted = self._noted, []
        return taken

    def note(self, settlement: Settlement) -> None:
        """Keep it until it is taken."""
        self._noted.append(settlement)

    def note_useless(self, frame: Frame, outcome: Outcome, given_up: GiveUp) -> None:
        """The reply was useless, for this reason, and the sample is asked again."""
        self._noted.append(replace(self.of(frame, outcome, given_up), settled=False))

    def note_moving(self, frame: Frame, outcome: Outcome, given_up: GiveUp) -> None:
        """Record that the sample's teacher gave up on it, and the next one may be asked."""
        self._noted.append(replace(self.of(frame, outcome, given_up), moves_on=True))

    def drop(self, ordinal: int) -> None:
        """The sample is asked again after all."""
        self._noted = [each for each in self._noted if each.ordinal != ordinal]

    def of(self, frame: Frame, outcome: Outcome, decision: Settled | GiveUp, reason: str | None = None) -> Settlement:
        """The settlement of the sample whose last frame this is; `reason`: why the rules reject its answer."""
        teacher = self._samples.teacher(frame.ordinal, frame.teacher)
        name, prompt = teacher.teacher.name, self._samples.prompt(frame.ordinal)
        words = word = ""
        if isinstance(decision, GiveUp):
            reason, words = decision.kind, f"HTTP {decision.status}: {decision.message}"
        elif isinstance(outcome, Completion):
            word = outcome.finish_reason_raw or ""
            if reason is not None:
                words = f"finish_reason {word!r}"
        if reason is None:
            if (record := self._records.get((name, frame.endpoint))) is None:
                record = self._records[name, frame.endpoint] = Settlement(name, frame.endpoint, None, None)
            return record
        head = teacher.redact(" ".join(frame.body[:HEAD_BYTES].decode("utf-8", "replace").split()))
        return Settlement(name, frame.endpoint, prompt.key, reason, words, word, head, ordinal=frame.ordinal)
