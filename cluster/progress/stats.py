"""Progress of a run, as its queue reports it to the driver, and the driver to its displays and metrics."""

from collections import Counter
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
    """Failures, without those asked again."""
    chunks: int = 0


class BudgetUse(BaseModel):
    """Usage of the budget so far."""

    spent: Expense
    unpayable: Expense | None = None
    """Worst case of the request that the budget could not cover when asking ended; null until then."""


class QueueStats(BaseModel):
    """Progress of the generations that the run found open or planned itself."""

    closed: Closed = Closed()
    """The rest of the dataset, which no other figure includes."""
    planned: bool
    """True if everything that these generations ask is known."""
    all_sealed: bool
    """True if everything is known and sealed."""
    known: int
    """Generations of the dataset, as far as the queue knows."""
    last: bool
    """True if the queue knows that no generation will follow."""
    again: bool
    """True if all of these generations ask prompts of earlier ones again, so they have no source rows."""
    rows: int
    duplicates: int
    bad: int
    asks: int
    """Prompts to be asked, as far as known."""
    samples: int
    """Samples to be asked of these prompts."""
    chunks: int
    """Chunks, as far as known."""
    sealed: int
    parked: int = 0
    """Chunks whose open samples are all with batches at a provider, and that no worker holds."""
    parked_batches: dict[str, int] = {}
    """Batches of the parked chunks, by teacher."""
    rests: bool = False
    """True if nothing can be done until a batch ends."""
    prompts_left: int
    """Prompts in chunks that are not sealed, as far as known."""
    samples_left: int
    """Samples in chunks that are not sealed, including answered ones."""
    counts: ShardCounts
    """Chunks sealed by this run."""
    shards: int
    """Rows of the shards that this run sealed."""
    teachers: dict[str, Tally]
    """Results of asking each teacher, by name."""
    open_chunks: int
    """Chunks held by workers."""
    open_settled: int
    """Samples in open and parked chunks that no longer need to be asked: answered in this run or before it."""
    journal_lag_bytes: int
    """Answers that are only in journals, not in the store yet."""
    lease_waits: int
    """How often a worker had to wait for a chunk."""
    held_up: dict[str, int]
    """Number of workers that send nothing, by reason."""
    notes: list[str] = []
    """Messages from workers to the user."""
    last_trouble: str
    budget: BudgetUse | None = None
    """Usage of the budget; None without one."""
    finished: bool
    error: str | None
    """Why the rest of the source can't be read; the exit code is next to it."""
    exit_code: int

    @property
    def open_batches(self) -> dict[str, int]:
        """Batches that may be at a provider, by teacher."""
        held = Counter({name: tally.batches_open for name, tally in self.teachers.items()})
        return {name: count for name, count in (held + Counter(self.parked_batches)).items() if count}

    @cached_property
    def total(self) -> Tally:
        """Results of asking all teachers."""
        return sum(self.teachers.values(), Tally())
