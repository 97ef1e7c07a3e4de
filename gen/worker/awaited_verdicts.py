"""Which of a chunk's answers await the verdicts of the recipe's checks, and the verdicts on the others.

Pure; `open_chunk` keeps the frames. The order in which answers and verdicts are read from journals does not matter.
"""

from collections.abc import Iterator, Mapping, Sequence

from stillhouse.gen.checks.base import CheckResult, Unchecked, Verdict
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.worker.verdict_frames import Judged, read_verdict, verdict_frame


class AwaitedVerdicts:
    """Verdicts on a chunk's answers, by ordinal."""

    def __init__(self, checks: Sequence[str]) -> None:
        """`checks`: their names, in the recipe's order."""
        self.checks = checks
        self.said: dict[int, tuple[Verdict, ...]] = {}
        """The verdicts on each judged answer; checks after the first that does not accept it have none."""
        self._awaited: dict[int, bytes] = {}
        """Answers to judge, each with its text's hash."""
        self._fresh: dict[int, None] = {}
        """Answers awaiting verdicts that no checker has taken yet."""
        self._known: dict[tuple[int, bytes], dict[int, Verdict]] = {}
        """Verdicts that are in journals, by (ordinal, hash of the text) and stage."""

    @property
    def has_fresh(self) -> bool:
        """True if `take` has answers to hand out."""
        return bool(self._fresh)

    @property
    def awaited(self) -> int:
        """Answers that have no verdicts yet."""
        return len(self._awaited)

    def take(self) -> list[int]:
        """The answers to judge, each handed out once."""
        taken, self._fresh = [ordinal for ordinal in self._fresh if ordinal in self._awaited], {}
        return taken

    def is_awaited(self, ordinal: int) -> bool:
        """True if the answer has no verdicts yet."""
        return ordinal in self._awaited

    def rejecting(self, ordinal: int) -> str | None:
        """The check that rejects the answer; None if none does."""
        said = self.said.get(ordinal)
        if not said or not isinstance(said[-1], CheckResult) or said[-1].accepted:
            return None
        return self.checks[len(said) - 1]

    def expect(self, ordinal: int, text: bytes) -> bool:
        """The answer with this `text_hash` must be judged; True if journals have all verdicts on it, which then
        apply."""
        self._awaited[ordinal] = text
        if (whole := self._whole(self._known.get((ordinal, text), {}))) is None:
            self._fresh[ordinal] = None
            return False
        self.settle(ordinal, whole)
        return True

    def recall(self, frame: Frame) -> bool:
        """Process a VERDICT frame; True if it completes the verdicts on an answer that awaits them."""
        if (judged := read_verdict(frame)) is None:
            return False
        known = self._known.setdefault((frame.ordinal, judged.text), {})
        known.setdefault(judged.stage, judged.verdict)
        if self._awaited.get(frame.ordinal) != judged.text or (whole := self._whole(known)) is None:
            return False
        self.settle(frame.ordinal, whole)
        return True

    def known(self, ordinal: int) -> Mapping[int, Verdict]:
        """By stage: verdicts on an answer that awaits others; they are in the journal."""
        return self._known.get((ordinal, self._awaited.get(ordinal, b"")), {})

    def frames(self, ordinal: int, verdicts: Mapping[int, Verdict], *, at: float) -> Iterator[Frame]:
        """The frames of these verdicts on the answer, by stage, that are not in the journal yet."""
        text = self._awaited[ordinal]
        known = self._known.get((ordinal, text), {})
        for stage, verdict in verdicts.items():
            if known.get(stage) != verdict:
                yield verdict_frame(ordinal, check=self.checks[stage - 1], judged=Judged(text, stage, verdict), at=at)

    def keep(self, ordinal: int, verdicts: Mapping[int, Verdict]) -> None:
        """These verdicts on the answer are in the journal, and it awaits others."""
        self._known.setdefault((ordinal, self._awaited[ordinal]), {}).update(verdicts)

    def settle(self, ordinal: int, verdicts: tuple[Verdict, ...]) -> None:
        """Set the verdicts on the answer."""
        del self._awaited[ordinal]
        self.said[ordinal] = verdicts

    def forget_unchecked(self, ordinal: int) -> None:
        """Forget that a check could not judge the answer."""
        self.said.pop(ordinal, None)
        for (other, _), known in self._known.items():
            if other == ordinal:
                for stage in [stage for stage, verdict in known.items() if isinstance(verdict, Unchecked)]:
                    del known[stage]

    def _whole(self, known: Mapping[int, Verdict]) -> tuple[Verdict, ...] | None:
        """The verdicts on one text, by stage, if they are complete."""
        found: list[Verdict] = []
        for stage in range(1, len(self.checks) + 1):
            if (verdict := known.get(stage)) is None:
                return None
            found.append(verdict)
            if isinstance(verdict, Unchecked) or not verdict.accepted:
                break
        return tuple(found)
