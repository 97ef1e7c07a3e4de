"""What is left of a dataset's budget, and which workers hold parts of it: a ledger, pure except for its document.

Invariant: what was spent, what workers hold and what open batches may cost together never exceed the limits. A worker
spends only what it was granted, and a grant is stored before the worker learns of it. What a worker holds counts as
spent until it reports what its requests cost, or returns it. What a dead worker held counts as spent until all of its
chunks have been recovered and report their cost, and for good unless each new owner knows that it read the dead
worker's journal to the end. What a batch may cost is reserved for its chunk, and goes to the worker that collects the
batch. Workers report totals, so a lost or repeated message changes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.expense import NOTHING, Expense

MAX_SHARE = 0.1
"""Largest part of the remaining budget that is granted at once, unless a single request costs more."""

ChunkName: TypeAlias = Annotated[str, Field(pattern=r"^\d{3,}-\d{6,}$")]

NO_ONE = "earlier runs"
"""The holder to which the possible spending of runs without a budget is booked."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A chunk that a worker holds, and what its journals say it cost."""

    chunk: ChunkId
    recovered: Expense
    """What the chunk had cost when the worker took it over."""
    total: Expense
    """Now."""
    reserved: Expense = NOTHING
    """What the chunk's open batches may cost."""
    whole: frozenset[str] = frozenset()
    """Earlier owners of whose spending `recovered` includes everything, to their last request."""


@dataclass(frozen=True, slots=True)
class SpendReport:
    """A worker's totals since it started, and what it wants."""

    granted: Expense = NOTHING
    """Everything that it was granted, as far as it knows."""
    returned: Expense = NOTHING
    spent: Expense = NOTHING
    """What the worker spent, in all measures; fields that are not limited are 0."""
    wants: Expense = NOTHING
    """What the worker needs for about the next ten seconds, beyond what it holds."""
    next: Expense | None = None
    """The worst case of the request that waits for money."""
    opened: tuple[Opened, ...] = ()
    ended: bool = False
    """True if this is its last report: it sends nothing more."""
    shipped: bool = False
    """With `ended`: the worker's journals are complete where the next owners of its chunks look."""
    moved: Expense = NOTHING
    """Put aside for batches of the chunks that it had, less what it took back when these ended."""
    stranded: Expense = NOTHING
    """Put aside for batches of chunks that the worker has lost; it does not come back while the worker lives."""


class Holding(BaseModel):
    """A worker's grant, as stored."""

    model_config = ConfigDict(extra="ignore")

    granted: Expense = NOTHING
    returned: Expense = NOTHING
    spent: Expense = NOTHING
    moved: Expense = NOTHING
    chunks: set[ChunkName] = set()
    """Chunks of which it may have asked samples since its last report."""
    gone: bool = False
    lost: bool = False
    """True if the cost of its requests may never be known: everything it held then counts as spent in the end."""
    found: Expense = NOTHING
    """Spent after its last report, as far as its chunks reported."""
    shipped: bool = False
    """True if its journals are complete where the next owners of its chunks look."""

    @property
    def left(self) -> Expense:
        """What the worker may still spend, according to its last report."""
        return self.granted - self.returned - self.spent - self.moved


class BudgetDocument(BaseModel):
    """`_stillhouse/budget.json`."""

    model_config = ConfigDict(extra="ignore")

    version: Annotated[int, Field(ge=1)] = 1
    spent: Expense = NOTHING
    next: Expense | None = None
    """The worst case of the request that there was no money for when asking ended."""
    chunks: dict[ChunkName, Expense] = {}
    """Chunks that are not sealed, with their part of `spent`."""
    reserved: dict[ChunkName, Expense] = {}
    """What their open batches may cost, whichever worker has the chunk; not part of `spent`."""
    workers: dict[str, Holding] = {}

    def pending(self, limits: Expense) -> bool:
        """True if money may come back: of batches, or of workers."""
        parts = (*self.reserved.values(), *(each.left for each in self.workers.values()))
        return any(part.within(limits) != NOTHING for part in parts)


@dataclass(slots=True)
class _Waiting:
    wants: Expense
    next: Expense | None
    stranded: Expense


@dataclass(slots=True)
class BudgetLedger:
    """The ledger of one dataset's budget."""

    limits: Expense
    document: BudgetDocument
    keeps_journals: bool
    """True if no journal is ever lost with a node: the dataset is on a disk that all workers share."""
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _seen: dict[tuple[str, str], Expense] = field(default_factory=dict)
    """(worker, chunk) to the cost that the worker recovered, as it was booked."""

    @property
    def spent(self) -> Expense:
        """Known spending."""
        return self.document.spent

    @property
    def held(self) -> Expense:
        """Money that workers hold, including dead ones."""
        return sum((self._held_by(holding) for holding in self.document.workers.values()), NOTHING)

    @property
    def left(self) -> Expense:
        """What can be granted."""
        return self.limits - self.spent - self.held - self.reserved

    @property
    def reserved(self) -> Expense:
        """What open batches may cost."""
        return sum(self.document.reserved.values(), NOTHING).within(self.limits)

    @property
    def touched(self) -> set[str]:
        """Chunks that are not sealed and of which samples may have been asked."""
        return set(self.document.chunks)

    @property
    def can_pay(self) -> bool:
        """False if there is no money for any request that waits."""
        nexts = [waiting.next for waiting in self._waiting.values() if waiting.next is not None]
        left = self.left
        return not nexts or any(map(left.covers, nexts))

    @property
    def unpayable(self) -> Expense | None:
        """The cheapest request that waits, once no money is left for any and nobody can return some; else None."""
        nexts = [waiting.next for waiting in self._waiting.values() if waiting.next is not None]
        if not nexts or self.can_pay or self.reserved != NOTHING or any(map(self._may_return, self.document.workers)):
            return None
        if any(holding.gone for holding in self.document.workers.values()):
            return None
        return min(nexts, key=lambda each: (each.nano_usd, each.output_tokens, each.requests))

    def _may_return(self, worker: str) -> bool:
        """True if the worker holds money that may come back."""
        waiting, held = self._waiting.get(worker), self._held_by(self.document.workers[worker])
        stranded = NOTHING if waiting is None else waiting.stranded
        return (held - stranded).at_least(NOTHING) != NOTHING

    def _held_by(self, holding: Holding) -> Expense:
        return holding.left.within(self.limits).at_least(NOTHING)

    # --- what happens

    def leased(self, worker: str, chunk: ChunkId) -> None:
        """The worker is about to get this chunk."""
        self.document.workers.setdefault(worker, Holding()).chunks.add(str(chunk))
        self.document.chunks.setdefault(str(chunk), NOTHING)

    def took_for_dead(self, worker: str, report: SpendReport) -> bool:
        """True if this worker was taken for dead, maybe by an earlier queue: it must not go on.

        Others have its chunks, and what it spent counts already: by these, or as its whole grant. A worker that is not
        in the ledger but has a grant or a chunk was there once: both are stored before the worker learns of them.
        """
        if (holding := self.document.workers.get(worker)) is not None:
            return holding.gone
        return report.granted != NOTHING or bool(report.opened)

    def reported(self, worker: str, report: SpendReport) -> None:
        """A worker reports its totals; those of one that was taken for dead change nothing."""
        if self.took_for_dead(worker, report):
            return
        holding = self.document.workers.setdefault(worker, Holding())
        self._add(report.spent - holding.spent)
        holding.spent = holding.spent.at_least(report.spent)
        holding.returned = holding.returned.at_least(report.returned)
        holding.moved = report.moved
        for opened in report.opened:
            self._opened(worker, opened)
        self._waiting[worker] = _Waiting(report.wants, report.next, report.stranded)
        if report.ended:
            holding.shipped = report.shipped
            self._left(worker)

    def _opened(self, worker: str, opened: Opened) -> None:
        chunk = str(opened.chunk)
        if self._seen.get((worker, chunk)) != opened.recovered:
            self._seen[worker, chunk] = opened.recovered
            self._recovered(chunk, opened.recovered, by=worker, reserved=opened.reserved, whole=opened.whole)
            self.document.workers[worker].chunks.add(chunk)
        if chunk in self.document.workers[worker].chunks:  # otherwise another worker has it now
            self._reserve(chunk, opened.reserved)
            self.document.chunks[chunk] = self.document.chunks.get(chunk, NOTHING).at_least(opened.total)

    def _reserve(self, chunk: str, reserved: Expense) -> None:
        if reserved == NOTHING:
            self.document.reserved.pop(chunk, None)
        else:
            self.document.reserved[chunk] = reserved

    def _recovered(
        self,
        chunk: str,
        total: Expense,
        *,
        by: str,
        reserved: Expense = NOTHING,
        whole: Collection[str] = (),
    ) -> None:
        """A new owner has read the chunk's journals: they say what earlier owners spent, reported or not.

        `reserved`: what may be spent by the batches that they left open, reported or not; `whole`: see `Opened`.
        """
        unreported = (total - self.document.chunks.get(chunk, NOTHING)).at_least(NOTHING)
        opened = (reserved - self.document.reserved.get(chunk, NOTHING)).at_least(NOTHING)
        before = {name: h for name, h in self.document.workers.items() if name != by and chunk in h.chunks}
        if all(holding.gone for holding in before.values()):
            self._add(unreported)
            for name, holding in before.items():
                if len(before) == 1:  # otherwise it may be another's
                    holding.found += unreported + opened
                holding.lost |= not (self.keeps_journals or holding.shipped or name in whole)
        else:  # a living worker will report the same itself; if it never does, its whole grant counts
            # But no grant covers what a batch cost whose reservation ends here: its owner may not even have opened it.
            closed = (self.document.reserved.get(chunk, NOTHING) - reserved).at_least(NOTHING)
            self._add(unreported.at_most(closed))
            for holding in before.values():
                holding.lost = True
        for holding in before.values():
            holding.chunks.discard(chunk)
        # Not more, even if more was reported: the new owner's totals do not include what was lost with a disk.
        self.document.chunks[chunk] = total
        self._reserve(chunk, reserved)
        self._settle_gone()

    def sealed(self, chunk: ChunkId, total: Expense | None = None, *, by: str = "") -> None:
        """The chunk's shard exists; `total`: its cost, if a worker other than its reported owner may have sealed it."""
        name = str(chunk)
        if total is not None and (by, name) not in self._seen:
            self._recovered(name, total, by=by)
        self.document.chunks.pop(name, None)
        self.document.reserved.pop(name, None)
        for holding in self.document.workers.values():
            holding.chunks.discard(name)
        self._settle_gone()

    def died(self, worker: str) -> None:
        """The worker sends nothing more, and reports nothing more."""
        if worker in self.document.workers:
            self._left(worker)

    def restarted(self) -> None:
        """A new run has begun: all workers so far are gone."""
        for worker in list(self.document.workers):
            self._left(worker)

    def _left(self, worker: str) -> None:
        self._waiting.pop(worker, None)
        self.document.workers[worker].gone = True
        self._settle_gone()

    def _settle_gone(self) -> None:
        """Release what gone workers held, if all of their chunks have reported their cost."""
        for name, holding in list(self.document.workers.items()):
            held = self._held_by(holding)
            if holding.gone and (not holding.chunks or held == NOTHING):
                if holding.lost:
                    self._add((held - holding.found).at_least(NOTHING))
                del self.document.workers[name]

    def _add(self, spent: Expense) -> None:
        self.document.spent += spent.at_least(NOTHING)

    # --- what follows

    def grant(self, worker: str) -> None:
        """Grant the worker what it wants, as far as there is money: up to a tenth of what is left, or one request."""
        waiting, holding = self._waiting.get(worker), self.document.workers.get(worker)
        if waiting is None or holding is None or holding.gone or waiting.wants == NOTHING:
            return
        left = self.left.within(self.limits)
        least = waiting.next or NOTHING
        if not left.covers(least):
            return
        granted = waiting.wants.at_most(left.times(MAX_SHARE).at_least(least))
        holding.granted += granted.at_least(NOTHING)
        self._waiting[worker] = _Waiting(NOTHING, None, waiting.stranded)

    def end(self, unpayable: Expense) -> None:
        """Asking has ended because there is no money for this request."""
        self.document.next = unpayable
