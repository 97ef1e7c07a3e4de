"""The PromptQueue as an actor: it receives plain data, and after a restart it collects reports before it leases."""

import asyncio
from collections.abc import Mapping, Sequence

import ray

from stillhouse.cluster.actors.events import event, trouble
from stillhouse.cluster.actors.places import place
from stillhouse.cluster.actors.plain import Plain, pack, unpack, unpack_recipe
from stillhouse.cluster.actors.startup import described
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import TERM_S
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.process.garbage import collect_rarely
from stillhouse.gen.process.large_blocks import leave_arrow_to_c_library, return_large_blocks

leave_arrow_to_c_library()  # at import: see `teacher_worker`


class PromptQueueActor:
    """A PromptQueue as an actor."""

    def __init__(
        self, recipe: Plain, opened: Sequence[int], known: int, workers: int, *, finish: bool, follow: bool
    ) -> None:
        collect_rarely()
        # The driver and the workers import this module too, and need neither.
        from stillhouse.cluster.actors.prompt_queue import PromptQueue
        from stillhouse.gen.process.without_pandas import without_pandas

        without_pandas()
        return_large_blocks()
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._queue = PromptQueue(
            unpack_recipe(recipe),
            opened=opened,
            known=known,
            workers=workers,
            listen_s=TERM_S if again else 0.0,
            finish=finish,
            follow=follow,
        )
        self._name = f"PromptQueue({unpack_recipe(recipe).name})"
        event("queue restarted" if again else "queue started", generations=str(list(opened)))

    @described
    def __repr__(self) -> str:
        """The dataset it serves, for the Ray dashboard."""
        return self._name

    async def lease(self, worker: str, *, begun: bool = False) -> Plain:
        """See `PromptQueue`."""
        return pack(await self._queue.lease(worker, begun=begun))

    async def renew(self, worker: str, held: list[Plain], counters: Plain) -> Plain:
        """See `PromptQueue`."""
        chunks = [unpack(chunk, ChunkId) for chunk in held]
        return pack(await self._queue.renew(worker, chunks, unpack(counters, Counters)))

    async def sealed(self, worker: str, chunk: Plain, counts: Plain | None, counters: Plain) -> None:
        """See `PromptQueue`."""
        found = None if counts is None else unpack(counts, ShardCounts)
        await self._queue.sealed(worker, unpack(chunk, ChunkId), found, unpack(counters, Counters))

    async def give_back(self, worker: str, chunk: Plain) -> None:
        """See `PromptQueue`."""
        await self._queue.give_back(worker, unpack(chunk, ChunkId))

    async def park(self, worker: str, chunk: Plain, parked: Plain, counters: Plain) -> None:
        """See `PromptQueue`."""
        await self._queue.park(worker, unpack(chunk, ChunkId), unpack(parked, Parked), unpack(counters, Counters))

    async def looked(self, worker: str, *, running: list[Plain], ended: list[Plain]) -> None:
        """See `PromptQueue`."""
        found = ([unpack(chunk, ChunkId) for chunk in chunks] for chunks in (running, ended))
        await self._queue.looked(worker, running=next(found), ended=next(found))

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """See `PromptQueue`."""
        await self._queue.shipped(worker, left_by)

    async def planned(self, *, last: bool) -> None:
        """See `PromptQueue`."""
        await self._queue.planned(last=last)

    async def worker_died(self, worker: str) -> None:
        """See `PromptQueue`."""
        trouble("worker died", worker=worker)
        await self._queue.worker_died(worker)

    async def hold(self, good_for_s: float) -> None:
        """See `PromptQueue`."""
        await self._queue.hold(good_for_s)

    async def totals(self) -> dict[str, Plain]:
        """See `PromptQueue`."""
        return {worker: pack(counters) for worker, counters in (await self._queue.totals()).items()}

    async def remember(self, totals: Mapping[str, Plain]) -> None:
        """See `PromptQueue`."""
        await self._queue.remember({worker: unpack(sent, Counters) for worker, sent in totals.items()})

    async def where(self) -> str:
        """The node that it runs on, in readable form."""
        return await asyncio.to_thread(place)  # this may ask the network

    async def stop(self) -> None:
        """See `PromptQueue`."""
        await self._queue.stop()

    async def stats(self) -> Plain:
        """See `PromptQueue`."""
        return pack(await self._queue.stats())
