"""Answers of one chunk that wait for judges in batch mode, or that such judges are asked about.

They go to a judge together, once the chunk can bring it no more for now: that makes few batches. It also makes a later
owner of the chunk ask about the same one of several equal answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stillhouse.gen.checks.base import Verdict
from stillhouse.gen.worker.leased_chunk import LeasedChunk


@dataclass(slots=True)
class Case:
    """An answer on its way through the checks that ask judges."""

    held: LeasedChunk
    ordinal: int
    verdicts: list[Verdict]
    done: Callable[[tuple[Verdict, ...]], None]
    stages: list[int] = field(default_factory=list)
    """The judges still to ask."""

    @property
    def stage(self) -> int:
        """The next one."""
        return self.stages[0]


@dataclass(slots=True)
class Gathering:
    """The answers of one chunk that are gathered for a batch."""

    held: LeasedChunk
    waiting: dict[int, Case] = field(default_factory=dict)
    """Answers that no judge was asked about yet, by ordinal."""
    asked: int = 0
    """Answers whose verdict is awaited from a judge in batch mode."""
    is_asking: bool = False
    """True while answers are handed to their judges."""

    @property
    def covers_all(self) -> bool:
        """True if all answers that await their verdicts are here."""
        return not self.is_asking and len(self.waiting) + self.asked == self.held.open.state.verdicts.awaited

    @property
    def is_complete(self) -> bool:
        """True if the chunk brings no other answer before these have their verdicts."""
        if not self.waiting or self.asked or not self.covers_all:
            return False
        schedule = self.held.open.state.schedule
        return not schedule.is_ready and schedule.out == 0

    def taken(self) -> Sequence[Case]:
        """All that wait, by stage and ordinal; they no longer do."""
        found = sorted(self.waiting.values(), key=lambda case: (case.stage, case.ordinal))
        self.waiting = {}
        return found
