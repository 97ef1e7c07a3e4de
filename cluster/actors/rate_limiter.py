"""The RateLimiter: one actor per account, found by name by every job; each worker calls it about once a second."""

import asyncio

import ray

from stillhouse.cluster.actors.places import place
from stillhouse.cluster.actors.plain import Plain, pack, unpack
from stillhouse.cluster.actors.startup import described
from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.limits.ledger import Ledger
from stillhouse.gen.limits.shares import LEASE_S, Lease, Report
from stillhouse.schemas.limits import Limits


class RateLimiter:
    """Leases one account's capacity; see `gen.limits.ledger`.

    Its state is what workers report, so it may die at any time.
    """

    def __init__(self, limits: Limits, *, listen_s: float = 0.0, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._ledger = Ledger(limits, now=clock.monotonic())
        self._grant_after = clock.monotonic() + listen_s

    async def renew(self, worker: str, report: Report) -> Lease:
        """Record a worker's report and lease its share; leases nothing while an earlier limiter's leases may be
        valid."""
        now = self._clock.monotonic()
        lease = self._ledger.renew(worker, report, now=now)
        if now < self._grant_after:
            return Lease(dict.fromkeys(lease.rates, 0.0), 0, self._grant_after - now, 0.0)
        return lease

    async def leave(self, worker: str) -> None:
        """The worker is done: its share is free."""
        self._ledger.leave(worker)

    async def died(self, worker: str) -> None:
        """The worker's process is gone; see `Ledger.died`."""
        self._ledger.died(worker)


class RateLimiterActor:
    """A RateLimiter as an actor: it receives plain data, and after a restart waits until its earlier leases expire."""

    def __init__(self, account: str, limits: Plain) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._limiter = RateLimiter(unpack(limits, Limits), listen_s=LEASE_S if again else 0.0)
        self._account = account

    async def renew(self, worker: str, report: Plain) -> Plain:
        """See `RateLimiter`."""
        return pack(await self._limiter.renew(worker, unpack(report, Report)))

    async def where(self) -> str:
        """The node that it runs on, in readable form."""
        return await asyncio.to_thread(place)  # this may ask the network

    async def leave(self, worker: str) -> None:
        """See `RateLimiter`."""
        await self._limiter.leave(worker)

    async def died(self, worker: str) -> None:
        """See `RateLimiter`."""
        await self._limiter.died(worker)

    @described
    def __repr__(self) -> str:
        """The account whose limits it leases, for the Ray dashboard."""
        return f"RateLimiter({self._account})"
