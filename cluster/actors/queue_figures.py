"""How far a run has got, by what its PromptQueue holds and what workers report. Changes nothing."""

from collections import Counter as Tallied
from collections.abc import Collection

from stillhouse.cluster.actors.open_generations import OpenGenerations
from stillhouse.cluster.progress.stats import BudgetUse, QueueStats
from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.coordination.leases import Leases
from stillhouse.gen.coordination.roster import Roster
from stillhouse.gen.coordination.treasury import Treasury
from stillhouse.gen.dataset.batch_rules import teachers_by_who
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError
from stillhouse.schemas.recipe import Recipe


class QueueFigures:
    """Counts the work of one queue; called with its lock held."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        generations: OpenGenerations,
        leases: Leases,
        roster: Roster,
        treasury: Treasury | None,
    ) -> None:
        self._generations = generations
        self._leases = leases
        self._roster = roster
        self._treasury = treasury
        self._asked = {who: teacher.name for who, teacher in teachers_by_who(recipe).items()}

    @property
    def all_sealed(self) -> bool:
        """True if everything is indexed and sealed."""
        return self._generations.are_indexed and self._leases.open == 0

    def read(
        self,
        *,
        sealed: Collection[ChunkId],
        last: bool,
        finished: bool,
        lease_waits: int,
        error: StillhouseError | None,
    ) -> QueueStats:
        """The run's progress; all arguments are the queue's."""
        chunks = [found for opened in self._generations.open for found in opened.chunks()]
        left = [(asks, samples) for chunk, asks, samples in chunks if chunk not in sealed]
        parts = self._generations.source_parts
        workers = self._roster.totals.values()
        names = sorted({name for counters in workers for name in counters.teachers})
        teachers = {name: sum((c.teachers.get(name, Tally()) for c in workers), Tally()) for name in names}
        error = error or (self._treasury.fault if self._treasury is not None else None)
        return QueueStats(
            closed=self._generations.closed,
            planned=self._generations.are_indexed,
            all_sealed=self.all_sealed,
            known=self._generations.known,
            last=last,
            again=self._generations.ask_again,
            rows=sum(part.rows for part in parts),
            duplicates=sum(part.duplicates for part in parts),
            bad=sum(part.bad for part in parts),
            asks=sum(asks for _, asks, _ in chunks),
            samples=sum(samples for _, _, samples in chunks),
            chunks=len(chunks),
            sealed=len(sealed),
            parked=len(self._leases.parked),
            parked_batches=self._parked_batches(),
            rests=self._rests(),
            prompts_left=sum(asks for asks, _ in left),
            samples_left=sum(samples for _, samples in left),
            counts=sum((c.sealed for c in workers), ShardCounts()),
            shards=sum(c.shards for c in workers),
            teachers=teachers,
            open_chunks=sum(c.open_chunks for c in workers),
            open_settled=sum(c.open_settled for c in workers) + self._leases.settled,
            journal_lag_bytes=sum(c.journal_lag_bytes for c in workers),
            lease_waits=lease_waits,
            held_up=dict(Tallied(c.held_up for c in workers if c.held_up)),
            notes=list(dict.fromkeys(note for c in workers for note in c.notes)),
            last_trouble=next((c.last_trouble for c in workers if c.last_trouble), ""),
            budget=self._budget(),
            finished=finished,
            error=str(error) if error else None,
            exit_code=error.exit_code if error else 0,
        )

    def _parked_batches(self) -> dict[str, int]:
        found = Tallied[str]()
        for who, count in self._leases.parked.batches().items():
            found[self._asked[who]] += count
        return dict(found)

    def _rests(self) -> bool:
        """True if all batches were looked at, and everything else waits for one of them to end."""
        parked, workers = self._leases.parked, self._roster.totals.values()
        waiting = sum(counters.waiting_chunks for counters in workers)
        if not self._generations.are_indexed or not parked or parked.unknown or self._leases.leased != waiting:
            return False
        return not self._leases.pending or waiting > 0

    def _budget(self) -> BudgetUse | None:
        treasury = self._treasury
        return None if treasury is None else BudgetUse(spent=treasury.spent, unpayable=treasury.unpayable)
