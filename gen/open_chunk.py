"""A leased chunk: each of its samples is to be asked, under way, or settled; what is settled is in the journal.

Its state is a fold over frames, so that a chunk recovered from the journals of dead workers is in just the state that
they left it in, less what was under way.
"""

from collections.abc import Callable, Iterable, Iterator

from gen.chunk import Chunk
from gen.http import Reply
from gen.journal import ERROR_BODY_BYTES, Frame, JournalFile, Kind
from gen.outcome import Ambiguous, Outcome, Overload
from gen.retry import MAX_DEATHS, Decision, GiveUp, Settled, Tries, decide, note
from gen.teacher_client import TeacherClient
from schemas.prompt import Prompt

Place = tuple[int, int]
"""Where in the journal a frame is: (offset, length)."""


class OpenChunk:
    """A chunk's samples, by ordinal: prompt x samples + sample."""

    def __init__(self, chunk: Chunk, journal: JournalFile, *, samples: int, client_of: "ClientOf") -> None:
        self.chunk = chunk
        self.journal = journal
        self.samples = samples
        self._client_of = client_of
        count = len(chunk.prompts) * samples
        self.answers: list[Place | None] = [None] * count
        """Where each settled answer is; for a Failure, where its last reply is."""
        self.given_up: dict[int, GiveUp] = {}
        self._tries: dict[int, Tries] = {}
        """Of samples that were tried more than once, or are being tried."""
        self.left = count
        """Samples not settled."""
        self._settled = bytearray(count)

    def prompt(self, ordinal: int) -> Prompt:
        """The sample's prompt."""
        return self.chunk.prompts[ordinal // self.samples]

    def client(self, ordinal: int) -> TeacherClient:
        """The teacher the sample is asked of: always the same one."""
        return self._client_of(self.prompt(ordinal).key, ordinal % self.samples)

    def tries(self, ordinal: int) -> Tries:
        """What has been tried."""
        return self._tries.get(ordinal) or Tries(attempts=1 if self._settled[ordinal] else 0)

    def todo(self) -> Iterator[int]:
        """The samples to be asked."""
        return (ordinal for ordinal, settled in enumerate(self._settled) if not settled)

    def sent(self, ordinal: int, *, at: float) -> None:
        """An attempt is about to be sent.

        Raises:
            StoreAway: the journal can't be written; the attempt must not be sent.
        """
        self.journal.append(Frame(Kind.SENT, ordinal, at))
        self._tries.setdefault(ordinal, Tries()).attempts += 1

    def unanswered(self, ordinal: int, kind: Kind, outcome: Overload | Ambiguous, *, at: float) -> Decision:
        """The attempt ended without a reply."""
        self.journal.append(Frame(kind, ordinal, at))
        return self._judge(ordinal, outcome, None)

    def answered(
        self,
        ordinal: int,
        reply: Reply,
        *,
        at: float,
        latency_s: float,
        endpoint: str,
        read: Callable[[Reply], Outcome],
    ) -> tuple[Outcome, Decision]:
        """A reply came: it is in the journal before it is read."""
        body = reply.body if reply.status < 300 else reply.body[:ERROR_BODY_BYTES]
        place = self.journal.append(Frame(Kind.ANSWERED, ordinal, at, latency_s, reply.status, endpoint, body))
        outcome = read(reply)
        return outcome, self._judge(ordinal, outcome, place)

    def _judge(self, ordinal: int, outcome: Outcome, place: Place | None) -> Decision:
        tries = self._tries.setdefault(ordinal, Tries())
        note(outcome, tries)
        decision = decide(outcome, tries, max_attempts=self.client(ordinal).teacher.max_attempts)
        if isinstance(decision, (Settled, GiveUp)) and not self._settled[ordinal]:
            self._settle(ordinal, place, decision)
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
        """Take in what earlier owners left, copying it into this journal.

        `died`: the last owner's process died alone, so that what it had under way may have killed it.
        """
        under_way: dict[int, int] = {}
        for frame in frames:
            if frame.ordinal >= len(self.answers) or self._settled[frame.ordinal]:
                continue
            place = self.journal.append(frame)
            self._fold(frame, place, under_way)
        for ordinal, count in under_way.items():
            if count <= 0 or self._settled[ordinal]:
                continue
            tries = self._tries[ordinal]
            tries.maybe_billed += count
            if died:
                self.journal.append(Frame(Kind.DIED, ordinal, 0.0))
                self._died(ordinal, tries)

    def _fold(self, frame: Frame, place: Place, under_way: dict[int, int]) -> None:
        ordinal = frame.ordinal
        tries = self._tries.setdefault(ordinal, Tries())
        match frame.kind:
            case Kind.SENT:
                tries.attempts += 1
                under_way[ordinal] = under_way.get(ordinal, 0) + 1
                return
            case Kind.DIED:
                self._died(ordinal, tries)
                return
            case Kind.ANSWERED:
                outcome = self.client(ordinal).read(Reply(frame.status, {}, frame.body))
            case Kind.NOT_SENT:
                outcome = Overload("no connection")
            case Kind.LOST:
                outcome = Ambiguous("no whole reply")
        under_way[ordinal] = under_way.get(ordinal, 0) - 1
        self._judge(ordinal, outcome, place)

    def _died(self, ordinal: int, tries: Tries) -> None:
        tries.deaths += 1
        if tries.deaths >= MAX_DEATHS and not self._settled[ordinal]:
            reason = f"{tries.deaths} workers died while it was under way"
            self._settle(ordinal, None, GiveUp("poison", reason, None))

    def alike_failure(self) -> GiveUp | None:
        """The failure all samples share, where every one of them was refused as a bad request."""
        reasons = list(self.given_up.values())
        alike = reasons and len(reasons) == len(self.answers) and {r.kind for r in reasons} == {"bad_request"}
        return reasons[0] if alike else None


ClientOf = Callable[[bytes, int], TeacherClient]
"""The teacher for (prompt key, sample)."""
