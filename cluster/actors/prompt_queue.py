"""The PromptQueue: one actor that indexes the sources and leases chunks. Called once per chunk and once per renewal.

Its state is the index, a listing of the shards, and what its workers tell it; so it can die at any time, and a
restarted one first listens for a lease's term to what the workers still hold.
"""

import threading
from collections.abc import Callable, Iterator

import ray

from stillhouse.cluster.actors.events import event, trouble
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.coordination.counters import Counters, Tally
from stillhouse.gen.coordination.leases import TERM_S, Grant, Leases
from stillhouse.gen.coordination.messages import NoMore, Renewal, Wait, node_of
from stillhouse.gen.dataset.index import PartInfo, read_part, read_parts
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset, sealed_chunks
from stillhouse.gen.dataset.plans import Plan, read_plans
from stillhouse.gen.dataset.retry_planning import retry_parts
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.store.base import Store
from stillhouse.gen.without_pandas import without_pandas
from stillhouse.schemas.recipe import Recipe


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class PromptQueue:
    """Leases the chunks of one generation."""

    def __init__(
        self,
        recipe: Recipe,
        generation: int,
        *,
        workers: int,
        listen_s: float = 0.0,
        store: Store | None = None,
        clock: Clock = SYSTEM,
        background: Callable[[Callable[[], None]], None] = _in_thread,
    ) -> None:
        self._recipe = recipe
        self._store = store or open_dataset(recipe)
        self._clock = clock
        plans = read_plans(self._store)
        self._plan = plans[generation]
        self._lock = threading.Lock()
        self._leases = Leases()
        self._parts: list[PartInfo] = []
        self._sealed = {c for c in sealed_chunks(self._store) if c.generation == generation}
        self._counts = ShardCounts()
        self._shards = 0
        self._lease_waits = 0
        self._counters: dict[str, Counters] = {}
        self._stopping = False
        self._error: StillhouseError | None = None
        self._started = self._clock.monotonic()
        self._grant_after = self._started + listen_s
        self._expected = workers
        self._arrived: set[str] = set()
        self._heard: set[str] = set()
        self._dead_left: dict[str, list[ChunkId]] = {}
        """By node: chunks whose dead owners' journals may not be shipped yet."""
        done = read_parts(self._store, self._plan)
        for part in done:
            self._take_in(part)
        self._resumed = bool(done) and not listen_s
        """Whether earlier runs may have left journals on the nodes; a queue that is restarted finds them shipped."""
        background(lambda: self._index(done, plans[:generation]))

    # --- the index

    def _index(self, done: list[PartInfo], earlier: list[Plan]) -> None:
        """Write the parts that are missing; runs in a thread of its own."""
        if done and done[-1].last:
            return
        try:
            for part in self._missing_parts(done, earlier):
                self._take_in(part)
        except StillhouseError as error:
            self._error = error
        except Exception as error:  # a bug of ours, in a thread that nobody waits for: the run must end, not hang
            self._error = StillhouseError(f"the source can't be indexed: {type(error).__name__}: {error}")
            raise

    def _missing_parts(self, done: list[PartInfo], earlier: list[Plan]) -> Iterator[PartInfo]:
        if self._plan.retry is not None:
            per_shard = self._recipe.dataset.prompts_per_shard
            return retry_parts(self._store, self._plan, earlier, done=done, prompts_per_shard=per_shard)
        indexer = Indexer(self._store, self._recipe, self._plan)
        for plan in [*earlier, self._plan]:
            for number in range(len(read_parts(self._store, plan))):
                indexer.remember(read_part(self._store, plan.generation, number))
        return indexer.parts(done)

    def _take_in(self, part: PartInfo) -> None:
        with self._lock:
            self._parts.append(part)
            for number in range(part.first_chunk, part.first_chunk + len(part.asks)):
                chunk = ChunkId(self._plan.generation, number)
                if chunk not in self._sealed:
                    self._leases.add(chunk)

    # --- what workers ask

    async def lease(self, worker: str) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            if self._finished():
                return NoMore()
            grant = None
            if not self._stopping and now >= self._grant_after and self._all_swept(now):
                grant = self._leases.grant(worker, now=now)
            self._lease_waits += grant is None
            return grant or Wait(0.5)

    def _all_swept(self, now: float) -> bool:
        """Whether every first worker has shipped what earlier runs left on its node; only a resumed dataset waits."""
        if not self._resumed or self._store.is_local or len(self._arrived) >= self._expected:
            return True
        return now > self._started + TERM_S

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            self._counters[worker] = counters
            self._heard.add(worker)
            for chunk in held:
                self._leases.adopt(worker, chunk, now=now)
            if len(self._heard) >= self._expected:
                self._grant_after = 0.0  # everyone alive has said what it holds
            lost = self._leases.renew(worker, held, now=now)
            return Renewal(lost, stop=self._stopping, sweep=node_of(worker) in self._dead_left)

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._counters[worker] = counters  # or more would be sealed than asked, until the next renewal
            if chunk not in self._sealed:
                self._sealed.add(chunk)
                self._leases.sealed(chunk)
                self._counts += counts or ShardCounts()
                self._shards += counts is not None

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._leases.give_back(worker, chunk)

    async def shipped(self, worker: str, chunks: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._arrived.add(worker)
            self._leases.shipped(self._dead_left.pop(node_of(worker), []))

    # --- what the driver asks

    async def worker_died(self, worker: str) -> None:
        """Ray reported the worker's process gone: its chunks are free once its journals are shipped."""
        with self._lock:
            now = self._clock.monotonic()
            if (counters := self._counters.get(worker)) is not None:
                counters.ended()
            chunks = self._leases.died(worker, not_before=now if self._store.is_local else now + TERM_S)
            if not self._store.is_local:
                self._dead_left.setdefault(node_of(worker), []).extend(chunks)

    async def stop(self) -> None:
        """Lease nothing more, and tell the workers to stop."""
        self._stopping = True

    def _finished(self) -> bool:
        return self._planned() and self._leases.open == 0

    def _planned(self) -> bool:
        return bool(self._parts) and self._parts[-1].last

    async def stats(self) -> QueueStats:
        """How far it is."""
        with self._lock:
            asks = [ask for part in self._parts for ask in part.asks]
            left = sum(ask for n, ask in enumerate(asks) if ChunkId(self._plan.generation, n) not in self._sealed)
            workers = self._counters.values()
            names = sorted({name for counters in workers for name in counters.teachers})
            teachers = {name: sum((c.teachers.get(name, Tally()) for c in workers), Tally()) for name in names}
            total = sum(teachers.values(), Tally())
            return QueueStats(
                planned=self._planned(),
                again=self._plan.retry is not None,
                rows=sum(part.rows for part in self._parts),
                duplicates=sum(part.duplicates for part in self._parts),
                bad=sum(part.bad for part in self._parts),
                asks=sum(asks),
                chunks=len(asks),
                sealed=len(self._sealed),
                prompts_left=left,
                counts=self._counts,
                shards=self._shards,
                teachers=teachers,
                requests=total.requests,
                retries=total.retries,
                answers=total.answers,
                input_tokens=total.input_tokens,
                output_tokens=total.output_tokens,
                usd=total.usd,
                in_flight=total.in_flight,
                troubles=total.troubles,
                open_chunks=sum(c.open_chunks for c in workers),
                open_settled=sum(c.open_settled for c in workers),
                journal_lag_bytes=sum(c.journal_lag_bytes for c in workers),
                lease_waits=self._lease_waits,
                last_trouble=next((c.last_trouble for c in workers if c.last_trouble), ""),
                finished=self._finished(),
                error=str(self._error) if self._error else None,
                exit_code=self._error.exit_code if self._error else 0,
            )


class PromptQueueActor(PromptQueue):
    """A PromptQueue that, restarted, listens before it leases."""

    def __init__(self, recipe: Recipe, generation: int, workers: int) -> None:
        without_pandas()
        again = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(recipe, generation, workers=workers, listen_s=TERM_S if again else 0.0)
        self._name = f"PromptQueue({recipe.name}, generation {generation})"
        event("queue restarted" if again else "queue started", generation=generation)

    def __repr__(self) -> str:
        """What it is the queue of, for the Ray dashboard."""
        return self._name

    async def worker_died(self, worker: str) -> None:
        """See `PromptQueue`."""
        trouble("worker died", worker=worker)
        await super().worker_died(worker)
