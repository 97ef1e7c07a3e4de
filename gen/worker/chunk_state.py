"""What is known about a chunk: each of its samples is waiting, in flight, or settled.

The state is a fold over frames that are already in the journal, so a chunk recovered from the journals of dead workers
is exactly as they left it, minus the requests in flight. Nothing here writes: `OpenChunk` and `recovery` append a frame
first and fold it here second. `sample_states` knows which samples wait for others, or are no longer needed.
"""

from collections.abc import Collection, Mapping

from stillhouse.gen.checks.base import CheckResult, Unchecked, answer_of
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.journal.file import JournalFile, Place
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Malformed, Outcome, Policy, Trouble
from stillhouse.gen.teachers.retry import (
    MAX_DEATHS,
    SETTLED,
    Again,
    Blame,
    Decision,
    GiveUp,
    MoveOn,
    Settled,
    Tries,
    decide,
    note,
)
from stillhouse.gen.worker.answers import Answers
from stillhouse.gen.worker.appraisal import Appraisal
from stillhouse.gen.worker.attempts import Attempts
from stillhouse.gen.worker.awaited_verdicts import AwaitedVerdicts
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.gen.worker.decision_frames import AccountBlamed, Decided, JudgedAgain, MovedOn, Reopened
from stillhouse.gen.worker.earlier_answers import fingerprint
from stillhouse.gen.worker.replies import outcome_without_reply
from stillhouse.gen.worker.sample_states import AllSamples, SampleStates, UntilAccepted
from stillhouse.gen.worker.settlements import Settlements
from stillhouse.gen.worker.spending import Spending
from stillhouse.gen.worker.verdict_frames import text_hash
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas.completion import Completion


class ChunkState:
    """Everything by ordinal."""

    def __init__(
        self,
        samples: ChunkSamples,
        journal: JournalFile,
        *,
        equal_once: bool,
        kept: Mapping[SeriesKey, Collection[bytes]],
    ) -> None:
        """Args:
        samples: the chunk's.
        journal: holds its frames; only read here.
        equal_once: equal answers in a series count as one accepted answer.
        kept: fingerprints of the answers in earlier shards, by series.
        """
        self._samples = samples
        self._equal_once = equal_once and samples.chunk.accept > 0
        excluded = list(samples.excluded())
        self._settled = bytearray(len(samples))
        """One byte per sample; samples of other generations start out settled."""
        for ordinal in excluded:
            self._settled[ordinal] = 1
        self.asked = len(samples) - len(excluded)
        """Most samples to ask."""
        self._attempts = Attempts(len(samples), asked=excluded)
        self.answers = Answers(samples, journal)
        self.given_up: dict[int, GiveUp] = {}
        """Why each Failure is one."""
        self.spent: dict[int, GiveUp] = {}
        """Under `route: fallback`, samples that their teacher gives up on, and that the next one may be asked."""
        self._moved: dict[int, int] = {}
        """Under `route: fallback`, the teachers' places of samples that moved on."""
        self.verdicts = AwaitedVerdicts(samples.chunk.columns.checks)
        """What the recipe's checks say of the answers."""
        self._appraised: dict[int, Appraisal] = {}
        """Answers that the rules leave to the checks, or to the comparison with others."""
        self.settlements = Settlements(samples)
        """Samples settled by replies."""
        self.spending = Spending(samples)
        """What all attempts so far cost."""
        self.schedule = _schedule(samples, excluded, kept if self._equal_once else {})
        """Which samples may be asked now, and which are still needed."""

    def __len__(self) -> int:
        return len(self._settled)

    def is_settled(self, ordinal: int) -> bool:
        """True if nothing is asked for the sample any more: it has its answer, is given up, or is not this chunk's."""
        return self._settled[ordinal] == 1

    def is_final(self, ordinal: int) -> bool:
        """True if the sample has an answer that no other will replace; one that could not be judged counts too."""
        if not self._settled[ordinal]:
            return False
        reason = self.given_up.get(ordinal)
        return reason is None or reason.kind == "unchecked"

    def place_of(self, ordinal: int) -> int | None:
        """The place of the teacher whose turn it is under `route: fallback`; otherwise None."""
        return self._moved.get(ordinal, 0) if self._samples.is_chain else None

    def has_left(self, frame: Frame) -> bool:
        """True if the frame belongs to an attempt at a teacher that its sample has moved on from."""
        return frame.teacher is not None and frame.teacher < (self.place_of(frame.ordinal) or 0)

    def teacher(self, ordinal: int, place: int | None = None) -> Interpreter:
        """The teacher with this place in the recipe; without one, the one whose turn it is."""
        return self._samples.teacher(ordinal, self.place_of(ordinal) if place is None else place)

    def tries(self, ordinal: int) -> Tries:
        """What has been tried; read-only."""
        return self._attempts.of(ordinal)

    def sent(self, ordinal: int) -> None:
        """An attempt is about to be sent."""
        self._attempts.sent(ordinal)

    def attempted(self, ordinal: int, *, counts: bool, teacher: int | None = None) -> None:
        """A journal shows an attempt at the teacher with this place; `counts`: False if an earlier shard counts it."""
        if self._samples.is_chain and teacher is not None and teacher > self._moved.get(ordinal, 0):
            self._move_on(ordinal, teacher)  # the frame that says it moved on is damaged
        self._attempts.entry(ordinal).attempts += counts

    def fold(self, frame: Frame, place: Place, *, counts: bool = True) -> None:
        """Apply a frame of an attempt that is in the journal at `place` and has not been applied yet.

        `counts`: False if an earlier shard counts the attempt.
        """
        outcome = self.outcome_of(frame)
        if outcome is not None:
            self.ended(frame, outcome, place if frame.has_reply else None, counts=counts)
            return
        if frame.kind in (Kind.DIED, Kind.CUT):
            self._cut(frame.ordinal, died=frame.kind is Kind.DIED)
        if counts:
            self.count_cost(frame, None)

    def outcome_of(self, frame: Frame) -> Outcome | None:
        """How the attempt ended according to this frame; None if that is unknown, or it has not ended."""
        return self.answers.read(frame)[0] if frame.kind is Kind.ANSWERED else outcome_without_reply(frame)

    def count_cost(self, frame: Frame, outcome: Outcome | None) -> None:
        """Count what an attempt cost, if the frame ends it."""
        if frame.kind is not Kind.SENT:
            self.spending.add(frame, outcome)

    def appraised(self, frame: Frame, outcome: Outcome) -> Appraisal:
        """The outcome in the frame as decisions see it; for a large answer, call it in a thread."""
        if not isinstance(outcome, Completion):
            return Appraisal("refused")
        prompt, calls = self._samples.prompt(frame.ordinal), self._samples.chunk.columns.calls
        reason = rejected_by_rules(outcome, prompt, calls=calls)
        if reason is not None or not (self.verdicts.checks or self._equal_once):  # most recipes
            return Appraisal(reason, frame.teacher)
        text = text_hash(answer_of(outcome)) if self.verdicts.checks else b""
        answer = fingerprint(outcome.text, outcome.tool_calls) if self._equal_once else b""
        return Appraisal(None, frame.teacher, text, answer)

    def ended(
        self,
        frame: Frame,
        outcome: Outcome,
        place: Place | None,
        blame: Blame | None = None,
        appraisal: Appraisal | None = None,
        *,
        counts: bool = True,
    ) -> Decision:
        """An attempt ended with this outcome; returns what follows.

        Args:
            frame: the attempt's last.
            outcome: what that frame says.
            place: where its reply is in the journal, if there is one.
            blame: who is to blame for a refusal, judging by other requests.
            appraisal: of the outcome, if it is at hand.
            counts: False if an earlier shard counts the attempt.
        """
        if counts:
            self.count_cost(frame, outcome)
        ordinal = frame.ordinal
        if isinstance(outcome, Completion) and self._attempts.is_first(ordinal) and not self._settled[ordinal]:
            self._take_answer(frame, outcome, place, SETTLED, appraisal)  # nearly always
            return SETTLED
        tries = self._attempts.entry(ordinal)
        if self.has_left(frame) and not isinstance(outcome, (Completion, Policy)):
            return self._left_behind(frame, outcome, tries)
        note(outcome, tries, endpoint=frame.endpoint, blame=blame)
        teacher = self._samples.teacher(ordinal, frame.teacher).teacher
        decision = decide(
            outcome, tries, max_attempts=teacher.max_attempts, endpoints=max(1, len(teacher.urls)), blame=blame
        )
        if isinstance(decision, GiveUp) and not self._settled[ordinal] and self._may_move_on(ordinal, decision):
            self.settlements.note_moving(frame, outcome, decision)
            self._spend(ordinal, place, decision)
            return MoveOn(decision)
        if isinstance(decision, (Settled, GiveUp)) and not self._settled[ordinal]:
            self._take_answer(frame, outcome, place, decision, appraisal)
            self._attempts.compact(ordinal)
        elif isinstance(outcome, Malformed) and isinstance(decision, Again):
            self.settlements.note_useless(frame, outcome, GiveUp("malformed", outcome.message, outcome.status))
        elif isinstance(decision, Settled) and ordinal in self.given_up:
            # Two owners asked it, each unaware of the other: a paid answer is worth more than a Failure.
            del self.given_up[ordinal]
            self.answers.places[ordinal] = place
            self.schedule.reopen(ordinal)
            self._conclude(ordinal, appraisal or self.appraised(frame, outcome))
        return decision

    def _left_behind(self, frame: Frame, outcome: Trouble, tries: Tries) -> Again:
        """Another owner's attempt at a teacher that the sample has left: it is counted, and decides nothing."""
        cost = Tries()
        note(outcome, cost, endpoint=frame.endpoint)
        tries.maybe_billed += cost.maybe_billed
        tries.wasted_input += cost.wasted_input
        tries.wasted_output += cost.wasted_output
        return Again(0.0)

    def _may_move_on(self, ordinal: int, decision: GiveUp) -> bool:
        place = self.place_of(ordinal)
        return place is not None and decision.kind != "poison" and self._samples.has_next(place)

    def _spend(self, ordinal: int, place: Place | None, decision: GiveUp) -> None:
        self.spent[ordinal] = decision
        self.answers.places[ordinal] = place

    def _move_on(self, ordinal: int, teacher: int) -> None:
        self._moved[ordinal] = teacher
        self._attempts.moved_on(ordinal)
        if self.spent.pop(ordinal, None) is not None:
            self.answers.places[ordinal] = None

    def _take_answer(
        self,
        frame: Frame,
        outcome: Outcome,
        place: Place | None,
        decision: Settled | GiveUp,
        appraisal: Appraisal | None,
    ) -> None:
        appraisal = appraisal or self.appraised(frame, outcome)
        settlement = self.settlements.of(frame, outcome, decision, appraisal.reason)
        self._settle(frame.ordinal, place, decision)
        if isinstance(decision, Settled):
            self._conclude(frame.ordinal, appraisal)
        self.settlements.note(settlement)

    def _settle(self, ordinal: int, place: Place | None, decision: Settled | GiveUp) -> None:
        self._settled[ordinal] = 1
        self.spent.pop(ordinal, None)
        self.answers.places[ordinal] = place
        if isinstance(decision, GiveUp):
            self.given_up[ordinal] = decision
            self.schedule.decide(ordinal, accepted=False)

    def _cut(self, ordinal: int, *, died: bool) -> None:
        tries = self._attempts.entry(ordinal)
        tries.maybe_billed += 1
        tries.deaths += died
        if tries.deaths >= MAX_DEATHS and not self._settled[ordinal]:
            reason = f"{tries.deaths} workers died while it was in flight"
            self._settle(ordinal, None, GiveUp("poison", reason, None))

    def _conclude(self, ordinal: int, appraisal: Appraisal) -> None:
        """Act on the rules: they reject the sample's answer, or leave it to the checks."""
        if appraisal.reason is not None:
            self.schedule.decide(ordinal, accepted=False)
        elif not (self.verdicts.checks or self._equal_once):  # most recipes
            self.schedule.decide(ordinal, accepted=True)
        else:
            self._appraised[ordinal] = appraisal
            self._await_verdicts(ordinal)

    def _await_verdicts(self, ordinal: int) -> None:
        if self.verdicts.checks:
            self.schedule.answered(ordinal)
            if not self.verdicts.expect(ordinal, self._appraised[ordinal].text):
                return
        self.judged(ordinal)

    def judged(self, ordinal: int) -> None:
        """Act on what the checks say about the sample's answer; without checks it is accepted."""
        said = self.verdicts.said.get(ordinal, ())
        if said and isinstance(last := said[-1], Unchecked):
            check = self.verdicts.checks[len(said) - 1]
            self.given_up[ordinal] = GiveUp("unchecked", f"{check}: {last.reason}", None)
        accepted = all(isinstance(each, CheckResult) and each.accepted for each in said)
        answer = self._appraised[ordinal].fingerprint if accepted and self._equal_once else None
        self.schedule.decide(ordinal, accepted=accepted, answer=answer)

    def judged_teacher(self, ordinal: int) -> Interpreter:
        """The teacher that gave an answer which checks judge."""
        return self._samples.teacher(ordinal, self._appraised[ordinal].teacher)

    def close(self, number: int, reason: GiveUp) -> None:
        """Ask nothing more in the series with this number; samples still missing are given up for this reason.

        If a verdict is still awaited this does nothing yet, because it may be the one that the series needs.
        """
        first = number * self._samples.per_series
        ordinals = [first + sample for sample in self._samples.chunk.samples_of(number)]
        if not any(map(self.verdicts.is_awaited, ordinals)):
            for ordinal in ordinals:
                if not self._settled[ordinal] and self.schedule.lacks(ordinal):
                    self._settle(ordinal, None, reason)

    def decided(self, ordinal: int, decided: Decided, place: Place | None, *, known: bool) -> None:
        """Apply a decision about an attempt whose reply is at `place`; `known`: False if the attempt left no trace."""
        match decided:
            case JudgedAgain():
                self._judge_again(ordinal)
            case Reopened():
                if ordinal in self.given_up or ordinal in self.spent:
                    self._attempts.forget(ordinal)
                self._reopen(ordinal)
            case MovedOn(teacher):
                if self._samples.is_chain and not self._settled[ordinal] and teacher < len(self._samples.teachers):
                    self._move_on(ordinal, max(teacher, self._moved.get(ordinal, 0)))
            case GiveUp() if known:
                if not self._settled[ordinal] and self._may_move_on(ordinal, decided):
                    self._spend(ordinal, place, decided)
                elif not self._settled[ordinal]:
                    self._settle(ordinal, place, decided)
                elif ordinal in self.given_up:
                    self.given_up[ordinal] = decided
            case AccountBlamed() if known and (tries := self._attempts.of(ordinal)).failures:
                tries.failures -= 1
                tries.overloads += 1
                self._reopen(ordinal)
            case _:
                pass

    def _judge_again(self, ordinal: int) -> None:
        reason = self.given_up.get(ordinal)
        if reason is not None and reason.kind == "unchecked":
            self.verdicts.forget_unchecked(ordinal)
            del self.given_up[ordinal]
            self.schedule.reopen(ordinal)
            self._await_verdicts(ordinal)

    def _reopen(self, ordinal: int) -> None:
        if self.spent.pop(ordinal, None) is not None:
            self.settlements.drop(ordinal)
            self.answers.places[ordinal] = None
        if self.given_up.pop(ordinal, None) is not None:
            self.settlements.drop(ordinal)
            self.answers.places[ordinal] = None
            self._settled[ordinal] = 0
            self.schedule.reopen(ordinal)


def _schedule(
    samples: ChunkSamples, excluded: Collection[int], kept: Mapping[SeriesKey, Collection[bytes]]
) -> SampleStates:
    chunk = samples.chunk
    if not chunk.accept:
        asked = sorted(set(range(len(samples))).difference(excluded)) if chunk.retried else None
        return AllSamples(len(samples), asked=asked)
    numbers = range(chunk.series_count)
    each = samples.per_series
    return UntilAccepted(
        [[number * each + sample for sample in chunk.samples_of(number)] for number in numbers],
        samples=each,
        needs=[chunk.need(number) for number in numbers],
        kept=[kept.get(chunk.key_of(number), ()) for number in numbers],
    )
