"""A leased chunk: each of its samples is to be asked, under way, or settled; what is settled is in the journal.

Its state is a fold over frames, so that a chunk recovered from the journals of dead workers is in just the state that
they left it in, less what was under way.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import ERROR_BODY_BYTES, NOTES, Frame, Kind, encode
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Ambiguous, Outcome, Overload
from stillhouse.gen.teachers.retry import MAX_DEATHS, Decision, GiveUp, Settled, Tries, decide, note
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.prompt import Prompt

Place = tuple[int, int]
"""Where in the journal a frame is: (offset, length)."""

REMEMBERED_BYTES = 4 * 2**20
"""Of a chunk's replies: what they said is kept until the seal, which need not read them twice."""

MIN_ALIKE = 3
"""So many prompts, all of a chunk, refused alike tell of the recipe; fewer may just be bad ones."""


class OpenChunk:
    """A chunk's samples, by ordinal: prompt x samples + sample."""

    def __init__(self, chunk: Chunk, journal: JournalFile, *, samples: int, teacher_of: "TeacherOf") -> None:
        self.chunk = chunk
        self.journal = journal
        self.samples = samples
        self._teacher_of = teacher_of
        count = len(chunk.prompts) * samples
        self.answers: list[Place | None] = [None] * count
        """Where each settled answer is; for a Failure, where its last reply is."""
        self.given_up: dict[int, GiveUp] = {}
        self._outcomes: dict[int, Outcome] = {}
        """What settled answers said, of `REMEMBERED_BYTES` of replies at most."""
        self._remembered_bytes = 0
        self._tries: dict[int, Tries] = {}
        """Of samples that were tried more than once, or are being tried."""
        self.had_owners = False
        """Whether others worked on it before."""
        self._settled = bytearray(count)
        """A byte a sample; those that a retry generation does not ask are settled from the beginning."""
        for number, retried in chunk.retried.items():
            for sample in set(range(samples)) - retried.kinds.keys():
                self._settled[number * samples + sample] = 1
        self.asked = self._settled.count(0)
        """Samples that are the chunk's to ask."""
        self.left = self.asked
        """Of these, not settled."""

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
        return self._tries.get(ordinal) or Tries(attempts=1 if self._settled[ordinal] else 0)

    def samples_of(self, number: int) -> Iterable[int]:
        """The samples that are asked of the chunk's prompt with this number."""
        retried = self.chunk.retried.get(number)
        return range(self.samples) if retried is None else sorted(retried.kinds)

    def todo(self) -> Iterator[int]:
        """The samples to be asked."""
        return (ordinal for ordinal, settled in enumerate(self._settled) if not settled)

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """An attempt is about to be sent to the teacher with this place.

        Raises:
            StoreAway: the journal can't be written; the attempt must not be sent.
        """
        self.journal.append(Frame(Kind.SENT, ordinal, at, endpoint=endpoint, teacher=place))
        self._tries.setdefault(ordinal, Tries()).attempts += 1

    def unanswered(
        self, ordinal: int, kind: Kind, outcome: Overload | Ambiguous, *, at: float, place: int | None = None
    ) -> Decision:
        """The attempt ended without a reply."""
        frame = Frame(kind, ordinal, at, teacher=place)
        self.journal.append(frame)
        return self._judge(frame, outcome, None)

    def answered(
        self,
        ordinal: int,
        reply: Reply,
        *,
        at: float,
        latency_s: float,
        endpoint: str,
        read: Callable[[Reply], Outcome],
        place: int | None = None,
    ) -> tuple[Outcome, Decision]:
        """A reply came: it is in the journal before it is read."""
        if reply.status >= 300:  # cut before it is read, so that whoever reads the journal reads the same
            reply = replace(reply, body=reply.body[:ERROR_BODY_BYTES])
        headers = tuple(reply.headers.items())
        frame = Frame(Kind.ANSWERED, ordinal, at, latency_s, reply.status, endpoint, reply.body, headers, place)
        kept_at = self.journal.append(frame)
        outcome = read(reply)
        decision = self._judge(frame, outcome, kept_at)
        if self.answers[ordinal] is kept_at and self._remembered_bytes + len(reply.body) <= REMEMBERED_BYTES:
            self._outcomes[ordinal] = outcome
            self._remembered_bytes += len(reply.body)
        return outcome, decision

    def outcome(self, ordinal: int, frame: Frame) -> Outcome:
        """What the settled answer in this frame said."""
        return self._outcomes.get(ordinal) or self._read(frame)

    def _read(self, frame: Frame) -> Outcome:
        """What the reply in the frame says, to the teacher that the frame names."""
        reply = Reply(frame.status, dict(frame.headers), frame.body)
        return self.teacher(frame.ordinal, frame.teacher).read(reply)

    def _judge(self, frame: Frame, outcome: Outcome, place: Place | None) -> Decision:
        ordinal = frame.ordinal
        tries = self._tries.setdefault(ordinal, Tries())
        note(outcome, tries)
        decision = decide(outcome, tries, max_attempts=self.teacher(ordinal, frame.teacher).teacher.max_attempts)
        if isinstance(decision, (Settled, GiveUp)) and not self._settled[ordinal]:
            self._settle(ordinal, place, decision)
        elif isinstance(decision, Settled) and ordinal in self.given_up:
            # Two owners asked it, for a while unknown to each other: a paid answer is worth more than a Failure.
            del self.given_up[ordinal]
            self.answers[ordinal] = place
        return decision

    def _settle(self, ordinal: int, place: Place | None, decision: Settled | GiveUp) -> None:
        self._settled[ordinal] = 1
        self.answers[ordinal] = place
        self.left -= 1
        if isinstance(decision, GiveUp):
            self.given_up[ordinal] = decision
        elif self._tries[ordinal] == Tries(attempts=1):
            del self._tries[ordinal]  # nearly all samples: nothing to remember

    def recover(self, frames: Iterable[Frame], *, died: bool) -> None:
        """Take in what earlier owners left, copying it into this journal; a frame may come any number of times.

        Notes, and frames of other stages than the teacher's, are copied and say nothing here.

        `died`: the last owner's process died alone, so that what it had under way may have killed it.
        """
        attempts: dict[tuple[int, float], Frame | None] = {}
        """(ordinal, at) to its SENT frame; None: it has ended."""
        copied: set[bytes] = set()
        for frame in frames:
            self.had_owners = True
            if frame.stage or frame.kind in NOTES:
                digest = hashlib.blake2b(b"".join(encode(frame)), digest_size=16).digest()
                if digest not in copied:
                    copied.add(digest)
                    self.journal.append(frame)
                continue
            if frame.teacher is not None and frame.teacher >= len(self._teacher_of.teachers):
                continue
            if frame.ordinal >= len(self.answers) or (
                self._settled[frame.ordinal] and frame.ordinal not in self.given_up
            ):
                continue
            attempt = (frame.ordinal, frame.at)
            if attempt not in attempts:
                self._tries.setdefault(frame.ordinal, Tries()).attempts += 1
            elif attempts[attempt] is None or frame.kind is Kind.SENT:
                continue
            attempts[attempt] = frame if frame.kind is Kind.SENT else None
            self._fold(frame, self.journal.append(frame))
        for sent in attempts.values():
            if sent is not None:
                frame = sent._replace(kind=Kind.DIED if died else Kind.CUT)
                self._fold(frame, self.journal.append(frame))
        if self.had_owners:
            self.journal.sync()  # before the journals it was copied from go

    def _fold(self, frame: Frame, place: Place) -> None:
        """What a frame that was not seen before says of its sample."""
        ordinal = frame.ordinal
        match frame.kind:
            case Kind.SENT:
                pass
            case Kind.ANSWERED:
                self._judge(frame, self._read(frame), place)
            case Kind.NOT_SENT:
                self._judge(frame, Overload("no connection"), None)
            case Kind.LOST:
                self._judge(frame, Ambiguous("no whole reply"), None)
            case Kind.DIED | Kind.CUT:
                self._cut(ordinal, died=frame.kind is Kind.DIED)

    def _cut(self, ordinal: int, *, died: bool) -> None:
        tries = self._tries[ordinal]
        tries.maybe_billed += 1
        tries.deaths += died
        if tries.deaths >= MAX_DEATHS and not self._settled[ordinal]:
            reason = f"{tries.deaths} workers died while it was under way"
            self._settle(ordinal, None, GiveUp("poison", reason, None))

    def alike_failure(self) -> GiveUp | None:
        """The failure all samples share, where every one of them, of several prompts, was refused as a bad request."""
        reasons = list(self.given_up.values())
        alike = len(reasons) == self.asked and {reason.kind for reason in reasons} == {"bad_request"}
        return reasons[0] if alike and len(self.chunk.prompts) >= MIN_ALIKE else None


class TeacherOf(Protocol):
    """Which teacher a sample is asked of."""

    @property
    def teachers(self) -> Sequence[Interpreter]:
        """All of the recipe's, in its order."""
        ...

    def __call__(self, key: bytes, sample: int, /) -> Interpreter:
        """The teacher for the sample of the prompt with this key; always the same one."""
        ...
