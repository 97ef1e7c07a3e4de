"""An open chunk: its state and its journal. Everything is journalled before the state changes."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from stillhouse.gen.checks.base import Answer, Verdict, answer_of
from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection, Outcome
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.retry import SETTLED, Blame, Decision, GiveUp, MoveOn, Pause
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.chunk_samples import ChunkSamples, TeacherOf
from stillhouse.gen.worker.chunk_state import ChunkState
from stillhouse.gen.worker.decision_frames import AccountBlamed, Decided, JudgedAgain, MovedOn, Reopened, decided_frame
from stillhouse.gen.worker.hearing import hearings
from stillhouse.gen.worker.judge_of import JudgeOf
from stillhouse.gen.worker.recovery import Recovery
from stillhouse.gen.worker.replies import Journalled, Received, received_of, reply_frame, unanswered_frame
from stillhouse.schemas.prompt import Prompt

UNPAID = ("bad_request", "too_long", "overload")
"""Kinds of Failures that cost nothing, unless an earlier reply did."""


class OpenChunk:
    """A chunk, held by its only owner."""

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
        chunk: its prompts, and what is asked about them.
        journal: a new, empty one.
        samples: ordinals per series.
        teacher_of: the teachers.
        equal_once: equal answers in a series count as one accepted answer.
        kept: fingerprints of the answers in earlier shards, by series.
        carried: answers in earlier shards that no check could judge; they are judged now, and not asked again.
        judges: the ones that the recipe's checks ask.
        """
        self.chunk = chunk
        self.journal = journal
        self.samples = ChunkSamples(chunk, per_series=samples, teacher_of=teacher_of)
        self.state = ChunkState(self.samples, journal, equal_once=equal_once, kept=kept)
        self.recovered: set[tuple[int, float]] = set()
        """(ordinal, at) of attempts that earlier owners made at samples not yet settled."""
        self.hearings = hearings(judges, self.samples, self.state, journal)
        """What judges are asked about its answers, by the stage of the check."""
        self.had_owners = False
        """True if it had owners before this one."""
        self._carried = carried
        self._closing: GiveUp | None = None
        """Why nothing more is asked; None while the chunk is open."""

    @property
    def left(self) -> int:
        """Needed samples that are still undecided; at 0 the chunk can be sealed."""
        return self.state.schedule.left

    @property
    def is_due(self) -> bool:
        """True if its worker has to act: nothing is left to decide, more may be asked, or answers await verdicts."""
        schedule = self.state.schedule
        return schedule.left == 0 or schedule.is_ready or self.state.verdicts.has_fresh

    def recover(self, frames: Iterable[Frame], *, died: bool) -> None:
        """Restore what earlier owners left behind; see `Recovery.restore`."""
        recovery = Recovery(self.samples, self.state, self.journal, carried=self._carried, hearings=self.hearings)
        self.had_owners |= recovery.restore(frames, died=died)
        self.recovered = {each for each in recovery.attempts if not self.state.is_settled(each[0])}
        if self.had_owners:
            self.journal.sync()  # before the journals it was copied from are deleted

    def take(self) -> Iterator[int]:
        """The samples that may be asked now; each is yielded once.

        Raises:
            StoreAway: the journal can't be written.
        """
        while self.state.schedule.is_ready:  # a carried answer may be rejected at once, which makes others ready
            for ordinal in self.state.schedule.take():
                if (frame := self._carried.get(ordinal)) is None:
                    yield ordinal
                else:
                    self.state.attempted(ordinal, counts=False)  # the earlier shard counts it
                    self.state.fold(frame, self.journal.append(frame), counts=False)

    def close(self, reason: GiveUp) -> None:
        """Ask nothing more; samples still missing are given up for this reason.

        Carried answers are still judged, since that costs nothing.

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

    # --- called by an online lane, see `gen.worker.lanes.base.Attempts`

    def is_slow(self, ordinal: int) -> bool:
        """False: its prompts are at hand."""
        return False

    async def prepare(self, ordinal: int) -> None:
        """See `Attempts`."""

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.samples.prompt(ordinal)

    def refused_by(self, ordinal: int) -> Sequence[str]:
        """Endpoints that refused the request itself, whichever worker sent it."""
        return self.state.tries(ordinal).refused_by

    def is_wanted(self, ordinal: int) -> bool:
        """True: every sample handed out is asked."""
        return True

    # --- called by a batch lane, see `gen.worker.lanes.batch_docket`

    def entry(self, ordinal: int) -> tuple[Request, str]:
        """See `BatchAttempts`; a sample is always asked the same."""
        prompt, source = self.samples.prompt(ordinal), self.chunk.images
        images = source.read(prompt) if prompt.images and source is not None else ()
        number = ordinal % self.samples.per_series
        return Request(prompt.messages, number, images=images, tools=prompt.tools or ()), ""

    def billed(self, ordinal: int) -> Prompt:
        """See `BatchAttempts`."""
        return self.samples.prompt(ordinal)

    def is_settled(self, ordinal: int) -> bool:
        """See `BatchAttempts`."""
        return self.state.is_settled(ordinal)

    def lacks(self, ordinal: int) -> bool:
        """See `BatchAttempts`."""
        return self.state.schedule.lacks(ordinal)

    def was_read(self, ordinal: int, at: float) -> bool:
        """See `BatchAttempts`."""
        return (ordinal, at) in self.recovered

    async def delivered(
        self, ordinal: int, reply: Reply, *, mark: str, at: float, latency_s: float, endpoint: str, place: int | None
    ) -> tuple[Outcome, Decision]:
        """See `BatchAttempts`."""
        self.state.sent(ordinal)
        journal = partial(self.journalled, ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place)
        received = await received_of(reply, journal, self.read)
        return received.outcome, self.answered(received)

    # --- what follows

    def was_carried(self, ordinal: int) -> bool:
        """True if its answer comes from an earlier shard, where no check could judge it."""
        return ordinal in self._carried and self.state.is_settled(ordinal)

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """An attempt is about to be sent to the teacher at this place in the recipe.

        Under `route: fallback` it may be a later teacher than the current one: the sample then moves on.

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
        """The attempt ended without a whole reply. `cut`: the part of a stream that had arrived.

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
        """The attempt was never served and costs nothing.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame = Frame(Kind.NOT_SENT, ordinal, at, endpoint=endpoint, teacher=place)
        self.state.sent(ordinal)
        self.state.ended(frame, NoConnection(why), self.journal.append(frame))

    def expired(self, ordinal: int, *, at: float, place: int | None, why: str) -> None:
        """The sample is given up: none of its batches brought an answer in time.

        Raises:
            StoreAway: the journal can't be written.
        """
        given_up = GiveUp("expired", why, None)
        self.journal.append(decided_frame(ordinal, given_up, at=at, place=place))
        self.state.decided(ordinal, given_up, None, known=True)

    def received(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Received:
        """Journal a reply, then read it. `answered` says what follows.

        Raises:
            StoreAway: the journal can't be written.
        """
        return self.read(self.journalled(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place))

    def journalled(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Journalled:
        """Journal a reply.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame = reply_frame(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint, place=place)
        return Journalled(frame, self.journal.append(frame))

    def read(self, reply: Journalled) -> Received:
        """What the reply says."""
        frame, kept_at = reply
        outcome, size = self.state.answers.read(frame)
        appraisal = self.state.appraised(frame, outcome) if len(frame.body) >= LARGE_BYTES else None
        return Received(frame, kept_at, outcome, size, appraisal)

    def answered(self, received: Received, *, blame: Blame | None = None) -> Decision:
        """What follows from a reply. `blame`: who is to blame for a refusal, judging by other requests.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame, kept_at, outcome, size, appraisal = received
        decision = self.state.ended(frame, outcome, kept_at, blame, appraisal)
        if decision is not SETTLED:
            self._keep_decision(frame, decision, blame)
        self.state.answers.remember(frame.ordinal, outcome, place=kept_at, size=size)
        return decision

    def _keep_decision(self, frame: Frame, decision: Decision, blame: Blame | None) -> None:
        """Journal a decision that does not follow from the sample's own frames."""
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
        """What the checks judge of the sample's answer; read it in a thread if `is_large`."""
        return answer_of(self.state.answers.completion(ordinal))

    def is_large(self, ordinal: int) -> bool:
        """True if reading the sample's answer again would hold up the event loop."""
        return self.state.answers.is_large(ordinal)

    def answered_by(self, ordinal: int) -> str:
        """The name of the teacher that gave the answer, which checks judge."""
        return self.state.judged_teacher(ordinal).teacher.name

    def judged(self, ordinal: int, verdicts: Sequence[Verdict], *, at: float) -> None:
        """Take the checks' verdicts on an answer; they are journalled before anything acts on them.

        Raises:
            StoreAway: the journal can't be written; the answer still awaits its verdicts.
        """
        awaited = self.state.verdicts
        if awaited.is_awaited(ordinal):
            for frame in awaited.frames(ordinal, dict(enumerate(verdicts, 1)), at=at):
                self.journal.append(frame)
            awaited.settle(ordinal, tuple(verdicts))
            self.state.judged(ordinal)
            if self._closing is not None:
                self.state.close(ordinal // self.samples.per_series, self._closing)

    def judged_so_far(self, ordinal: int, verdicts: Mapping[int, Verdict], *, at: float) -> None:
        """Keep these verdicts on an answer, by stage, until it has the others: the next owner need not ask for them.

        Raises:
            StoreAway: the journal can't be written.
        """
        awaited = self.state.verdicts
        if awaited.is_awaited(ordinal):
            for frame in awaited.frames(ordinal, verdicts, at=at):
                self.journal.append(frame)
            awaited.keep(ordinal, verdicts)

    def judge_again(self, *, at: float) -> None:
        """Have the next owner judge the answers again that no check could judge."""
        for ordinal, reason in list(self.state.given_up.items()):
            if reason.kind == "unchecked":
                self._decide(ordinal, JudgedAgain(), at=at)

    def reopen_unpaid(self, *, teacher: str, at: float) -> None:
        """Have the next owner ask again those of the teacher's Failures that cost nothing.

        Under `ask.accept` this covers only the last samples asked in a series, because later ones were asked on account
        of how earlier ones ended.
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
        """Journal a decision of this owner, then act on it."""
        place = decided.place if isinstance(decided, MovedOn) else None
        self.journal.append(decided_frame(ordinal, decided, at=at, place=place))
        self.state.decided(ordinal, decided, None, known=True)
