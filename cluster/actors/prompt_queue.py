"""The PromptQueue: one actor that indexes the sources and leases chunks. Called once per chunk and once per renewal.

It serves the chunks of all open generations, oldest first. Its state is the index, a listing of the shards, and what
workers report; so it can die at any time, and a restarted one first waits one lease term for workers to report theirs.
"""

import asyncio
import math
import threading
from collections import Counter as Tallied
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, assert_never

import ray

from stillhouse.cluster.actors.bell import Bell
from stillhouse.cluster.actors.events import event, trouble
from stillhouse.cluster.actors.places import place
from stillhouse.cluster.actors.plain import Plain, pack, unpack, unpack_recipe
from stillhouse.cluster.actors.startup import described
from stillhouse.cluster.progress.stats import BudgetUse, Closed, QueueStats
from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.coordination.counters import Counters, Tally
from stillhouse.gen.coordination.leases import RENEW_S, TERM_S, Grant, Leases
from stillhouse.gen.coordination.messages import NoMore, Renewal, Wait, node_of
from stillhouse.gen.coordination.treasury import Treasury
from stillhouse.gen.dataset.generations import Generation, GenerationReader
from stillhouse.gen.dataset.index import PartInfo, read_asked
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset, sealed_chunks
from stillhouse.gen.dataset.more_planning import more_parts
from stillhouse.gen.dataset.parked_chunks import OpenBatch, StoredBatches, stored_batches
from stillhouse.gen.dataset.plans import MorePlan, Plan, RetryPlan, SourcePlan
from stillhouse.gen.dataset.retry_planning import retry_parts
from stillhouse.gen.dataset.row_fates import Asked
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.expense import limits_of
from stillhouse.gen.without_pandas import without_pandas
from stillhouse.schemas.recipe import Recipe

_READERS = 16
LEASE_WAIT_S = 0.5
"""How soon a worker that gets no chunk asks again."""
FIRST_LOOKS_PER_S = 20
"""Chunks that were parked when the run began are looked at so fast."""
_T = TypeVar("_T")


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _batched(names: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The names, so many at a time."""
    return (names[start : start + size] for start in range(0, len(names), size))


@dataclass(slots=True)
class _Open:
    """A generation that this run works on."""

    plan: Plan
    parts: list[PartInfo] = field(default_factory=list)

    @property
    def is_indexed(self) -> bool:
        return bool(self.parts) and self.parts[-1].last

    def chunks(self) -> Iterator[tuple[ChunkId, int, int]]:
        """(chunk, its prompts, its samples), as far as they are known."""
        for part in self.parts:
            for number, asks in enumerate(part.asks, part.first_chunk):
                yield ChunkId(self.plan.generation, number), asks, part.samples_in(number, each=self.plan.samples)


class PromptQueue:
    """Leases the chunks of a run's open generations."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        opened: Sequence[int] | None = None,
        known: int | None = None,
        workers: int,
        listen_s: float = 0.0,
        store: Store | None = None,
        clock: Clock = SYSTEM,
        finish: bool = False,
        follow: bool = False,
        background: Callable[[Callable[[], None]], None] = _in_thread,
    ) -> None:
        """`opened`: the generations that were open when the run began; `known`: how many there were then.

        By default those that are open now. A restarted queue is given the same values as the first one, and so still
        counts the generations sealed meanwhile. `finish`: chunks are leased to be closed, and nothing is asked.
        `follow`: generations keep coming, each of which has to be indexed at once.
        """
        self._recipe = recipe
        self._store = store or open_dataset(recipe)
        self._clock = clock
        self._background = background
        self._finish = finish
        self._asked: Asked | None = {} if follow else None
        """The prompts of all indexed parts, where reading them again for each generation would take too long."""
        self._asked_parts: set[tuple[int, int]] = set()
        """The parts of the index that are in it."""
        self._treasury = (
            Treasury(self._store, limits_of(recipe.budget), is_new_run=not listen_s)
            if recipe.budget is not None and not finish
            else None
        )
        self._more_chunks = Bell()
        """Workers wait for it where the source is followed: there they would else learn late of new chunks."""
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._leases = Leases()
        self._open: list[_Open] = []
        self._generations: list[Generation] = []
        self._closed = Closed()
        self._sealed: set[ChunkId] = set()
        self._last = False
        """True if no generation will follow."""
        self._looks = False
        """True if a thread is about to look for new plans."""
        self._lease_waits = 0
        self._counters: dict[str, Counters] = {}
        self._dead: set[str] = set()
        """Workers that Ray declared dead: one that was cut off may come back, and must not work on."""
        self._stopping = False
        self._ours_until = math.inf
        """Until then no other run can take the dataset, by the driver's last `hold`."""
        self._error: StillhouseError | None = None
        self._started = self._clock.monotonic()
        self._grant_after = self._started + listen_s
        self._heard_at: dict[str, float] = {}
        """Monotonic time of each worker's last report, where there is a budget."""
        self._expected = workers
        self._arrived: set[str] = set()
        self._heard: set[str] = set()
        self._dead_left: dict[str, list[ChunkId]] = {}
        """Per node: chunks whose dead owners' journals may not be shipped yet."""
        self._reader = GenerationReader(self._store)
        self._batches = StoredBatches({}, set())
        if any(teacher.mode != "online" for teacher in recipe.teachers):
            self._batches = stored_batches(self._store)
            self._leases.begun(self._batches.begun)
        sealed = set(sealed_chunks(self._store))
        generations = self._reader.read(sealed=sealed)
        if opened is None:
            opened = [each.plan.generation for each in generations if not each.is_sealed]
        known = len(generations) if known is None else known
        mine = [each for each in generations if each.plan.generation in opened or each.plan.generation >= known]
        self._begin(generations, mine, sealed)
        self._found = {each.plan.generation for each in mine if each.parts}
        """Generations that somebody may have worked on before this queue."""
        self._resumed = bool(self._found) and not listen_s
        """True if earlier runs may have left journals on the nodes; for a restarted queue they are already shipped."""
        background(self._index)

    # --- the generations and their indexes

    def _begin(self, generations: Sequence[Generation], new: Sequence[Generation], sealed: set[ChunkId]) -> None:
        """Serve new generations too."""
        numbers = {each.plan.generation for each in new}
        with self._lock:
            self._generations = list(generations)
            mine = numbers | {opened.plan.generation for opened in self._open}
            self._closed = _totals(each for each in generations if each.plan.generation not in mine)
            self._sealed |= {chunk for chunk in sealed if chunk.generation in numbers}
            for each in new:
                opened = _Open(each.plan)
                self._open.append(opened)
                for part in each.parts:
                    self._take_in(opened, part)

    def _take_in(self, opened: _Open, part: PartInfo) -> None:
        opened.parts.append(part)
        for number in range(part.first_chunk, part.first_chunk + len(part.asks)):
            chunk = ChunkId(opened.plan.generation, number)
            if chunk in self._sealed:
                continue
            if (batches := self._batches.parked.get(chunk)) is not None:
                due = self._started + len(self._leases.parked) / FIRST_LOOKS_PER_S
                self._leases.found_parked(chunk, batches, due=due)
            else:
                self._leases.add(chunk)

    async def planned(self, *, last: bool) -> None:
        """The driver planned a generation, or knows that none will follow the `last` one; may be repeated."""
        if self._looks:
            return  # the driver repeats it until it takes effect
        self._looks = True

        def look() -> None:
            try:
                with self._reading:
                    generations = self._reader.read()
                    self._begin(generations, generations[len(self._generations) :], set())
                    self._last = last
            finally:
                self._looks = False
            self._index_all()

        self._background(lambda: self._guarded(look))

    def _index(self) -> None:
        """Write the missing index parts of open generations, oldest first."""
        self._guarded(self._index_all)

    def _index_all(self) -> None:
        with self._reading:
            for opened in self._open:
                if not opened.is_indexed:
                    for part in self._missing_parts(opened):
                        with self._lock:
                            self._take_in(opened, part)
                        self._more_chunks.ring()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run it in a background thread; any error ends the run."""
        try:
            work()
        except StillhouseError as error:
            self._error = error
        except Exception as error:  # a bug of ours: the run must end, not hang
            self._error = StillhouseError(f"the source can't be indexed: {type(error).__name__}: {error}")
            raise

    def _missing_parts(self, opened: _Open) -> Iterator[PartInfo]:
        plan, done, per_shard = opened.plan, list(opened.parts), self._recipe.prompts_per_shard
        earlier = [each.plan for each in self._generations[: plan.generation]]
        match plan:
            case RetryPlan():
                return retry_parts(self._store, plan, earlier, done=done, prompts_per_shard=per_shard)
            case MorePlan():
                return more_parts(self._store, plan, earlier, done=done, prompts_per_shard=per_shard)
            case SourcePlan():
                return self._source_parts(plan, done)
            case _:
                assert_never(plan)

    def _source_parts(self, plan: SourcePlan, done: list[PartInfo]) -> Iterator[PartInfo]:
        indexer = Indexer(self._store, self._recipe, plan, asked=self._asked)
        # Including what this queue has indexed since, unless it remembers that.
        generations = self._reader.read() if self._asked is None else self._generations
        before = generations[: plan.generation + 1]
        names = [(each.plan.generation, n) for each in before if _is_source(each) for n in range(len(each.parts))]
        if self._asked is not None:
            names = [name for name in names if name not in self._asked_parts]
            self._asked_parts.update(names)
        with ThreadPoolExecutor(_READERS) as pool:
            for some in _batched(names, _READERS):  # not all at once: a large dataset's index is larger than memory
                indexer.remember(list(pool.map(lambda name: read_asked(self._store, *name), some)))
        return indexer.parts(done)

    # --- what workers ask

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            if worker in self._dead:
                return Wait(TERM_S)  # its next renewal stops it
            if self._finished():
                return NoMore()
            grant = None
            if not self._stopping and now >= self._grant_after and self._all_swept(now):
                grant = self._leases.grant(worker, now=now, begun=begun, may_lease=self._may_lease)
            self._lease_waits += grant is None
        if grant is not None and self._treasury is not None and not await self._treasury.leased(worker, grant.chunk):
            with self._lock:
                self._leases.give_back(worker, grant.chunk)
            grant = None
        if grant is None and self._asked is not None:
            await self._more_chunks.within(LEASE_WAIT_S)
            return Wait(0.0)
        if grant is None:
            return Wait(RENEW_S if self._leases.all_parked else LEASE_WAIT_S)
        had_owners = grant.had_owners or grant.chunk.generation in self._found
        return replace(grant, had_owners=had_owners, close=self._closes)

    def _may_lease(self, chunk: ChunkId) -> bool:
        """False for chunks that were not begun, while there is no money: whatever was begun is recovered and closed."""
        return self._treasury is None or not self._treasury.recovers_only or self._treasury.is_touched(chunk)

    @property
    def _closes(self) -> Literal["budget", "stopped"] | None:
        """The kind of the Failures that samples of chunks leased now become without being asked."""
        if self._finish:
            return "stopped"
        return "budget" if self._treasury is not None and self._treasury.is_over else None

    def _all_swept(self, now: float) -> bool:
        """True once every first worker has shipped what earlier runs left on its node; only resumed datasets wait."""
        if not self._resumed or self._store.is_local or len(self._arrived) >= self._expected:
            return True
        return now > self._started + TERM_S

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            self._counters[worker] = counters
            if worker in self._dead:
                counters.ended()
                return Renewal(held, stop=True)
            self._heard.add(worker)
            for chunk in held:
                self._leases.adopt(worker, chunk, now=now)
            if len(self._heard) >= self._expected:
                self._grant_after = 0.0  # every live worker has reported what it holds
            silent = self._newly_silent(worker, now)
            lost = self._leases.renew(worker, held, now=now)
            sweep = node_of(worker) in self._dead_left
            may_look = not self._stopping and now >= self._grant_after
            looks = self._leases.looks(now=now) if may_look else []
            streamed = sorted({place for each in self._counters.values() for place in each.streamed})
        allowance = None
        if self._treasury is not None:
            for each in silent:
                self._treasury.died(each)
            if counters.spending is not None:
                allowance = await self._treasury.renewed(worker, counters.spending)
        good_for_s = max(0.0, self._ours_until - now)
        return Renewal(
            lost,
            stop=self._stopping,
            sweep=sweep,
            good_for_s=good_for_s,
            allowance=allowance,
            looks=looks,
            streamed=streamed,
        )

    def _newly_silent(self, worker: str, now: float) -> set[str]:
        """Workers that the ledger takes for living, and that are dead or silent for longer than a lease is good for.

        Neither end nor death of some was ever reported, and a ledger that is read anew may know nothing of it. Their
        fences are closed, so they send nothing. One that comes back must not spend what others have been granted
        meanwhile, and is told to stop.
        """
        if self._treasury is None:
            return set()
        self._heard_at[worker] = now
        over = now - TERM_S
        silent = {
            each
            for each in self._treasury.living
            if each in self._dead or self._heard_at.get(each, self._started) < over
        }
        self._dead |= silent
        return silent

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._counters[worker] = counters  # otherwise sealed would exceed asked until the next renewal
            if chunk not in self._sealed:
                self._sealed.add(chunk)
                self._leases.sealed(chunk)
            is_dead = worker in self._dead
        if self._treasury is not None:
            if counters.spending is not None and not is_dead:
                self._treasury.reported(worker, counters.spending)
            await self._treasury.sealed(chunk, by=worker, is_own=counts is not None and not is_dead)

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._leases.give_back(worker, chunk)

    async def park(self, worker: str, chunk: ChunkId, batches: Sequence[OpenBatch]) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._leases.park(worker, chunk, batches, now=self._clock.monotonic(), utc=self._clock.time())

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            for chunk in ended:
                self._leases.batch_ended(chunk)
            for chunk in running:
                self._leases.parked.running(chunk, now=self._clock.monotonic(), utc=self._clock.time())

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
            self._dead.add(worker)
            if (counters := self._counters.get(worker)) is not None:
                counters.ended()
            chunks = self._leases.died(worker, not_before=now if self._store.is_local else now + TERM_S)
            if not self._store.is_local:
                self._dead_left.setdefault(node_of(worker), []).extend(chunks)
        if self._treasury is not None:
            self._treasury.died(worker)

    async def hold(self, good_for_s: float) -> None:
        """The dataset is certainly ours for this long; called repeatedly, because nobody sends beyond it."""
        self._ours_until = self._clock.monotonic() + good_for_s

    async def totals(self) -> dict[str, Counters]:
        """Each worker's last report, for a later queue."""
        with self._lock:
            return dict(self._counters)

    async def remember(self, totals: Mapping[str, Counters]) -> None:
        """Restore an earlier queue's totals for workers that have not reported yet; live ones report again."""
        with self._lock:
            for worker, counters in totals.items():
                if worker not in self._counters:
                    counters.ended()
                    self._counters[worker] = counters

    async def stop(self) -> None:
        """Lease nothing more, and have the workers stop."""
        self._stopping = True

    def _finished(self) -> bool:
        if self._treasury is not None and self._treasury.is_over:
            return not self._treasury.has_touched
        return self._last and self._all_sealed()

    def _all_sealed(self) -> bool:
        return self._indexed() and self._leases.open == 0

    def _indexed(self) -> bool:
        return all(opened.is_indexed for opened in self._open)

    async def stats(self) -> QueueStats:
        """The run's progress."""
        with self._lock:
            chunks = [found for opened in self._open for found in opened.chunks()]
            left = [(asks, samples) for chunk, asks, samples in chunks if chunk not in self._sealed]
            parts = [part for opened in self._open if _is_source(opened) for part in opened.parts]
            workers = self._counters.values()
            names = sorted({name for counters in workers for name in counters.teachers})
            teachers = {name: sum((c.teachers.get(name, Tally()) for c in workers), Tally()) for name in names}
            error = self._error or (self._treasury.fault if self._treasury is not None else None)
            return QueueStats(
                closed=self._closed,
                planned=self._indexed(),
                all_sealed=self._all_sealed(),
                known=len(self._generations),
                last=self._last,
                again=bool(self._open) and not any(map(_is_source, self._open)),
                rows=sum(part.rows for part in parts),
                duplicates=sum(part.duplicates for part in parts),
                bad=sum(part.bad for part in parts),
                asks=sum(asks for _, asks, _ in chunks),
                samples=sum(samples for _, _, samples in chunks),
                chunks=len(chunks),
                sealed=len(self._sealed),
                parked=len(self._leases.parked),
                rests=self._rests(),
                prompts_left=sum(asks for asks, _ in left),
                samples_left=sum(samples for _, samples in left),
                counts=sum((c.sealed for c in workers), ShardCounts()),
                shards=sum(c.shards for c in workers),
                teachers=teachers,
                open_chunks=sum(c.open_chunks for c in workers),
                open_settled=sum(c.open_settled for c in workers),
                journal_lag_bytes=sum(c.journal_lag_bytes for c in workers),
                lease_waits=self._lease_waits,
                held_up=dict(Tallied(c.held_up for c in workers if c.held_up)),
                notes=list(dict.fromkeys(note for c in workers for note in c.notes)),
                last_trouble=next((c.last_trouble for c in workers if c.last_trouble), ""),
                budget=self._budget(),
                finished=self._finished(),
                error=str(error) if error else None,
                exit_code=error.exit_code if error else 0,
            )

    def _rests(self) -> bool:
        """True if all batches were looked at, and what is not with one waits for an end of another."""
        parked, workers = self._leases.parked, self._counters.values()
        waiting = sum(counters.waiting_chunks for counters in workers)
        if not self._indexed() or not parked or parked.unknown or self._leases.leased != waiting:
            return False
        return not self._leases.pending or waiting > 0

    def _budget(self) -> BudgetUse | None:
        treasury = self._treasury
        return None if treasury is None else BudgetUse(spent=treasury.spent, unpayable=treasury.unpayable)


def _is_source(generation: Generation | _Open) -> bool:
    return isinstance(generation.plan, SourcePlan)


def _totals(generations: Iterable[Generation]) -> Closed:
    closed = Closed()
    for each in generations:
        if _is_source(each):
            closed.rows += sum(part.rows for part in each.parts)
            closed.duplicates += sum(part.duplicates for part in each.parts)
            closed.bad += sum(part.bad for part in each.parts)
        if not isinstance(each.plan, RetryPlan):
            closed.samples += sum(
                part.samples_in(number, each=each.plan.samples)
                for part in each.parts
                for number in range(part.first_chunk, part.first_chunk + len(part.asks))
            )
        closed.chunks += each.chunks
    return closed


class PromptQueueActor:
    """A PromptQueue as an actor: it is sent plain data, and one that was restarted listens before it leases."""

    def __init__(
        self, recipe: Plain, opened: Sequence[int], known: int, workers: int, *, finish: bool, follow: bool
    ) -> None:
        without_pandas()
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

    async def park(self, worker: str, chunk: Plain, batches: list[Plain]) -> None:
        """See `PromptQueue`."""
        await self._queue.park(worker, unpack(chunk, ChunkId), [unpack(batch, OpenBatch) for batch in batches])

    async def looked(self, worker: str, *, running: list[Plain], ended: list[Plain]) -> None:
        """See `PromptQueue`."""
        found = ([unpack(chunk, ChunkId) for chunk in chunks] for chunks in (running, ended))
        await self._queue.looked(worker, running=next(found), ended=next(found))

    async def shipped(self, worker: str, chunks: list[Plain]) -> None:
        """See `PromptQueue`."""
        await self._queue.shipped(worker, [unpack(chunk, ChunkId) for chunk in chunks])

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
        """The node that it is on, for people."""
        return await asyncio.to_thread(place)  # which may ask the network

    async def stop(self) -> None:
        """See `PromptQueue`."""
        await self._queue.stop()

    async def stats(self) -> Plain:
        """See `PromptQueue`."""
        return pack(await self._queue.stats())
