"""What a chunk's requests cost: a fold over the frames of all its owners, dead ones' included.

A request in flight is not in it. Whoever recovers the chunk counts one whose owner is gone at its worst case.
"""

from typing import Literal

from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.billing import Bill, bill
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.worker.chunk_samples import ChunkSamples


class Spending:
    """See the module."""

    def __init__(self, samples: ChunkSamples) -> None:
        self._samples = samples
        self._parts: dict[Literal["answer", "waste", "doubt", "nothing"], Expense] = {}
        self._checks = NOTHING
        self._has_priced_judge = False
        self.recovered = NOTHING
        """What earlier owners had spent when the present one took over."""

    def add(self, frame: Frame, outcome: Outcome | None) -> None:
        """An attempt ended with this frame; `outcome` None: with its worker."""
        teacher = self._samples.teacher(frame.ordinal, frame.teacher)
        expense, of = bill(teacher, self._samples.prompt(frame.ordinal), outcome)
        self._parts[of] = self._parts.get(of, NOTHING) + expense

    def add_check(self, found: Bill, *, is_priced: bool) -> None:
        """A request to a judge ended, and is billed so."""
        self._has_priced_judge |= is_priced
        if found.of == "answer":
            self._checks += found.expense
        else:
            self._parts[found.of] = self._parts.get(found.of, NOTHING) + found.expense

    @property
    def checks_usd(self) -> float | None:
        """What judges' verdicts cost; None if there are none, or their price is not known."""
        return self._checks.usd if self._has_priced_judge else None

    @property
    def total(self) -> Expense:
        """All of it."""
        return sum(self._parts.values(), self._checks)

    @property
    def wasted_usd(self) -> float | None:
        """What replies of no use cost by their own account; None if no price is known."""
        prices = [teacher.teacher.price for teacher in self._samples.teachers]
        return None if all(price is None for price in prices) else self._parts.get("waste", NOTHING).usd

    @property
    def maybe_usd(self) -> float | None:
        """The most that attempts can cost of which it is not known what they cost; None if there is no bound."""
        if "doubt" not in self._parts or all(teacher.bounds_usd for teacher in self._samples.teachers):
            return None if self.wasted_usd is None else self._parts.get("doubt", NOTHING).usd
        return None
