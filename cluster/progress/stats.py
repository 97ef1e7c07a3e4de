"""Progress of a run, as its queue reports it to the driver and the driver to everyone else."""

from functools import cached_property

from pydantic import BaseModel

from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.teachers.expense import Expense


class Closed(BaseModel):
    """Totals of the generations that were sealed before the run began."""

    rows: int = 0
    duplicates: int = 0
    bad: int = 0
    samples: int = 0
    """Less those asked again."""
    chunks: int = 0


class BudgetUse(BaseModel):
    """Usage of the budget so far."""

    spent: Expense
    unpayable: Expense | None = None
    """Worst case of the request that the budget could not cover when asking ended; null until then."""


class QueueStats(BaseModel):
    """How far a run is with the generations that it found open or planned itself."""

    closed: Closed = Closed()
    """The rest of the dataset, of which no other figure tells."""
    planned: bool
    """True if all that these generations ask is known."""
    all_sealed: bool
    """True if it is known and sealed."""
    known: int
    """Generations of the dataset, as far as the queue knows."""
    last: bool
    """True if the queue knows that none will follow."""
    again: bool
    """True if all of them ask prompts of earlier ones again; they have no source rows then."""
    rows: int
    duplicates: int
    bad: int
    asks: int
    """Prompts to be asked, known so far."""
    samples: int
    """Samples of these that are to be asked."""
    chunks: int
    """Known so far."""
    sealed: int
    parked: int = 0
    """All that is open of these is with batches at a provider, and no worker holds them."""
    rests: bool = False
    """True if nothing can be done until a batch ends."""
    prompts_left: int
    """To be asked in chunks that are not sealed, known so far."""
    samples_left: int
    """Samples of these that are to be asked, answered ones among them."""
    counts: ShardCounts
    """Sealed by this run."""
    shards: int
    """Those, in shards."""
    teachers: dict[str, Tally]
    """Results of asking each, by name."""
    open_chunks: int
    """In workers' hands."""
    open_settled: int
    """Samples of these that need not be asked any more: answered in this run or before it."""
    journal_lag_bytes: int
    """Answers that are in journals alone, not in the store yet."""
    lease_waits: int
    """How often a worker was told to wait for a chunk."""
    held_up: dict[str, int]
    """Workers that send nothing, by why."""
    notes: list[str] = []
    """Messages of workers to the user."""
    last_trouble: str
    budget: BudgetUse | None = None
    """None without a budget."""
    finished: bool
    error: str | None
    """Why the source can't be read on; the exit code stands beside it."""
    exit_code: int

    @cached_property
    def total(self) -> Tally:
        """Results of asking all teachers."""
        return sum(self.teachers.values(), Tally())
