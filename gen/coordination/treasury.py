"""The budget's ledger as a queue keeps it: every change is stored before anybody acts on it.

All changes made during a write go into the next one, so there is one write at a time, however many workers there are.
If two queues each take the other for dead, a write by one makes the other's write fail; that queue then reads the
ledger again. Workers report totals, so nothing is lost.
"""

import asyncio

from stillhouse.gen.coordination.messages import Allowance
from stillhouse.gen.dataset.budget import BudgetDocument, BudgetLedger, SpendReport
from stillhouse.gen.dataset.budget_file import BudgetFile, begun_by
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import StillhouseError, StoreAway
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.expense import NOTHING, Expense

MOST_WAIT_S = 1.0
"""How long a renewal waits for a grant to be stored: leases must not depend on the store."""


class Treasury:
    """Keeps the ledger in the store. Its coroutines belong to one event loop."""

    def __init__(self, store: Store, limits: Expense, *, is_new_run: bool) -> None:
        """Read the ledger, or create one from what the dataset holds.

        Args:
            store: the dataset's store.
            limits: the budget's limits.
            is_new_run: False for a queue that was restarted within its run, whose workers are still alive.

        Raises:
            DatasetError: the ledger, or a shard that must be read, is damaged.
            StoreAway, StoreRefused: the store does not answer, or refuses.
        """
        self._store = store
        self._limits = limits
        self._file = BudgetFile(store)
        if not store.is_local:
            store.probe()  # `probe` finds out whether the store itself compares
        document = self._file.load()
        self._ledger = self._ledger_of(begun_by(store) if document is None else document)
        if is_new_run:
            self._ledger.restarted()
        for chunk, cost in self._sealed_since().items():
            self._ledger.sealed(chunk, cost)
        self._granted = self._all_granted()
        """Grants by worker, as stored."""
        self._changed = self._stored = 0
        """Serial numbers of changes."""
        self._reloads = 0
        """How often another queue's ledger replaced this one's."""
        self._is_behind = False
        """True if that ledger may still count sealed chunks as open; nobody reports them again."""
        self._writing: asyncio.Task[None] | None = None
        self.unpayable: Expense | None = None
        """The request that there was no money for when asking ended; None until then."""
        self.error: StillhouseError | None = None
        """Why the ledger can't be stored."""

    def _ledger_of(self, document: BudgetDocument) -> BudgetLedger:
        return BudgetLedger(self._limits, document, keeps_journals=self._store.is_local)

    def _sealed_since(self) -> dict[ChunkId, Expense]:
        """Chunks that the ledger counts as open although they have a shard, with their cost."""
        costs = {chunk: self._cost_of_shard(chunk) for chunk in map(ChunkId.parse, sorted(self._ledger.touched))}
        return {chunk: cost for chunk, cost in costs.items() if cost is not None}

    def _cost_of_shard(self, chunk: ChunkId) -> Expense | None:
        """Cost of the chunk according to its shard; None if it has no shard."""
        if self._store.stat(chunk.data_key) is None:
            return None
        return read_meta(self._store, chunk).counts.cost

    # --- figures

    @property
    def spent(self) -> Expense:
        """Known spending."""
        return self._ledger.spent

    @property
    def limits(self) -> Expense:
        """The budget's limits."""
        return self._limits

    @property
    def living(self) -> set[str]:
        """Workers that may hold money and, as far as the ledger knows, are still working."""
        return {name for name, holding in self._ledger.document.workers.items() if not holding.gone}

    @property
    def is_over(self) -> bool:
        """True once the budget is used up, so that nothing more is asked."""
        return self.unpayable is not None

    @property
    def recovers_only(self) -> bool:
        """True if there is no money, for now or for good: only chunks that were begun may be leased."""
        return self.is_over or not self._ledger.can_pay

    def is_touched(self, chunk: ChunkId) -> bool:
        """True if samples of the chunk may have been asked."""
        return str(chunk) in self._ledger.document.chunks

    @property
    def has_touched(self) -> bool:
        """True if there are unsealed chunks whose samples may have been asked."""
        return bool(self._ledger.document.chunks)

    @property
    def fault(self) -> StillhouseError | None:
        """Why the ledger can't be stored, if a person has to act."""
        return None if isinstance(self.error, StoreAway) else self.error

    # --- reports from workers

    async def leased(self, worker: str, chunk: ChunkId) -> bool:
        """A worker is about to get this chunk; False if that can't be stored now."""
        self._ledger.leased(worker, chunk)
        return await self._kept()

    def took_for_dead(self, worker: str, report: SpendReport) -> bool:
        """See `BudgetLedger.took_for_dead`."""
        return self._ledger.took_for_dead(worker, report)

    async def renewed(self, worker: str, report: SpendReport) -> Allowance:
        """Process a report, and grant what the worker wants."""
        self._ledger.reported(worker, report)
        if not self.is_over:
            self._ledger.grant(worker)
            self.unpayable = self._ledger.unpayable
            if self.unpayable is not None:
                self._ledger.end(self.unpayable)
        await self._kept()
        return Allowance(self._granted.get(worker, NOTHING), is_over=self.is_over)

    def reported(self, worker: str, report: SpendReport) -> None:
        """Process a report; it is stored with the next grant."""
        self._ledger.reported(worker, report)
        self._changed += 1

    async def sealed(self, chunk: ChunkId, *, by: str, is_own: bool) -> None:
        """The chunk's shard exists; `is_own`: the reporting worker wrote it, and has reported its cost."""
        cost = None if is_own else await asyncio.to_thread(self._cost_of_shard, chunk)
        self._ledger.sealed(chunk, cost, by=by)
        self._changed += 1

    def died(self, worker: str) -> None:
        """The worker's process is gone."""
        self._ledger.died(worker)
        self._changed += 1

    # --- storing

    async def _kept(self) -> bool:
        """Store the ledger as it is now; False if that takes too long."""
        self._changed += 1
        wanted, reloads = self._changed, self._reloads
        try:
            async with asyncio.timeout(MOST_WAIT_S):
                while self._stored < wanted:
                    if self._writing is None or self._writing.done():
                        self._writing = asyncio.create_task(self._write())
                    writing = self._writing
                    await asyncio.wait([writing])
                    failed = writing.cancelled() or writing.exception() is not None or self.error is not None
                    if failed or self._reloads != reloads:
                        return False
        except TimeoutError:
            return False
        return True

    async def _write(self) -> None:
        """Store the ledger; if another queue has stored one, read that instead."""
        try:
            if self._is_behind:
                for chunk, cost in (await asyncio.to_thread(self._sealed_since)).items():
                    if self.is_touched(chunk):  # otherwise its worker has reported it meanwhile
                        self._ledger.sealed(chunk, cost)
                self._is_behind = False
            number, granted = self._changed, self._all_granted()
            body = self._ledger.document.model_dump_json().encode()
            if await asyncio.to_thread(self._file.swap, body):
                self._granted, self._stored, self.error = granted, number, None
            elif (document := await asyncio.to_thread(self._file.load)) is not None:
                self._ledger = self._ledger_of(document)
                self._granted = self._all_granted()
                self._reloads += 1
                self._is_behind = True
        except StillhouseError as error:
            self.error = error

    def _all_granted(self) -> dict[str, Expense]:
        return {name: holding.granted for name, holding in self._ledger.document.workers.items()}
