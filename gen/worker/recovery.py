"""Recovery: what earlier owners of a chunk left is copied into the new owner's journal, and folded into its state.

Frames may be repeated any number of times: several journals contain copies of the same frames.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from stillhouse.gen.journal.file import JournalFile, Place
from stillhouse.gen.journal.frames import NOTES, Frame, Kind, encode
from stillhouse.gen.worker.chunk_samples import ChunkSamples
from stillhouse.gen.worker.chunk_state import ChunkState
from stillhouse.gen.worker.decision_frames import read_decided
from stillhouse.gen.worker.hearing import Hearing

_UNKNOWN = Frame(Kind.CUT, 0, 0.0)
"""Stands for the frame of an attempt of which nothing is known."""


class Recovery:
    """One recovery, of a chunk that nothing was asked of yet."""

    def __init__(
        self,
        samples: ChunkSamples,
        state: ChunkState,
        journal: JournalFile,
        *,
        carried: Mapping[int, Frame],
        hearings: Mapping[int, Hearing] = MappingProxyType({}),
    ) -> None:
        """`carried`: answers that earlier shards have and count. `hearings`: by stage, those of the chunk's judges."""
        self._samples = samples
        self._state = state
        self._journal = journal
        self._carried = carried
        self._attempts: dict[tuple[int, float], Frame | None] = {}
        """(ordinal, at) to its SENT frame; None: it has ended."""
        self._late: dict[tuple[int, float], Frame | None] = {}
        """Attempts at samples that were already answered, by owners that did not know of each other."""
        self._hearings = hearings
        self._heard: defaultdict[int, list[Frame]] = defaultdict(list)
        """Frames of attempts at judges, by stage."""
        self._copied: set[bytes] = set()
        """Digests of notes."""
        self._unsettled: dict[tuple[int, float], Place] = {}
        """(ordinal, at) to a reply that settled nothing, or with which its sample was given up on."""

    def restore(self, frames: Iterable[Frame], *, died: bool) -> bool:
        """Copy and fold these frames; True if there were any.

        Notes other than DECIDED and VERDICT, and frames of stages that belong to no judge, are copied but ignored.

        `died`: the last owner's process died while the run lived on, so a request that it had in flight may have killed
        it.

        Raises:
            StoreAway: the journal can't be written or read.
        """
        found = False
        for frame in frames:
            found = True
            if frame.stage or frame.kind in NOTES:
                self._note(frame)
            else:
                self._attempt(frame)
        for sent in self._attempts.values():
            if sent is not None:
                frame = sent._replace(kind=Kind.DIED if died else Kind.CUT)
                self._state.fold(frame, self._journal.append(frame))
        for sent in self._late.values():
            if sent is not None:
                frame = sent._replace(kind=Kind.CUT)
                self._journal.append(frame)
                self._state.count_cost(frame, None)
        for stage, hearing in self._hearings.items():  # once everything is known about the answers that they judge
            hearing.restore(self._heard.pop(stage, ()), died=died)
        self._state.spending.recovered = self._state.spending.total
        return found

    @property
    def attempts(self) -> Collection[tuple[int, float]]:
        """(ordinal, at) of all attempts found."""
        return self._attempts.keys()

    def _note(self, frame: Frame) -> None:
        digest = hashlib.blake2b(b"".join(encode(frame)), digest_size=16).digest()
        if digest in self._copied:
            return
        self._copied.add(digest)
        self._journal.append(frame)
        if frame.ordinal >= len(self._samples):
            return
        if frame.stage in self._hearings and frame.kind not in NOTES:
            self._heard[frame.stage].append(frame)
        if frame.kind is Kind.VERDICT and self._state.verdicts.recall(frame):
            self._state.judged(frame.ordinal)
        if frame.kind is Kind.DECIDED and not frame.stage and (decided := read_decided(frame)) is not None:
            attempt = (frame.ordinal, frame.at)
            self._state.decided(frame.ordinal, decided, self._unsettled.get(attempt), known=attempt in self._attempts)

    def _attempt(self, frame: Frame) -> None:
        """A frame of an attempt at the teacher; a frame that says nothing new is skipped."""
        ordinal, state = frame.ordinal, self._state
        if frame.teacher is not None and not self._samples.knows(frame.teacher):
            return
        if ordinal >= len(self._samples):
            return
        if state.is_final(ordinal):
            self._take_late(frame)
            return
        attempt = (ordinal, frame.at)
        carried = self._carried.get(ordinal)
        counts = carried is None or carried.at != frame.at
        if attempt not in self._attempts:
            state.attempted(ordinal, counts=counts, teacher=frame.teacher)
        elif self._attempts[attempt] is None or frame.kind is Kind.SENT:
            return
        self._attempts[attempt] = frame if frame.kind is Kind.SENT else None
        kept_at = self._journal.append(frame)
        state.fold(frame, kept_at, counts=counts)
        if frame.has_reply and (not state.is_settled(ordinal) or ordinal in state.given_up):
            self._unsettled[attempt] = kept_at

    def _take_late(self, frame: Frame) -> None:
        """A frame of an attempt at a sample that is already answered: only its cost counts."""
        attempt = (frame.ordinal, frame.at)
        attempts = self._attempts if attempt in self._attempts else self._late
        known = attempts.get(attempt, _UNKNOWN)
        if known is None or (known is not _UNKNOWN and frame.kind is Kind.SENT):
            return
        attempts[attempt] = frame if frame.kind is Kind.SENT else None
        self._journal.append(frame)
        self._state.count_cost(frame, self._state.outcome_of(frame))
