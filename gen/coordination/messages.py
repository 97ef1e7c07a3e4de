"""Messages between a worker and the actors that all workers share: one per chunk or per second, never more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.parking import Look
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError, StoreAway
from stillhouse.gen.limits.shares import Lease, Report
from stillhouse.gen.teachers.expense import Expense


def node_of(worker: str) -> str:
    """The node in a worker's name, `<node>.<the rest>`: who dies there leaves its journals there."""
    return worker.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Wait:
    """No chunk now; ask again after this time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NoMore:
    """Every chunk is sealed or will be by its holder."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A worker's part of the budget."""

    granted: Expense
    """All that it was granted since it started."""
    is_over: bool = False
    """There is no money for any request: close the chunks in hand."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The queue's answer to a renewal."""

    lost: list[ChunkId]
    """Chunks of the worker's that another may have now."""
    stop: bool = False
    """Finish the requests in flight, give the rest back."""
    sweep: bool = False
    """A worker of this node died: ship what it left, then say so."""
    good_for_s: float = math.inf
    """For this long after the request, the run is sure to have the dataset to itself."""
    allowance: Allowance | None = None
    """None without a budget."""
    looks: list[Look] = field(default_factory=list)
    """Parked chunks whose batches to look at once each; `looked` reports what came of it."""
    streamed: list[tuple[str, str]] = field(default_factory=list)
    """(teacher, endpoint) of those at which an answer timed out for any worker of the run, dead ones included."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a worker's run ended."""

    kind: Literal["done", "stopped", "away", "paused", "failed", "unusable"]
    """`away`: this worker's store or disk fails it, which says nothing of the others'; `paused`: exit 3; `failed`:
    exit 1; `unusable`: exit 2, the recipe or the source is wrong."""
    message: str = ""

    @classmethod
    def because(cls, error: StillhouseError) -> "End":
        """The end that an error makes of a worker."""
        if isinstance(error, StoreAway):
            return cls("away", str(error))
        kinds: dict[int, Literal["failed", "unusable", "paused"]] = {1: "failed", 2: "unusable", 3: "paused"}
        return cls(kinds[error.exit_code], str(error))


class Queue(Protocol):
    """The PromptQueue as a worker sees it. Any call may raise `Unreachable`; all may be repeated."""

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """Ask for a chunk; `begun`: only for one that was worked on before."""
        ...

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """Keep the leases."""
        ...

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """The chunk's shard exists; `counts` are None where another sealed it, `counters` the worker's until now."""
        ...

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """The worker will not finish the chunk; its journal is shipped."""
        ...

    async def park(self, worker: str, chunk: ChunkId, batches: Sequence[OpenBatch]) -> None:
        """The worker lets the chunk go, whose journal is shipped: all that is open of it is with these batches."""
        ...

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """Looks at parked chunks: all their batches are still running, or one or more have `ended`."""
        ...

    async def shipped(self, worker: str, chunks: list[ChunkId]) -> None:
        """What dead workers of this node left of these chunks is in the store."""
        ...


class LimitLedger(Protocol):
    """A RateLimiter as a worker sees it. May raise `Unreachable`."""

    async def renew(self, worker: str, report: Report) -> Lease:
        """Report and get a share."""
        ...

    async def leave(self, worker: str) -> None:
        """Give the share back; nothing of it is in flight."""
        ...


class Unreachable(Exception):
    """A shared actor can't be reached now; it may be restarting."""
