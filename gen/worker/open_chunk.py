"""An open chunk: its state and its journal. Whatever happens is in the journal before the state takes it in."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from stillhouse.gen.checks.base import Answer, Verdict, answer_of
from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection
from stillhouse.gen.teachers.retry import Blame, Decision, GiveUp, MoveOn, Pause
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.chunk_samples import ChunkSamples, TeacherOf
from stillhouse.gen.worker.chunk_state import ChunkState
from stillhouse.gen.worker.decision_frames import AccountBlamed, Decided, JudgedAgain, MovedOn, Reopened, decided_frame
from stillhouse.gen.worker.hearing import JudgeOf, hearings
from stillhouse.gen.worker.recovery import Recovery
from stillhouse.gen.worker.replies import Journalled, Received, reply_frame, unanswered_frame
from stillhouse.schemas.prompt import Prompt

UNPAID = ("bad_request", "too_long", "overload")
"""Kinds of Failures that cost nothing, unless a reply before did."""


class OpenChunk:
    """A chunk in the hands of its one owner."""

    def __init__(
        self,
        chunk: Chunk,
        journal: JournalFile,
        *,
        samples: int,
        teacher_of: TeacherOf,
        equal_once: bool = True,
        kept: Mapping[SeriesKey, Collection[bytes]] = MappingProxyType({}),
        carried: Mapping[int, Frame] = MappingProxyType({}),
        judges: Sequence[JudgeOf] = (),
    ) -> None:
        """Args:
        chunk: what it is made of.
        journal: what everything is written to; empty.
        samples: ordinals per series.
        teacher_of: the teachers.
        equal_once: equal answers of a series count once towards the accepted ones.
        kept: by series, the fingerprints of the answers in earlier shards.
        carried: answers that earlier shards have and no check could judge: they are judged in the place of asking.
        judges: those that the recipe's checks ask.
        """
        self.chunk = chunk
        self.journal = journal
        self.samples = ChunkSamples(chunk, per_series=samples, teacher_of=teacher_of)
        self.state = ChunkState(self.samples, journal, equal_once=equal_once, kept=kept)
        self.recovered: set[tuple[int, float]] = set()
        """(ordinal, at) of earlier owners' attempts at samples that are not settled."""
        self.hearings = hearings(judges, self.samples, self.state, journal)
        """What judges are asked about its answers, by the stage of their check."""
        self.had_owners = False
        """True if others worked on it before."""
        self._carried = carried
        self._closing: GiveUp | None = None
        """Why nothing more is asked."""

    @property
    def left(self) -> int:
        """Samples that are needed and not decided; with none left the chunk can be sealed."""
        return self.state.schedule.left

    @property
    def is_due(self) -> bool:
        """True if its worker has to act: no sample is left, others may be asked, or answers await their verdicts."""
        schedule = self.state.schedule
        return schedule.left == 0 or schedule.is_ready or self.state.verdicts.has_fresh

    def recover(self, frames: Iterable[Frame], *, died: bool) -> None:
        """Restore what earlier owners left; see `Recovery.restore`."""
        recovery = Recovery(self.samples, self.state, self.journal, carried=self._carried, hearings=self.hearings)
        self.had_owners |= recovery.restore(frames, died=died)
        self.recovered = {each for each in recovery.attempts if not self.state.is_settled(each[0])}
        if self.had_owners:
            self.journal.sync()  # before the journals it was copied from go

    def take(self) -> Iterator[int]:
        """The samples that may be asked now; each is handed out once.

        Raises:
            StoreAway: the journal can't be written.
        """
        while self.state.schedule.is_ready:  # an answer that is carried over may be rejected at once
            for ordinal in self.state.schedule.take():
                if (frame := self._carried.get(ordinal)) is None:
                    yield ordinal
                else:
                    self.state.attempted(ordinal, counts=False)  # the shard that has the answer counts it
                    self.state.fold(frame, self.journal.append(frame), counts=False)

    def close(self, reason: GiveUp) -> None:
        """Ask nothing more: whatever is still lacking is given up for this reason.

        Answers that are carried over are judged all the same, as that costs nothing.

        Raises:
            StoreAway: the journal can't be written.
        """
        self._closing = reason
        for hearing in self.hearings.values():
            hearing.close(reason)
        for _ in self.take():
            pass
        for ordinal, frame in self._carried.items():
            if not self.state.is_settled(ordinal) and self.state.schedule.lacks(ordinal):
                self.state.attempted(ordinal, counts=False)
                self.state.fold(frame, self.journal.append(frame), counts=False)
        for number in range(self.chunk.series_count):
            self.state.close(number, reason)

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.samples.prompt(ordinal)

    def refused_by(self, ordinal: int) -> Sequence[str]:
        """Endpoints that refused the sample's request as such."""
        return self.state.tries(ordinal).refused_by

    def is_wanted(self, ordinal: int) -> bool:
        """True: a sample that was handed out is asked."""
        return True

    def was_carried(self, ordinal: int) -> bool:
        """True if the sample's answer is one that an earlier shard has, and no check could judge."""
        return ordinal in self._carried and self.state.is_settled(ordinal)

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """An attempt is about to be sent to the teacher with this place.

        Under `route: fallback` that may be a later teacher than the one whose turn it was: the sample moves on.

        Raises:
            StoreAway: the journal can't be written; the attempt must not be sent.
        """
        if self.samples.is_chain and place is not None and place > (self.state.place_of(ordinal) or 0):
            spent = self.state.spent.get(ordinal)
            reason = "the teacher before it is down" if spent is None else f"{spent.kind}: {spent.message}"
            self._decide(ordinal, MovedOn(place, reason), at=at)
        self.journal.append(Frame(Kind.SENT, ordinal, at, endpoint=endpoint, teacher=place))
        self.state.sent(ordinal)

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
        """The attempt ended without a whole reply. `cut`: what had come of a stream.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame = unanswered_frame(kind, ordinal, cut, at=at, endpoint=endpoint, place=place)
        kept_at = self.journal.append(frame)
        decision = self.state.ended(frame, outcome, kept_at if frame.has_reply else None)
        if isinstance(outcome, Ambiguous) and outcome.deadline:  # which the frame does not say
            self._keep_decision(frame, decision, None)
        return decision

    def unserved(self, ordinal: int, *, at: float, endpoint: str, place: int | None, why: str) -> None:
        """The attempt was never served, and costs nothing.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame = Frame(Kind.NOT_SENT, ordinal, at, endpoint=endpoint, teacher=place)
        self.state.sent(ordinal)
        self.state.ended(frame, NoConnection(why), self.journal.append(frame))

    def expired(self, ordinal: int, *, at: float, place: int | None, why: str) -> None:
        """The sample is given up, as its answer was not to be had in the time of its batches.

        Raises:
            StoreAway: the journal can't be written.
        """
        given_up = GiveUp("expired", why, None)
        self.journal.append(decided_frame(ordinal, given_up, at=at, place=place))
        self.state.decided(ordinal, given_up, None, known=True)

    def received(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Received:
        """A reply came: it is in the journal before it is read. `answered` says what follows from it.

        Raises:
            StoreAway: the journal can't be written.
        """
        return self.read(self.journalled(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place))

    def journalled(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Journalled:
        """A reply came, and is in the journal.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame = reply_frame(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place)
        return Journalled(frame, self.journal.append(frame))

    def read(self, reply: Journalled) -> Received:
        """What the reply says."""
        frame, kept_at = reply
        teacher = self.samples.teacher(frame.ordinal, frame.teacher)
        folded = teacher.fold(Reply(frame.status, dict(frame.headers), frame.body, frame.latency_s))
        outcome = self.samples.read(frame.ordinal, folded, place=frame.teacher)
        return Received(frame, kept_at, outcome, len(folded.body))

    def answered(self, received: Received, *, blame: Blame | None = None) -> Decision:
        """What follows from a reply. `blame`: who is to blame for a refusal, by what others met.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame, kept_at, outcome, size = received
        decision = self.state.ended(frame, outcome, kept_at, blame)
        self._keep_decision(frame, decision, blame)
        self.state.answers.remember(frame.ordinal, outcome, place=kept_at, size=size)
        return decision

    def _keep_decision(self, frame: Frame, decision: Decision, blame: Blame | None) -> None:
        """Keep a decision that the sample's own frames don't explain."""
        if self.state.has_left(frame):
            return
        if blame is not None and blame.on == "account" and not isinstance(decision, Pause):
            self._append_decided(frame, AccountBlamed())
            return
        given_up = decision.given_up if isinstance(decision, MoveOn) else decision
        if isinstance(given_up, GiveUp) and (blame is not None or frame.kind is Kind.LOST):
            self._append_decided(frame, given_up)

    def _append_decided(self, frame: Frame, decided: Decided) -> None:
        self.journal.append(decided_frame(frame.ordinal, decided, at=frame.at, place=frame.teacher))

    def answer_to_judge(self, ordinal: int) -> Answer:
        """What the checks judge of the sample's answer."""
        return answer_of(self.state.answers.completion(ordinal))

    def answered_by(self, ordinal: int) -> str:
        """The name of the teacher that gave the sample's answer."""
        place = self.state.answers.places[ordinal]
        assert place is not None, f"{self.chunk.id}: sample {ordinal} has no answer"
        teachers = self.samples.teachers
        teacher = (
            teachers[0] if len(teachers) == 1 else self.samples.teacher(ordinal, self.journal.read(*place).teacher)
        )
        return teacher.teacher.name

    def judged(self, ordinal: int, verdicts: Sequence[Verdict], *, at: float) -> None:
        """The checks' verdicts on an answer: they are in the journal before anything acts on them.

        Raises:
            StoreAway: the journal can't be written; the answer still awaits them.
        """
        awaited = self.state.verdicts
        if awaited.is_awaited(ordinal):
            for frame in awaited.frames(ordinal, verdicts, at=at):
                self.journal.append(frame)
            awaited.settle(ordinal, tuple(verdicts))
            self.state.judged(ordinal)
            if self._closing is not None:
                self.state.close(ordinal // self.samples.per_series, self._closing)

    def judge_again(self, *, at: float) -> None:
        """Have the chunk's next owner judge again what checks could not say anything of."""
        for ordinal, reason in list(self.state.given_up.items()):
            if reason.kind == "unchecked":
                self._decide(ordinal, JudgedAgain(), at=at)

    def reopen_unpaid(self, *, teacher: str, at: float) -> None:
        """Have the chunk's next owner ask the teacher's free Failures again.

        Under `ask.accept` only the last samples asked of a series: what was asked after a sample rests on its end.
        """
        for ordinal, reason in sorted((self.state.given_up | self.state.spent).items(), reverse=True):
            tries = self.state.tries(ordinal)
            costs = tries.maybe_billed or tries.wasted_input or tries.wasted_output
            if costs or reason.kind not in UNPAID or self.state.teacher(ordinal).teacher.name != teacher:
                continue
            end = (ordinal // self.samples.per_series + 1) * self.samples.per_series
            if self.chunk.accept and any(self.state.tries(later).attempts for later in range(ordinal + 1, end)):
                continue
            self._decide(ordinal, Reopened(), at=at)

    def _decide(self, ordinal: int, decided: JudgedAgain | Reopened | MovedOn, *, at: float) -> None:
        """Keep a decision of this owner, then act on it."""
        place = decided.place if isinstance(decided, MovedOn) else None
        self.journal.append(decided_frame(ordinal, decided, at=at, place=place))
        self.state.decided(ordinal, decided, None, known=True)
