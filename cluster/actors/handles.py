"""Starts the actors that workers share, and wraps their handles in the protocols that `gen` expects.

A call that fails because an actor is gone, restarting or slow raises `Unreachable`; the caller retries.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError

from stillhouse.cluster.actors.places import on
from stillhouse.cluster.actors.plain import pack, pack_recipe, unpack, unpack_any
from stillhouse.cluster.actors.prompt_queue_actor import PromptQueueActor
from stillhouse.cluster.actors.rate_limiter import RateLimiterActor
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.messages import NoMore, Renewal, Unreachable, Wait
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import Paused
from stillhouse.gen.limits.shares import Lease, Report
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.recipe import Recipe

NAMESPACE = "stillhouse"
"""Namespace in which actors shared by jobs are found by name."""

CALL_TIMEOUT_S = 10.0

_T = TypeVar("_T")


def unique(name: str) -> str:
    """A unique name for the dashboard, because two runs may share a cluster."""
    return f"{name} {secrets.token_hex(3)}"


def start_queue(
    recipe: Recipe,
    *,
    opened: Sequence[int],
    known: int,
    workers: int,
    finish: bool = False,
    follow: bool = False,
    node: str | None = None,
) -> Any:
    """Start a PromptQueue, which Ray restarts if it dies. `node`: where it should run."""
    actor = ray.remote(PromptQueueActor).options(
        name=unique(f"prompt-queue {recipe.name}"),
        max_restarts=-1,
        max_task_retries=0,
        **on(node),
    )
    return actor.remote(pack_recipe(recipe), list(opened), known, workers, finish=finish, follow=follow)


def start_limiter(account: str, limits: Limits, *, node: str | None = None) -> Any:
    """Get the account's RateLimiter or start one, preferably on that node."""
    name = f"rate-limiter-{hashlib.sha256(account.encode()).hexdigest()[:16]}"
    actor = ray.remote(RateLimiterActor).options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        **on(node),
    )
    return actor.remote(account, pack(limits))


class Gone(Unreachable):
    """The actor is dead, perhaps permanently. An actor that only fails to answer keeps its handle."""


async def reached(call: Awaitable[_T]) -> _T:
    """Await the call's result.

    Raises:
        Unreachable: the actor is gone, restarting or slow; `Gone` if it is known to be dead.
    """
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):  # wait_for could swallow a cancellation
            return await call
    except ActorDiedError as error:
        raise Gone(type(error).__name__) from None
    except (RayActorError, GetTimeoutError, TimeoutError) as error:
        raise Unreachable(type(error).__name__) from None


class QueueHandle:
    """`gen.coordination.messages.Queue` over an actor handle."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        sent = await reached(self._actor.lease.remote(worker, begun=begun))
        answer: Grant | Wait | NoMore = unpack_any(sent, Grant, Wait, NoMore)
        return answer

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        sent = [pack(chunk) for chunk in held]
        return unpack(await reached(self._actor.renew.remote(worker, sent, pack(counters))), Renewal)

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        sent = None if counts is None else pack(counts)
        await reached(self._actor.sealed.remote(worker, pack(chunk), sent, pack(counters)))

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        await reached(self._actor.give_back.remote(worker, pack(chunk)))

    async def park(self, worker: str, chunk: ChunkId, parked: Parked, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        await reached(self._actor.park.remote(worker, pack(chunk), pack(parked), pack(counters)))

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await reached(self._actor.looked.remote(worker, running=list(map(pack, running)), ended=list(map(pack, ended))))

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await reached(self._actor.shipped.remote(worker, left_by))


class LedgerHandle:
    """`gen.coordination.messages.LimitLedger` over an actor handle; restarts the actor if its job has ended."""

    def __init__(self, account: str, limits: Limits, *, node: str | None) -> None:
        self._account = account
        self._limits = limits
        self._node = node
        self._finding: asyncio.Task[Any] | None = None
        self._actor = start_limiter(account, limits, node=node)

    async def renew(self, worker: str, report: Report) -> Lease:
        """See `gen.coordination.messages.LimitLedger`."""
        try:
            return unpack(await reached(self._actor.renew.remote(worker, pack(report))), Lease)
        except Gone:
            await self._find_again()
            raise
        except (RayTaskError, Paused):
            # The job that started it runs another version, and neither version can read the other's data.
            raise Paused(
                f"the RateLimiter of account {self._account} on this cluster runs another version of Stillhouse, so "
                "limits can't be shared with it: wait until the jobs that use it have ended, or run their version"
            ) from None

    async def leave(self, worker: str) -> None:
        """See `gen.coordination.messages.LimitLedger`."""
        await reached(self._actor.leave.remote(worker))

    async def _find_again(self) -> None:
        """Look the name up on the head, in a thread: if the head is cut off, Ray may block for minutes.

        Only one lookup runs at a time. Renewals continue meanwhile, because the old handle works again once its actor
        restarts.
        """
        if self._finding is None:
            find = asyncio.to_thread(start_limiter, self._account, self._limits, node=self._node)
            self._finding = asyncio.create_task(find)
        done, _ = await asyncio.wait([self._finding], timeout=1.0)
        if done:
            finding, self._finding = self._finding, None
            with suppress(RayError):
                self._actor = finding.result()
