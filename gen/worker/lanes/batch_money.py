"""The money of one teacher's batches: reserved before a batch is created, settled by whoever collects it.

What a batch may cost is put aside for its chunk, so that it outlives the worker that created the batch.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

from stillhouse.gen.teachers.billing import bill
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.worker.lanes.base import Listener
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.purse import Purse

SHORT_S = 10.0
"""Grants take less time than this: a batch that waits longer for money is waiting for another batch to end."""


class BatchMoney:
    """Pays for one teacher's batches. Without a budget nothing waits."""

    def __init__(self, client: TeacherClient, *, purse: Purse, listener: Listener[LeasedChunk]) -> None:
        self.is_short = False
        """True while a batch waits for money that another batch holds."""
        self._client = client
        self._purse = purse
        self._listener = listener

    @property
    def is_limited(self) -> bool:
        """True if there is a budget."""
        return self._purse.is_limited

    def worst(self, work: Work, ordinals: Iterable[int]) -> list[Expense]:
        """The maximum cost of each of these samples; empty without a budget. Slow: call it in a thread."""
        if not self._purse.is_limited:
            return []
        worst_case, billed = self._client.interpreter.worst_case, work.attempts.billed
        return [worst_case(billed(ordinal)) for ordinal in ordinals]

    async def reserve(self, work: Work, ordinals: Sequence[int]) -> Sequence[Expense]:
        """Wait for money, and reserve what these samples, or the first of them, may cost; empty without a budget."""
        if not self._purse.is_limited:
            return ()
        worst = await asyncio.to_thread(self.worst, work, ordinals)
        waits = asyncio.create_task(self._purse.reserve_some(worst))
        try:
            done, _ = await asyncio.wait([waits], timeout=SHORT_S)
            if not done:
                self.is_short = True  # money comes back only when a batch ends, be it another chunk's
                self._listener.wants_more()
            return worst[: await waits]
        finally:
            waits.cancel()
            self.is_short = False

    def give_back(self, worst: Iterable[Expense]) -> None:
        """Return the money of samples that are not in the batch after all."""
        self._purse.give_back(sum(worst, NOTHING))

    def begins(self, work: Work, intent: OpenIntent) -> None:
        """Put aside what its batch may cost, for whoever collects it."""
        self._purse.batch_begins(work.held.open.chunk.id, intent.worst)

    def spend(self, work: Work, ordinal: int, outcome: Outcome) -> None:
        """The sample's result came from a batch."""
        if self._purse.is_limited:
            self._purse.spend(bill(self._client.interpreter, partial(work.attempts.billed, ordinal), outcome).expense)

    def ended(self, work: Work, intent: OpenIntent) -> None:
        """All results of its batch are settled: what was put aside for it is free again."""
        if not intent.has_ended:
            intent.has_ended = True
            self._purse.batch_ended(work.held.open.chunk.id, intent.worst)
