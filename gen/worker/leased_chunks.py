"""The chunks that a worker leases, by stage. Each is in one stage at a time: opening, held, sealed or parked."""

from dataclasses import dataclass, field

from stillhouse.gen.dataset.budget import Opened
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.worker.leased_chunk import LeasedChunk


@dataclass(slots=True)
class LeasedChunks:
    """One worker's chunks."""

    opening: ChunkId | None = None
    """The chunk that is being opened; None if its lease was lost meanwhile."""
    held: dict[ChunkId, LeasedChunk] = field(default_factory=dict)
    """Open chunks, until they are sealed, parked, given back or lost."""
    sealed: dict[ChunkId, LeasedChunk] = field(default_factory=dict)
    """Sealed chunks that the queue does not know of yet."""
    parked: dict[ChunkId, Opened] = field(default_factory=dict)
    """Cost of parked chunks that the queue does not know of yet."""

    @property
    def all_leased(self) -> list[ChunkId]:
        """The chunks whose leases are renewed."""
        return [*self.held, *filter(None, [self.opening])]
