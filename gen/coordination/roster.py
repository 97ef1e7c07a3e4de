"""The workers of a run, as far as their queue knows: who has reported, who is dead, what they left on their nodes."""

from collections.abc import Collection, Iterable, Mapping

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import TERM_S
from stillhouse.gen.coordination.messages import node_of
from stillhouse.gen.dataset.layout import ChunkId


class Roster:
    """The workers of one run. Times are arguments."""

    def __init__(self, *, expected: int, now: float) -> None:
        """`expected`: workers that the run begins with."""
        self.totals: dict[str, Counters] = {}
        """Each worker's last report."""
        self.dead: set[str] = set()
        """Dead workers. One that was only cut off may come back, and must not continue."""
        self._expected = expected
        self._began_at = now
        self._renewed: set[str] = set()
        self._renewed_at: dict[str, float] = {}
        self._swept: set[str] = set()
        self._unshipped: dict[str, list[ChunkId]] = {}
        """Chunks of dead workers that wait until their journals are shipped, by worker."""

    @property
    def all_renewed(self) -> bool:
        """True once every live worker has reported what it holds."""
        return len(self._renewed) >= self._expected

    @property
    def all_swept(self) -> bool:
        """True once every first worker has shipped what earlier runs left on its node."""
        return len(self._swept) >= self._expected

    def renewed(self, worker: str, counters: Counters, *, now: float) -> None:
        """A worker reports."""
        self.totals[worker] = counters
        if worker in self.dead:
            counters.ended()
        else:
            self._renewed.add(worker)
            self._renewed_at[worker] = now

    def restore(self, totals: Mapping[str, Counters]) -> None:
        """Reports to an earlier queue from workers that have not reported to this one yet."""
        for worker, counters in totals.items():
            if worker not in self.totals:
                counters.ended()
                self.totals[worker] = counters

    def died(self, worker: str) -> None:
        """The worker's process is gone."""
        self.dead.add(worker)
        if (counters := self.totals.get(worker)) is not None:
            counters.ended()

    def newly_silent(self, living: Iterable[str], *, now: float) -> set[str]:
        """Workers that the ledger believes to be alive, but that are dead or have been silent for longer than a lease
        lasts.

        Their end or death may never have been reported, and a ledger that was read again may not know of it. Their
        fences are closed, so they send nothing. If one comes back, it is stopped, because it must not spend what
        others have been granted meanwhile: from now on it counts as dead.
        """
        over = now - TERM_S
        silent = {each for each in living if each in self.dead or self._renewed_at.get(each, self._began_at) < over}
        self.dead |= silent
        return silent

    def left_behind(self, worker: str, chunks: Collection[ChunkId]) -> None:
        """A dead worker's journals of these chunks are on its node."""
        self._unshipped.setdefault(worker, []).extend(chunks)

    def to_sweep(self, worker: str) -> list[str]:
        """Dead workers that may have left journals on this worker's node."""
        node = node_of(worker)
        return [dead for dead in self._unshipped if node_of(dead) == node]

    def swept(self, worker: str, left_by: Iterable[str]) -> list[ChunkId]:
        """The worker shipped what these dead workers left on its node; returns the chunks that waited for it."""
        self._swept.add(worker)
        return [chunk for dead in left_by for chunk in self._unshipped.pop(dead, [])]
