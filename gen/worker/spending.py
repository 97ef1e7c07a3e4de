"""What a chunk's requests cost: a fold over the frames of all its owners, including dead ones.

Requests in flight are not included. Whoever recovers the chunk counts a request whose owner is gone at its worst case.
"""

from functools import partial
from typing import Literal

from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.billing import Bill, bill
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.worker.chunk_samples import ChunkSamples


class Spending:
    """The cost of one chunk's requests."""

    def __init__(self, samples: ChunkSamples) -> None:
        self._samples = samples
        self._parts: dict[Literal["answer", "waste", "doubt", "nothing"], Expense] = {}
        self._checks = NOTHING
        self._has_priced_judge = False
        self.recovered = NOTHING
        """What earlier owners had spent when the present one took over."""

    def add(self, frame: Frame, outcome: Outcome | None) -> None:
        """An attempt ended with this frame; `outcome` None: because its worker died."""
        teacher = self._samples.teacher(frame.ordinal, frame.teacher)
        expense, of = bill(teacher, partial(self._samples.prompt, frame.ordinal), outcome)
        self._parts[of] = self._parts.get(of, NOTHING) + expense

    def add_check(self, found: Bill, *, is_priced: bool) -> None:
        """A request to a judge ended, with this bill."""
        self._has_priced_judge |= is_priced
        if found.of == "answer":
            self._checks += found.expense
        else:
            self._parts[found.of] = self._parts.get(found.of, NOTHING) + found.expense

    @property
    def checks_usd(self) -> float | None:
        """Cost of judges' verdicts; None if there are none, or their price is unknown."""
        return self._checks.usd if self._has_priced_judge else None

    @property
    def total(self) -> Expense:
        """All of it."""
        return sum(self._parts.values(), self._checks)

    @property
    def wasted_usd(self) -> float | None:
        """Cost of useless replies according to their usage; None if no price is known."""
        prices = [teacher.teacher.price for teacher in self._samples.teachers]
        return None if all(price is None for price in prices) else self._parts.get("waste", NOTHING).usd

    @property
    def maybe_usd(self) -> float | None:
        """The maximum cost of attempts whose cost is unknown; None if there is no bound."""
        if "doubt" not in self._parts or all(teacher.bounds_usd for teacher in self._samples.teachers):
            return None if self.wasted_usd is None else self._parts.get("doubt", NOTHING).usd
        return None
