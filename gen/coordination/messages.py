"""Messages between a worker and the actors that all workers share: one per chunk or per second, never more."""

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.parking import Look
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError, StoreAway
from stillhouse.gen.limits.shares import Lease, Report
from stillhouse.gen.teachers.expense import Expense


def node_of(worker: str) -> str:
    """The node in a worker's name, `<node>.<the rest>`; a worker that dies there leaves its journals there."""
    return worker.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Wait:
    """No chunk is available now; ask again after this time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NoMore:
    """Every chunk is sealed, or will be by its holder."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A worker's part of the budget."""

    granted: Expense
    """Everything that it was granted since it started."""
    is_over: bool = False
    """There is no money for any request: close the open chunks."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The queue's answer to a renewal."""

    lost: list[ChunkId]
    """Chunks of the worker that another worker may have now."""
    stop: bool = False
    """Finish the requests in flight, and give the rest back."""
    sweep: list[str] = field(default_factory=list)
    """Dead workers of this node: ship what they left, then report them with `shipped`."""
    good_for_s: float = math.inf
    """The run certainly has the dataset to itself for this long after the request."""
    allowance: Allowance | None = None
    """The worker's grant; None without a budget."""
    looks: list[Look] = field(default_factory=list)
    """Parked chunks whose batches the worker should look at once; it reports the result with `looked`."""
    streamed: list[tuple[str, str]] = field(default_factory=list)
    """(teacher, endpoint) of those at which an answer timed out for any worker of the run, dead ones included."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a worker's run ended."""

    kind: Literal["done", "stopped", "away", "paused", "failed", "unusable"]
    """`away`: this worker's store or disk fails, which says nothing about the others; `paused`: exit 3; `failed`: exit
    1; `unusable`: exit 2, the recipe or the source is wrong."""
    message: str = ""

    @classmethod
    def because(cls, error: StillhouseError) -> "End":
        """The end of a worker that this error causes."""
        if isinstance(error, StoreAway):
            return cls("away", str(error))
        kinds: dict[int, Literal["failed", "unusable", "paused"]] = {1: "failed", 2: "unusable", 3: "paused"}
        return cls(kinds[error.exit_code], str(error))


class Queue(Protocol):
    """The PromptQueue as a worker sees it. Any call may raise `Unreachable`; all calls may be repeated."""

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """Ask for a chunk; `begun`: only for one that was worked on before."""
        ...

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """Renew the leases."""
        ...

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """The chunk's shard exists; `counts` is None if another worker sealed it, `counters` are the worker's totals so
        far.
        """
        ...

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """The worker will not finish the chunk; its journal is shipped."""
        ...

    async def park(self, worker: str, chunk: ChunkId, parked: Parked, counters: Counters) -> None:
        """The worker gives the chunk back, with its journal shipped; its `counters` no longer include the chunk."""
        ...

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """Report looks at parked chunks: all their batches are still running, or at least one has `ended`."""
        ...

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """The worker has swept its node: what these dead workers left there is in the store.

        An earlier `Renewal.sweep` named them, so they were dead before the sweep began.
        """
        ...


class LimitLedger(Protocol):
    """A RateLimiter as a worker sees it. May raise `Unreachable`."""

    async def renew(self, worker: str, report: Report) -> Lease:
        """Report, and get a share."""
        ...

    async def leave(self, worker: str) -> None:
        """Give the share back; none of its requests are in flight."""
        ...


class Unreachable(Exception):
    """A shared actor can't be reached now; it may be restarting."""
