"""A leased chunk: each of its samples waits, is in flight, or is settled; settled ones are in the journal.

Its state is a fold over frames, so that a chunk recovered from the journals of dead workers is in exactly the state
they left it in, minus the requests in flight. Which samples wait for others, or are no longer needed, `sample_states`
says.
"""

import hashlib
import struct
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import orjson

from stillhouse.gen.checks.base import Answer, CheckResult, Unchecked, Verdict, answer_of
from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import COMPRESSED, ERROR_BODY_BYTES, EVENT_STREAM, NOTES, Frame, Kind, encode
from stillhouse.gen.teachers.event_stream import is_stream
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, NoConnection, Outcome
from stillhouse.gen.teachers.retry import (
    MAX_DEATHS,
    SETTLED,
    Again,
    Blame,
    Decision,
    GiveUp,
    Pause,
    Settled,
    Tries,
    decide,
    note,
)
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.awaited_verdicts import AwaitedVerdicts
from stillhouse.gen.worker.earlier_answers import fingerprint
from stillhouse.gen.worker.sample_states import AllSamples, SampleStates, UntilAccepted
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.prompt import Prompt

Place = tuple[int, int]
"""Where in the journal a frame is: (offset, length)."""

REMEMBERED_BYTES = 4 * 2**20
"""Bytes of a chunk's replies whose parsed answers are kept for the seal, which then need not read them again."""

STREAM_BYTES = 2**14
"""Larger raw streams are compressed in the journal: each of their events repeats what all have in common."""

_AS_KEPT = struct.Struct("<f")
"""Rounds a latency as the journal stores it, so that every reader sees the same value."""

UNPAID = ("bad_request", "too_long", "overload")
"""Kinds of Failures that cost nothing, unless a reply before did."""

HEAD_BYTES = 300
"""How much of a reply is shown when it stops a run."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Outcome of a sample, as the guard counts it."""

    teacher: str
    endpoint: str
    prompt: Hashable
    """None of a record."""
    reason: str | None
    """Why it is rejected or a Failure; None: a record."""
    words: str = ""
    word: str = ""
    """The answer's own finish reason."""
    head: str = ""
    """The start of the reply."""
    settled: bool = True
    """False if the reply was useless and the sample is asked again."""
    ordinal: int = -1


class Received(NamedTuple):
    """A reply that is in the journal, and what it says."""

    frame: Frame
    place: Place
    outcome: Outcome
    size: int
    """Bytes of the reply, of a stream once it is folded."""


_UNTRIED = Tries()
_ONCE = Tries(attempts=1)
"""Of samples that have no entry of their own; never changed."""


class OpenChunk:
    """A chunk's samples, by ordinal: prompt x samples + sample."""

    def __init__(
        self,
        chunk: Chunk,
        journal: JournalFile,
        *,
        samples: int,
        teacher_of: "TeacherOf",
        equal_once: bool = True,
        kept: Mapping[bytes, Collection[bytes]] = MappingProxyType({}),
        carried: Mapping[int, Frame] = MappingProxyType({}),
    ) -> None:
        """Args:
        chunk: what it is made of.
        journal: what everything is written to; empty.
        samples: ordinals per prompt.
        teacher_of: the teachers.
        equal_once: equal answers to a prompt count once towards the accepted ones.
        kept: by prompt key, the fingerprints of the answers in earlier shards.
        carried: answers that earlier shards have and no check could judge: they are judged in the place of asking.
        """
        self.chunk = chunk
        self.journal = journal
        self.samples = samples
        self._teacher_of = teacher_of
        count = len(chunk.prompts) * samples
        self.answers: list[Place | None] = [None] * count
        """Place of each settled answer; for a Failure, of its last reply."""
        self.given_up: dict[int, GiveUp] = {}
        self._outcomes: dict[int, Outcome] = {}
        """Parsed settled answers, of at most `REMEMBERED_BYTES` of replies."""
        self.remembered_bytes = 0
        """Bytes of the replies whose answers are remembered."""
        self._first: set[int] = set()
        """Samples in flight for the first time, which is nearly all there is to say of them."""
        self._tries: dict[int, Tries] = {}
        """Of samples of which there is more to say than that they were asked once."""
        self._records: dict[tuple[str, str], Settlement] = {}
        """The settlement of every record of a teacher and endpoint: they are alike."""
        self.had_owners = False
        """True if others worked on it before."""
        self._settled = bytearray(count)
        """One byte per sample; samples that a retry generation does not ask start out settled."""
        for number, retried in chunk.retried.items():
            for sample in set(range(samples)) - retried.kinds.keys():
                self._settled[number * samples + sample] = 1
        self.asked = self._settled.count(0)
        """Number of samples to ask at most."""
        self.verdicts = AwaitedVerdicts(chunk.columns.checks)
        """What the recipe's checks say of the answers."""
        self._carried = carried
        self._equal_once = equal_once and chunk.accept > 0
        self._states = self._new_states(kept)
        self.settlements: list[Settlement] = []
        """Samples settled by replies since last taken."""

    def _new_states(self, kept: Mapping[bytes, Collection[bytes]]) -> SampleStates:
        chunk, samples = self.chunk, self.samples
        if not chunk.accept:
            asked = [ordinal for ordinal, settled in enumerate(self._settled) if not settled]
            return AllSamples(len(self._settled), asked=asked if chunk.retried else None)
        numbers = range(len(chunk.prompts))
        candidates = [[number * samples + sample for sample in self.samples_of(number)] for number in numbers]
        needs = [self.need(number) for number in numbers]
        seen = [kept.get(prompt.key, ()) if self._equal_once else () for prompt in chunk.prompts]
        return UntilAccepted(candidates, samples=samples, needs=needs, kept=seen)

    @property
    def left(self) -> int:
        """Samples that are needed and not decided; with none left the chunk can be sealed."""
        return self._states.left

    @property
    def is_due(self) -> bool:
        """True if its worker has to act: no sample is left, others may be asked, or answers await their verdicts."""
        return self._states.left == 0 or self._states.is_ready or self.verdicts.has_fresh

    def take(self) -> Iterator[int]:
        """The samples that may be asked now; each is handed out once.

        Raises:
            StoreAway: the journal can't be written.
        """
        while self._states.is_ready:  # an answer that is carried over may be rejected at once
            for ordinal in self._states.take():
                if (frame := self._carried.get(ordinal)) is None:
                    yield ordinal
                else:
                    self._tried(ordinal)  # which the shard that has the answer counts
                    self._fold(frame, self.journal.append(frame))

    def was_carried(self, ordinal: int) -> bool:
        """True if the sample's answer is one that an earlier shard has, and no check could judge."""
        return ordinal in self._carried and self._settled[ordinal] == 1

    def is_settled(self, ordinal: int) -> bool:
        """True if nothing is asked for the sample any more: it has its answer, is given up, or is not this chunk's."""
        return self._settled[ordinal] == 1

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.chunk.prompts[ordinal // self.samples]

    def teacher(self, ordinal: int, place: int | None = None) -> Interpreter:
        """The teacher with this place in the recipe; without one, the one that the sample is assigned to."""
        if place is not None:
            return self._teacher_of.teachers[place]
        return self._teacher_of(self.prompt(ordinal).key, ordinal % self.samples)

    def tries(self, ordinal: int) -> Tries:
        """What has been tried."""
        if (tries := self._tries.get(ordinal)) is not None:
            return tries
        return _ONCE if self._settled[ordinal] or ordinal in self._first else _UNTRIED

    def _tried(self, ordinal: int) -> Tries:
        """The sample's own entry, to be changed."""
        if (tries := self._tries.get(ordinal)) is None:
            tries = self._tries[ordinal] = Tries(attempts=1 if ordinal in self._first else 0)
            self._first.discard(ordinal)
        return tries

    def need(self, number: int) -> int:
        """Accepted answers that the prompt with this number lacks; under `ask.accept` only."""
        retried = self.chunk.retried.get(number)
        return self.chunk.accept if retried is None or retried.need is None else retried.need

    def samples_of(self, number: int) -> Iterable[int]:
        """The samples that may be asked of the chunk's prompt with this number."""
        retried = self.chunk.retried.get(number)
        return range(self.samples) if retried is None else sorted(retried.kinds)

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """An attempt is about to be sent to the teacher with this place.

        Raises:
            StoreAway: the journal can't be written; the attempt must not be sent.
        """
        self.journal.append(Frame(Kind.SENT, ordinal, at, endpoint=endpoint, teacher=place))
        if ordinal in self._tries or ordinal in self._first:
            self._tried(ordinal).attempts += 1
        else:
            self._first.add(ordinal)

    def unanswered(
        self,
        ordinal: int,
        kind: Kind,
        outcome: NoConnection | Ambiguous,
        *,
        at: float,
        place: int | None = None,
        endpoint: str = "",
    ) -> Decision:
        """The attempt ended without a reply."""
        frame = Frame(kind, ordinal, at, endpoint=endpoint, teacher=place)
        self.journal.append(frame)
        decision = self._judge(frame, outcome, None)
        if isinstance(outcome, Ambiguous) and outcome.deadline:  # which the frame does not say
            self._note_decision(frame, decision, None)
        return decision

    def received(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Received:
        """A reply came: it is in the journal before it is read. `answered` says what follows from it.

        Raises:
            StoreAway: the journal can't be written.
        """
        # Truncated before it is read, so that readers of the journal see the same; so is the latency.
        body = reply.body[:ERROR_BODY_BYTES] if reply.status >= 300 else reply.body
        (latency_s,) = _AS_KEPT.unpack(_AS_KEPT.pack(latency_s))
        headers = tuple(reply.headers.items())
        flags = 0
        if reply.status < 300 and is_stream(reply.headers, body):
            flags = EVENT_STREAM | (COMPRESSED if len(body) > STREAM_BYTES else 0)
        frame = Frame(Kind.ANSWERED, ordinal, at, latency_s, reply.status, endpoint, body, headers, place, flags=flags)
        kept_at = self.journal.append(frame)
        teacher = self.teacher(ordinal, place)
        folded = teacher.fold(Reply(reply.status, reply.headers, body, latency_s))
        return Received(frame, kept_at, teacher.read(folded), len(folded.body))

    def answered(self, received: Received, *, blame: Blame | None = None) -> Decision:
        """What follows from a reply. `blame`: who is to blame for a refusal, by what others met.

        Raises:
            StoreAway: the journal can't be written.
        """
        frame, kept_at, outcome, size = received
        decision = self._judge(frame, outcome, kept_at, blame)
        self._note_decision(frame, decision, blame)
        if self.answers[frame.ordinal] is kept_at and self.remembered_bytes + size <= REMEMBERED_BYTES:
            self._outcomes[frame.ordinal] = outcome
            self.remembered_bytes += size
        return decision

    def outcome(self, ordinal: int, frame: Frame) -> Outcome:
        """Parse the settled answer in this frame."""
        return self._outcomes.get(ordinal) or self._read(frame)

    def _read(self, frame: Frame) -> Outcome:
        """Read the reply in the frame, with the teacher that the frame names."""
        reply = Reply(frame.status, dict(frame.headers), frame.body, frame.latency_s)
        return self.teacher(frame.ordinal, frame.teacher).read(reply)

    def _note_decision(self, frame: Frame, decision: Decision, blame: Blame | None) -> None:
        """Keep a decision that the sample's own frames don't explain, see `_decided`."""
        decided: dict[str, Any] = {}
        if blame is not None and blame.on == "account" and not isinstance(decision, Pause):
            decided = {"blame": "account"}
        elif isinstance(decision, GiveUp) and (blame is not None or frame.kind is Kind.LOST):
            decided = {"give_up": decision.kind, "message": decision.message, "status": decision.status}
        if decided:
            body = orjson.dumps(decided)
            self.journal.append(Frame(Kind.DECIDED, frame.ordinal, frame.at, body=body, teacher=frame.teacher))

    def _decided(self, frame: Frame, place: Place | None, *, known: bool) -> None:
        """Take over the decision in a frame, on the attempt whose reply is at `place`; `known`: that was seen."""
        decided, ordinal = orjson.loads(frame.body), frame.ordinal
        kind = decided.get("give_up")
        if decided.get("judge_again"):
            self._judge_again(ordinal)
        elif decided.get("reopen"):
            if ordinal in self.given_up:
                self._tries[ordinal] = Tries()
            self._reopen(ordinal)
        elif not known:
            pass
        elif kind in RETRYABLE:
            reason = GiveUp(kind, decided["message"], decided["status"])
            if not self._settled[ordinal]:
                self._settle(ordinal, place, reason)
            elif ordinal in self.given_up:
                self.given_up[ordinal] = reason
        elif decided.get("blame") == "account" and (tries := self._tries.get(ordinal)) is not None and tries.failures:
            tries.failures -= 1
            tries.overloads += 1
            self._reopen(ordinal)

    def _judge(self, frame: Frame, outcome: Outcome, place: Place | None, blame: Blame | None = None) -> Decision:
        ordinal = frame.ordinal
        if isinstance(outcome, Completion) and ordinal in self._first:  # nearly always
            self._first.discard(ordinal)
            self._take_answer(frame, outcome, place, SETTLED)
            return SETTLED
        tries = self._tried(ordinal)
        note(outcome, tries, endpoint=frame.endpoint, blame=blame)
        teacher = self.teacher(ordinal, frame.teacher).teacher
        decision = decide(
            outcome, tries, max_attempts=teacher.max_attempts, endpoints=max(1, len(teacher.urls)), blame=blame
        )
        if isinstance(decision, (Settled, GiveUp)) and not self._settled[ordinal]:
            self._take_answer(frame, outcome, place, decision)
        elif isinstance(outcome, Malformed) and isinstance(decision, Again):
            given_up = GiveUp("malformed", outcome.message, outcome.status)
            self.settlements.append(replace(self._settlement(frame, outcome, given_up), settled=False))
        elif isinstance(decision, Settled) and ordinal in self.given_up:
            # Two owners asked it without knowing of each other: a paid answer is worth more than a Failure.
            del self.given_up[ordinal]
            self.answers[ordinal] = place
            self._states.reopen(ordinal)
            self._conclude(ordinal, outcome, self._settlement(frame, outcome, decision).reason)
        return decision

    def _take_answer(self, frame: Frame, outcome: Outcome, place: Place | None, decision: Settled | GiveUp) -> None:
        settlement = self._settlement(frame, outcome, decision)
        self._settle(frame.ordinal, place, decision)
        if isinstance(decision, Settled):
            self._conclude(frame.ordinal, outcome, settlement.reason)
        self.settlements.append(settlement)

    def _conclude(self, ordinal: int, outcome: Outcome, reason: str | None) -> None:
        """The sample's answer is rejected by the rules for this reason; or accepted by them, and left to the checks."""
        if reason is not None or not isinstance(outcome, Completion):
            self._states.decide(ordinal, accepted=False)
            return
        if not (self.verdicts.checks or self._equal_once):  # most recipes
            self._states.decide(ordinal, accepted=True)
            return
        if self.verdicts.checks:
            self._states.answered(ordinal)
            if not self.verdicts.expect(ordinal, answer_of(outcome)):
                return
        self._take_verdicts(ordinal, outcome)

    def answer_to_judge(self, ordinal: int) -> Answer:
        """What the checks judge of the sample's answer."""
        return answer_of(self._completion(ordinal))

    def judged(self, ordinal: int, verdicts: Sequence[Verdict], *, at: float) -> None:
        """The checks' verdicts on an answer: they are in the journal before anything acts on them.

        Raises:
            StoreAway: the journal can't be written; the answer still awaits them.
        """
        if self.verdicts.is_awaited(ordinal):
            for frame in self.verdicts.frames(ordinal, verdicts, at=at):
                self.journal.append(frame)
            self.verdicts.settle(ordinal, tuple(verdicts))
            self._take_verdicts(ordinal, self._completion(ordinal))

    def _take_verdicts(self, ordinal: int, completion: Completion) -> None:
        """Act on what the checks say of an answer; where there are none, it is accepted."""
        said = self.verdicts.said.get(ordinal, ())
        if said and isinstance(last := said[-1], Unchecked):
            check = self.verdicts.checks[len(said) - 1]
            self.given_up[ordinal] = GiveUp("unchecked", f"{check}: {last.reason}", None)
        accepted = all(isinstance(each, CheckResult) and each.accepted for each in said)
        answer = None
        if accepted and self._equal_once:
            answer = fingerprint(completion.text, completion.tool_calls)
        self._states.decide(ordinal, accepted=accepted, answer=answer)

    def _completion(self, ordinal: int) -> Completion:
        """The sample's answer, which is one that the rules let pass."""
        outcome = self._outcomes.get(ordinal)
        if outcome is None:
            place = self.answers[ordinal]
            assert place is not None, f"{self.chunk.id}: sample {ordinal} is judged without an answer"
            outcome = self._read(self.journal.read(*place))
        assert isinstance(outcome, Completion), f"{self.chunk.id}: sample {ordinal} is judged as {outcome}"
        return outcome

    def judge_again(self, *, at: float) -> None:
        """Have the chunk's next owner judge again what checks could not say anything of."""
        for ordinal, reason in list(self.given_up.items()):
            if reason.kind == "unchecked":
                self.journal.append(Frame(Kind.DECIDED, ordinal, at, body=orjson.dumps({"judge_again": True})))
                self._judge_again(ordinal)

    def _judge_again(self, ordinal: int) -> None:
        reason = self.given_up.get(ordinal)
        if reason is not None and reason.kind == "unchecked":
            self.verdicts.forget_unchecked(ordinal)
            del self.given_up[ordinal]
            self._states.reopen(ordinal)
            self._conclude(ordinal, self._completion(ordinal), None)

    def _settlement(self, frame: Frame, outcome: Outcome, decision: Settled | GiveUp) -> Settlement:
        teacher = self.teacher(frame.ordinal, frame.teacher)
        name, prompt = teacher.teacher.name, self.prompt(frame.ordinal)
        reason: str | None = "refused"
        words = word = ""
        if isinstance(decision, GiveUp):
            reason, words = decision.kind, f"HTTP {decision.status}: {decision.message}"
        elif isinstance(outcome, Completion):
            reason = rejected_by_rules(outcome, prompt, calls=self.chunk.columns.calls)
            word = outcome.finish_reason_raw or ""
            if reason is not None:
                words = f"finish_reason {word!r}"
        if reason is None:
            if (record := self._records.get((name, frame.endpoint))) is None:
                record = self._records[name, frame.endpoint] = Settlement(name, frame.endpoint, None, None)
            return record
        head = teacher.redact(" ".join(frame.body[:HEAD_BYTES].decode("utf-8", "replace").split()))
        return Settlement(name, frame.endpoint, prompt.key, reason, words, word, head, ordinal=frame.ordinal)

    def _settle(self, ordinal: int, place: Place | None, decision: Settled | GiveUp) -> None:
        self._settled[ordinal] = 1
        self.answers[ordinal] = place
        if isinstance(decision, GiveUp):
            self.given_up[ordinal] = decision
            self._states.decide(ordinal, accepted=False)
        elif self._tries.get(ordinal) == _ONCE:
            del self._tries[ordinal]  # nothing to remember

    def recover(self, frames: Iterable[Frame], *, died: bool) -> None:
        """Restore what earlier owners left, copying it into this journal; frames may be repeated any number of times.

        Notes other than DECIDED and VERDICT, and other frames of stages than the teacher's, are copied but ignored.

        `died`: the last owner's process died alone, so a request it had in flight may have killed it.
        """
        attempts: dict[tuple[int, float], Frame | None] = {}
        """(ordinal, at) to its SENT frame; None: it has ended."""
        copied: set[bytes] = set()
        unsettled: dict[tuple[int, float], Place] = {}
        """(ordinal, at) to a reply that settled nothing, or gave its sample up."""
        for frame in frames:
            self.had_owners = True
            if frame.stage or frame.kind in NOTES:
                digest = hashlib.blake2b(b"".join(encode(frame)), digest_size=16).digest()
                if digest not in copied:
                    copied.add(digest)
                    self.journal.append(frame)
                    attempt = (frame.ordinal, frame.at)
                    if frame.kind is Kind.VERDICT and frame.ordinal < len(self.answers) and self.verdicts.recall(frame):
                        self._take_verdicts(frame.ordinal, self._completion(frame.ordinal))
                    if frame.kind is Kind.DECIDED and not frame.stage and frame.ordinal < len(self.answers):
                        self._decided(frame, unsettled.get(attempt), known=attempt in attempts)
                continue
            if frame.teacher is not None and frame.teacher >= len(self._teacher_of.teachers):
                continue
            if frame.ordinal >= len(self.answers) or self._is_final(frame.ordinal):
                continue
            attempt = (frame.ordinal, frame.at)
            if attempt not in attempts:
                carried = self._carried.get(frame.ordinal)
                self._tried(frame.ordinal).attempts += carried is None or carried.at != frame.at
            elif attempts[attempt] is None or frame.kind is Kind.SENT:
                continue
            attempts[attempt] = frame if frame.kind is Kind.SENT else None
            kept_at = self.journal.append(frame)
            self._fold(frame, kept_at)
            if frame.kind is Kind.ANSWERED and (not self._settled[frame.ordinal] or frame.ordinal in self.given_up):
                unsettled[attempt] = kept_at
        for sent in attempts.values():
            if sent is not None:
                frame = sent._replace(kind=Kind.DIED if died else Kind.CUT)
                self._fold(frame, self.journal.append(frame))
        if self.had_owners:
            self.journal.sync()  # before the journals it was copied from go

    def _is_final(self, ordinal: int) -> bool:
        """True if the sample has its answer, which no other replaces; one that is not judged is an answer too."""
        if not self._settled[ordinal]:
            return False
        reason = self.given_up.get(ordinal)
        return reason is None or reason.kind == "unchecked"

    def _fold(self, frame: Frame, place: Place) -> None:
        """Apply a frame not seen before to its sample."""
        ordinal = frame.ordinal
        match frame.kind:
            case Kind.SENT:
                pass
            case Kind.ANSWERED:
                self._judge(frame, self._read(frame), place)
            case Kind.NOT_SENT:
                self._judge(frame, NoConnection("no connection"), None)
            case Kind.LOST:
                self._judge(frame, Ambiguous("no whole reply"), None)
            case Kind.DIED | Kind.CUT:
                self._cut(ordinal, died=frame.kind is Kind.DIED)

    def _cut(self, ordinal: int, *, died: bool) -> None:
        tries = self._tried(ordinal)
        tries.maybe_billed += 1
        tries.deaths += died
        if tries.deaths >= MAX_DEATHS and not self._settled[ordinal]:
            reason = f"{tries.deaths} workers died while it was in flight"
            self._settle(ordinal, None, GiveUp("poison", reason, None))

    def reopen_unpaid(self, *, teacher: str, at: float) -> None:
        """Have the chunk's next owner ask the teacher's free Failures again.

        Under `ask.accept` only the last samples asked of a prompt: what was asked after a sample rests on its end.
        """
        for ordinal, reason in sorted(self.given_up.items(), reverse=True):
            tries = self.tries(ordinal)
            costs = tries.maybe_billed or tries.wasted_input or tries.wasted_output
            if costs or reason.kind not in UNPAID or self.teacher(ordinal).teacher.name != teacher:
                continue
            end = (ordinal // self.samples + 1) * self.samples
            if self.chunk.accept and any(self.tries(later).attempts for later in range(ordinal + 1, end)):
                continue
            self.journal.append(Frame(Kind.DECIDED, ordinal, at, body=orjson.dumps({"reopen": True})))
            self._tries[ordinal] = Tries()
            self._reopen(ordinal)

    def _reopen(self, ordinal: int) -> None:
        if self.given_up.pop(ordinal, None) is not None:
            self.settlements = [each for each in self.settlements if each.ordinal != ordinal]
            self.answers[ordinal] = None
            self._settled[ordinal] = 0
            self._states.reopen(ordinal)


class TeacherOf(Protocol):
    """The teacher each sample is assigned to."""

    @property
    def teachers(self) -> Sequence[Interpreter]:
        """All of the recipe's, in its order."""
        ...

    def __call__(self, key: bytes, sample: int, /) -> Interpreter:
        """The teacher for the sample of the prompt with this key; always the same one."""
        ...
