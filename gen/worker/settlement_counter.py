"""Counts what attempts settled: the chain learns who answers, and a run that yields nothing is suspected."""

from stillhouse.gen.worker.chain import Chain
from stillhouse.gen.worker.judges import Judges
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.suspicion import Suspicion
from stillhouse.gen.worker.tasks import Tasks


class SettlementCounter:
    """Counts settlements; the `Listener` of the teachers' lanes."""

    def __init__(self, tasks: Tasks, suspicion: Suspicion, *, chain: Chain | None, judges: Judges | None) -> None:
        self._tasks = tasks
        self._suspicion = suspicion
        self._chain = chain
        self._judges = judges

    def heard(self, held: LeasedChunk, ordinal: int) -> None:
        """See `Listener`."""
        self.count(held)
        if self._judges is not None:
            self._judges.look(held, (ordinal,))

    def wants_more(self) -> None:
        """See `Listener`."""
        self._tasks.changed.set()

    def count(self, held: LeasedChunk, *, found: bool = False) -> None:
        """Count what was settled for the chunk since the last call; `found`: by answers found in its journals."""
        settlements = held.open.state.settlements.take()
        if self._chain is not None:
            settlements = self._chain.judged(settlements)
        if not held.open.chunk.retried:  # Failures fail again
            self._suspicion.note(settlements, found=found)
