"""A hearing: which of a chunk's answers one judge still has to judge, and its verdicts. A fold over its frames, like
`ChunkState`.

Its frames have the check's `stage`. SENT holds the key of the question, so a reply in a journal stays valid as long as
the question is the same, whoever recovers the chunk: no verdict is paid for twice. Equal answers to one prompt share a
verdict.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from stillhouse.gen.checks.base import CheckResult, Unchecked, Verdict
from stillhouse.gen.checks.judge import MAX_NONSENSE
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.teachers.billing import bill
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, NoConnection, Outcome
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.reading import read
from stillhouse.gen.teachers.retry import SETTLED, Again, Blame, Decision, GiveUp, Settled, Tries, decide, note
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.gen.worker.chunk_state import ChunkState
from stillhouse.gen.worker.judge_of import JudgeOf
from stillhouse.gen.worker.questions import Questions
from stillhouse.gen.worker.replies import (
    Journalled,
    Received,
    outcome_without_reply,
    received_of,
    reply_frame,
    unanswered_frame,
)
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt

_HEAD_CHARS = 80
_ENDS = (Kind.ANSWERED, Kind.LOST, Kind.NOT_SENT, Kind.DIED, Kind.CUT, Kind.SENT)
"""The most informative frames of an attempt come first."""

Done: TypeAlias = Callable[[Verdict], None]
Key: TypeAlias = tuple[bytes, bytes]
"""The keys of the prompt and of the question."""


class Hearing:
    """One judge's hearing of one chunk, by ordinal of the judged answer."""

    def __init__(self, judge: JudgeOf, samples: ChunkSamples, state: ChunkState, journal: JournalFile) -> None:
        self.judge = judge
        self._samples = samples
        self._state = state
        self._journal = journal
        self._questions = Questions(judge, samples, state, journal)
        self._tries: dict[int, Tries] = {}
        self._known: dict[Key, CheckResult] = {}
        """Verdicts by the keys of the prompt and of the question."""
        self._unchecked: dict[Key, Unchecked] = {}
        """Questions that a batch's results settled without a verdict before they were asked here, by the same keys."""
        self._heard: set[int] = set()
        """Answers whose verdict is known, or was given up on, and that were not asked about again since."""
        self._read_before: set[tuple[int, float]] = set()
        """(ordinal, at) of attempts whose end earlier owners left."""
        self._waiting: dict[int, list[Done]] = {}
        """Answers whose verdict is being asked for."""
        self._keys: dict[int, Key] = {}
        """Keys of the questions being asked, by ordinal of the answer."""
        self._asking: dict[Key, int] = {}
        """The answer for which the judge is asked, by key of the question."""
        self._replied: dict[int, Verdict] = {}
        """The contents of replies, between `read` and `answered`."""
        self._in_flight: set[int] = set()
        self._closing: GiveUp | None = None

    # --- what to judge

    def awaited_by(self, ordinal: int) -> int | None:
        """The sample with whose answer it will be compared, while that answer is still missing; else None."""
        return None if self._closing is not None else self._questions.awaited_by(ordinal)

    def ask(self, ordinal: int, done: Done) -> bool:
        """Have the answer judged; True if its judge must be asked now, and False if `done` has or will have the
        verdict.
        """
        try:
            question = self._questions.find(ordinal)
        except NoPrompt as error:
            done(Unchecked(str(error)))
            return False
        finally:
            self._questions.forget(ordinal)  # it may have been prepared
        if question is None:  # the answer that others are compared with
            done(CheckResult(True, None, "others are compared with it"))
            return False
        key = (self._samples.prompt(ordinal).key, question.key)
        if (verdict := self._known.get(key) or self._unchecked.get(key)) is not None:
            self._heard.add(ordinal)
            done(verdict)
            return False
        if self._closing is not None:
            done(Unchecked(self._closing.message))
            return False
        if (asked_for := self._asking.get(key)) is not None:
            self._waiting[asked_for].append(done)
            return False
        self._heard.discard(ordinal)
        self._waiting[ordinal], self._keys[ordinal], self._asking[key] = [done], key, ordinal
        if self._questions.has_room:
            self._questions.keep(ordinal, question)
        return True

    def is_new(self, ordinal: int) -> bool:
        """True if nothing is known yet about the answer, and its judge may be asked."""
        return self._closing is None and ordinal not in self._heard

    def close(self, reason: GiveUp) -> None:
        """Ask nothing more; requests in flight still count."""
        self._closing = reason
        for ordinal in [each for each in self._waiting if each not in self._in_flight]:
            self._settle(ordinal, Unchecked(reason.message))

    # --- called by its lane, see `gen.worker.lanes.base.Attempts`

    def is_slow(self, ordinal: int) -> bool:
        """See `Attempts`; `ask` is slow too."""
        return self._questions.is_slow(ordinal)

    async def prepare(self, ordinal: int) -> None:
        """See `Attempts`."""
        await self._questions.prepare(ordinal)

    def prompt(self, ordinal: int) -> Prompt:
        """See `Attempts`."""
        question = self._questions.of(ordinal)
        self._questions.keep(ordinal, question)
        return question

    def refused_by(self, ordinal: int) -> Sequence[str]:
        """See `Attempts`."""
        return self._tries[ordinal].refused_by if ordinal in self._tries else ()

    def is_wanted(self, ordinal: int) -> bool:
        """See `Attempts`."""
        return ordinal in self._waiting

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """See `Attempts`."""
        key = self._key_of(ordinal)
        self._sent(ordinal, b"" if key is None else key[1], at=at, endpoint=endpoint, place=place)

    def _sent(self, ordinal: int, question: bytes, *, at: float, endpoint: str, place: int | None) -> None:
        stage = self.judge.stage
        frame = Frame(Kind.SENT, ordinal, at, endpoint=endpoint, body=question, teacher=place, stage=stage)
        self._journal.append(frame)
        self._in_flight.add(ordinal)
        self._tries.setdefault(ordinal, Tries()).attempts += 1

    def unanswered(
        self,
        ordinal: int,
        kind: Kind,
        outcome: NoConnection | Ambiguous,
        *,
        at: float,
        place: int | None = None,
        endpoint: str = "",
        cut: Reply | None = None,
    ) -> Decision:
        """See `Attempts`."""
        stage = self.judge.stage
        frame = unanswered_frame(kind, ordinal, cut, at=at, endpoint=endpoint, place=place, stage=stage)
        self._journal.append(frame)
        return self._ended(frame, outcome, None)

    def journalled(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Journalled:
        """See `Attempts`."""
        frame = reply_frame(
            ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place, stage=self.judge.stage
        )
        return Journalled(frame, self._journal.append(frame))

    def read(self, reply: Journalled) -> Received:
        """See `Attempts`."""
        frame, kept_at = reply
        outcome, verdict = self._read(frame)
        if verdict is not None:
            self._replied[frame.ordinal] = verdict
        return Received(frame, kept_at, outcome, len(frame.body))

    def answered(self, received: Received, *, blame: Blame | None = None) -> Decision:
        """See `Attempts`."""
        return self._ended(received.frame, received.outcome, blame)

    def _read(self, frame: Frame) -> tuple[Outcome, Verdict | None]:
        """The outcome of a reply, and its verdict; a completion without one is useless."""
        outcome = read(
            self.judge.interpreter, Reply(frame.status, dict(frame.headers), frame.body, frame.latency_s)
        ).outcome
        if not isinstance(outcome, Completion):
            return outcome, None
        if (verdict := self.judge.rubric.read(outcome, record_id=self._questions.record_id(frame.ordinal))) is not None:
            return outcome, verdict
        said = " ".join((outcome.text or "").split())[:_HEAD_CHARS]
        words = f"expected a verdict as JSON, got {said!r} (finish_reason {outcome.finish_reason})"
        return Malformed(self.judge.interpreter.redact(words), frame.status, usage=outcome.usage), None

    def _ended(self, frame: Frame, outcome: Outcome, blame: Blame | None) -> Decision:
        ordinal = frame.ordinal
        self._in_flight.discard(ordinal)
        self._pay(frame, outcome)
        decision = self._decided(frame, outcome, blame)
        if isinstance(outcome, Completion):
            self._settle(ordinal, self._replied.pop(ordinal))
        elif isinstance(decision, (Settled, GiveUp)):
            self._settle(ordinal, Unchecked(f"{self.judge.interpreter.teacher.name}: {outcome.message}"))
        elif self._closing is not None:
            self._settle(ordinal, Unchecked(self._closing.message))
            return SETTLED
        return decision

    def _decided(self, frame: Frame, outcome: Outcome, blame: Blame | None) -> Decision:
        tries, teacher = self._tries.setdefault(frame.ordinal, Tries()), self.judge.interpreter.teacher
        note(outcome, tries, endpoint=frame.endpoint, blame=blame)
        most = min(teacher.max_attempts, MAX_NONSENSE) if isinstance(outcome, Malformed) else teacher.max_attempts
        decision = decide(outcome, tries, max_attempts=most, endpoints=max(1, len(teacher.urls)), blame=blame)
        if isinstance(decision, GiveUp):
            self._tries[frame.ordinal] = Tries()  # for whoever has it judged again
        return decision

    def _pay(self, frame: Frame, outcome: Outcome | None) -> None:
        """Count the attempt's cost."""
        judge = self.judge.interpreter
        found = bill(judge, partial(self.billed, frame.ordinal), outcome)
        self._state.spending.add_check(found, is_priced=judge.teacher.price is not None)

    def _settle(self, ordinal: int, verdict: Verdict) -> None:
        """Take the judge's verdict on the answer, or the reason why it is not asked again."""
        key = self._key_of(ordinal)
        self._questions.forget(ordinal)
        self._heard.add(ordinal)
        if key is None:
            return
        if isinstance(verdict, CheckResult):
            self._known[key] = verdict
        if (asked_for := self._asking.pop(key, None)) is None:  # from a batch, before it was asked here
            if isinstance(verdict, Unchecked):
                self._unchecked[key] = verdict
            return
        self._heard.add(asked_for)
        self._questions.forget(asked_for)
        del self._keys[asked_for]
        for done in self._waiting.pop(asked_for):
            done(verdict)

    def _key_of(self, ordinal: int) -> Key | None:
        """The key of the question about the answer; None if it has none, or needs no verdict."""
        if (key := self._keys.get(ordinal)) is not None:
            return key
        if not self._state.verdicts.is_awaited(ordinal):
            return None
        try:
            question = self._questions.find(ordinal)
        except NoPrompt:
            return None
        return None if question is None else (self._samples.prompt(ordinal).key, question.key)

    # --- called by a batch lane, see `gen.worker.lanes.batch_docket`

    def entry(self, ordinal: int) -> tuple[Request, str]:
        """See `BatchAttempts`; the mark is that of the question."""
        question = self._questions.of(ordinal)
        return Request(question.messages, 0), _mark_of(question.key)

    def billed(self, ordinal: int) -> Prompt:
        """See `BatchAttempts`."""
        try:
            question = self._questions.find(ordinal)
        except (NoPrompt, AssertionError):  # recovered, and its answer is read differently now
            question = None
        return self._samples.prompt(ordinal) if question is None else question

    def is_settled(self, ordinal: int) -> bool:
        """See `BatchAttempts`."""
        return ordinal in self._heard or not self._state.verdicts.is_awaited(ordinal)

    def lacks(self, ordinal: int) -> bool:
        """See `BatchAttempts`."""
        return ordinal in self._waiting

    def was_read(self, ordinal: int, at: float) -> bool:
        """See `BatchAttempts`."""
        return (ordinal, at) in self._read_before

    async def delivered(
        self, ordinal: int, reply: Reply, *, mark: str, at: float, latency_s: float, endpoint: str, place: int | None
    ) -> tuple[Outcome, Decision]:
        """See `BatchAttempts`. Of the reply to another question than the present one, only the cost counts."""
        if ordinal not in self._keys and self._state.verdicts.is_awaited(ordinal) and self.is_slow(ordinal):
            await self.prepare(ordinal)
        key = self._key_of(ordinal)
        is_asked = key is not None and _mark_of(key[1]) == mark
        question = key[1] if key is not None and is_asked else bytes.fromhex(mark)
        self._sent(ordinal, question, at=at, endpoint=endpoint, place=place)
        journal = partial(self.journalled, ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place)
        received = await received_of(reply, journal, self.read)
        if is_asked:
            return received.outcome, self.answered(received)
        self._in_flight.discard(ordinal)
        self._replied.pop(ordinal, None)
        self._pay(received.frame, received.outcome)
        return received.outcome, Again(0.0)

    def unserved(self, ordinal: int, *, at: float, endpoint: str, place: int | None, why: str) -> None:
        """See `BatchAttempts`."""
        self.unanswered(ordinal, Kind.NOT_SENT, NoConnection(why), at=at, endpoint=endpoint, place=place)

    def expired(self, ordinal: int, *, at: float, place: int | None, why: str) -> None:
        """See `BatchAttempts`."""
        self._settle(ordinal, Unchecked(f"{self.judge.interpreter.teacher.name}: {why}"))

    # --- recovery

    def restore(self, frames: Iterable[Frame], *, died: bool) -> None:
        """Take over what earlier owners asked; these frames are already in the journal.

        Attempts that were in flight when an owner died are ended, because they may have been billed.

        Raises:
            StoreAway: the journal can't be written.
        """
        attempts: dict[tuple[int, float], dict[Kind, Frame]] = {}
        for frame in frames:
            attempts.setdefault((frame.ordinal, frame.at), {})[frame.kind] = frame
        for (ordinal, _), found in attempts.items():
            frame = next(found[kind] for kind in _ENDS if kind in found)
            if frame.kind is Kind.SENT:
                frame = frame._replace(kind=Kind.DIED if died else Kind.CUT)
                self._journal.append(frame)
            if frame.kind not in (Kind.DIED, Kind.CUT):
                self._read_before.add((ordinal, frame.at))
            self._restore(ordinal, frame, asked=found.get(Kind.SENT))

    def _restore(self, ordinal: int, frame: Frame, *, asked: Frame | None) -> None:
        outcome = outcome_without_reply(frame)
        if frame.kind is Kind.ANSWERED:
            outcome, verdict = self._read(frame)
            if isinstance(verdict, CheckResult) and asked is not None:
                self._known.setdefault((self._samples.prompt(ordinal).key, asked.body), verdict)
                self._heard.add(ordinal)
        if outcome is not None:
            self._decided(frame, outcome, None)
        self._pay(frame, outcome)


def _mark_of(question: bytes) -> str:
    return question[:8].hex()


def hearings(
    judges: Sequence[JudgeOf], samples: ChunkSamples, state: ChunkState, journal: JournalFile
) -> Mapping[int, Hearing]:
    """A chunk's hearings, by stage."""
    return {judge.stage: Hearing(judge, samples, state, journal) for judge in judges}
