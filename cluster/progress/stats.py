"""How far a generation is, as its queue tells the driver and the driver all who want to know."""

from pydantic import BaseModel

from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.dataset.shard_meta import ShardCounts


class QueueStats(BaseModel):
    """How far a generation is."""

    planned: bool
    """Whether all there is to ask is known."""
    again: bool
    """Whether it asks Failures again; it has no source rows then."""
    rows: int
    duplicates: int
    bad: int
    asks: int
    """Prompts to be asked, known so far."""
    chunks: int
    """Known so far."""
    sealed: int
    prompts_left: int
    """To be asked in chunks that are not sealed, known so far."""
    counts: ShardCounts
    """Sealed by this run."""
    shards: int
    """Those, in shards."""
    teachers: dict[str, Tally]
    """What came of asking each, by name; the figures from here to `troubles` are their sums."""
    requests: int
    retries: int
    answers: int
    input_tokens: int
    output_tokens: int
    usd: float
    in_flight: int
    troubles: dict[str, int]
    open_chunks: int
    """In workers' hands."""
    open_settled: int
    """Samples of these that need not be asked any more: answered in this run or before it."""
    journal_lag_bytes: int
    """Answers that are in journals alone, not in the store yet."""
    lease_waits: int
    """How often a worker was told to wait for a chunk."""
    last_trouble: str
    finished: bool
    error: str | None
    """Why the source can't be read on; the exit code stands beside it."""
    exit_code: int
