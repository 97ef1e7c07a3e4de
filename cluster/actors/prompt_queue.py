"""The PromptQueue: one actor that indexes the sources and leases chunks. Called once per chunk and once per renewal.

It serves the chunks of all open generations, oldest first. Its state is the index, a listing of the shards, and what
workers report. It can therefore die at any time: a restarted queue first waits one lease term for workers to report
what they hold.
"""

import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from stillhouse.cluster.actors.bell import Bell
from stillhouse.cluster.actors.open_generations import OpenGeneration, OpenGenerations
from stillhouse.cluster.actors.queue_figures import QueueFigures
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import RENEW_S, TERM_S, Grant, Leases
from stillhouse.gen.coordination.messages import NoMore, Renewal, Wait
from stillhouse.gen.coordination.roster import Roster
from stillhouse.gen.coordination.treasury import Treasury
from stillhouse.gen.dataset.generations import Generation
from stillhouse.gen.dataset.index import PartInfo
from stillhouse.gen.dataset.layout import ChunkId, open_dataset, sealed_chunks
from stillhouse.gen.dataset.parked_chunks import Parked, StoredBatches, stored_batches
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import SourceError, StillhouseError, UsageError
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.expense import limits_of
from stillhouse.schemas.recipe import Recipe

LEASE_WAIT_S = 0.5
"""How soon a worker that gets no chunk asks again."""
FIRST_LOOKS_PER_S = 20
"""How often chunks are looked at that were parked when the run began."""


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


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
        """`opened`: the generations that were open when the run began; `known`: how many generations there were then.

        The default is those that are open now. A restarted queue gets the same values as the first one, so it still
        counts the generations sealed meanwhile. `finish`: lease chunks only to close them, and ask nothing. `follow`:
        more generations will come, and each must be indexed at once.
        """
        self._store = store or open_dataset(recipe)
        self._clock = clock
        self._background = background
        self._finish = finish
        self._follows = follow
        self._treasury = (
            Treasury(self._store, limits_of(recipe.budget), is_new_run=not listen_s)
            if recipe.budget is not None and not finish
            else None
        )
        self._more_chunks = Bell()
        """Lets workers wait for new chunks of a followed source; without it they would learn of them late."""
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._leases = Leases()
        self._sealed: set[ChunkId] = set()
        self._last = False
        """True if no generation will follow."""
        self._looks = False
        """True if a thread is about to look for new plans."""
        self._lease_waits = 0
        self._stopping = False
        self._ours_until = math.inf
        """No other run can take the dataset before this time, according to the driver's last `hold`."""
        self._error: StillhouseError | None = None
        self._started = self._clock.monotonic()
        self._grant_after = self._started + listen_s
        self._roster = Roster(expected=workers, now=self._started)
        self._generations = OpenGenerations(self._store, recipe, remembers=follow)
        self._figures = QueueFigures(
            recipe, generations=self._generations, leases=self._leases, roster=self._roster, treasury=self._treasury
        )
        self._batches = StoredBatches({}, set())
        if any(teacher.mode != "online" for teacher in recipe.teachers):
            self._batches = stored_batches(self._store)
            self._leases.begun(self._batches.begun)
        self._found = self._begin_first(opened, known)
        """Generations that somebody may have worked on before this queue existed."""
        self._resumed = bool(self._found) and not listen_s
        """True if earlier runs may have left journals on the nodes; when a queue restarts, they are already shipped."""
        background(self._index)

    # --- the generations and their indexes

    def _begin_first(self, opened: Sequence[int] | None, known: int | None) -> set[int]:
        """Serve the generations that were open at the start, and those planned since that have an index."""
        sealed = set(sealed_chunks(self._store))
        dataset = self._generations.read(sealed=sealed)
        if opened is None:
            opened = [each.plan.generation for each in dataset if not each.is_sealed]
        if set(opened) - {each.plan.generation for each in dataset}:
            self._error = UsageError(
                f"{self._store.url}: the dataset that this run works on is not there on the host "
                f"{socket.gethostname()}; a local dataset.path must be the same folder on every node, on shared storage"
            )
        known = len(dataset) if known is None else known
        mine = [each for each in dataset if each.plan.generation in opened or each.plan.generation >= known]
        self._begin(dataset, mine, sealed)
        return {each.plan.generation for each in mine if each.parts}

    def _begin(self, dataset: Sequence[Generation], new: Sequence[Generation], sealed: set[ChunkId]) -> None:
        """Start serving new generations."""
        numbers = {each.plan.generation for each in new}
        with self._lock:
            self._sealed |= {chunk for chunk in sealed if chunk.generation in numbers}
            for opened in self._generations.begin(dataset, new):
                for part in opened.parts:
                    self._offer(opened, part)

    def _offer(self, opened: OpenGeneration, part: PartInfo) -> None:
        """Have a part's chunks leased."""
        for number in range(part.first_chunk, part.first_chunk + len(part.asks)):
            chunk = ChunkId(opened.plan.generation, number)
            if chunk in self._sealed:
                continue
            if (parked := self._batches.parked.get(chunk)) is not None:
                due = self._started + len(self._leases.parked) / FIRST_LOOKS_PER_S
                self._leases.found_parked(chunk, parked, due=due)
            else:
                self._leases.add(chunk)

    async def planned(self, *, last: bool) -> None:
        """The driver planned a generation, or knows that none will follow the `last` one; safe to repeat."""
        if self._looks:
            return  # the driver repeats it until it takes effect
        self._looks = True

        def look() -> None:
            try:
                with self._reading:
                    dataset = self._generations.read()
                    self._begin(dataset, dataset[self._generations.known :], set())
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
            for opened in self._generations.open:
                if not opened.is_indexed:
                    for part in self._missing_parts(opened):
                        with self._lock:
                            opened.parts.append(part)
                            self._offer(opened, part)
                        self._more_chunks.ring()

    def _missing_parts(self, opened: OpenGeneration) -> Iterator[PartInfo]:
        """Write the missing parts of a generation's index; to finish, only as far as its source can be read."""
        try:
            yield from self._generations.missing_parts(opened)
        except SourceError as error:
            if self._finish:
                yield self._generations.cut_off(opened)
            elif opened.parts or opened.plan.generation:
                raise SourceError(
                    f"{error}. Some rows of this dataset have been asked, so a good copy needs another name: first "
                    "seal what there is with `stillhouse run RECIPE --finish`, then replace this file with the copy"
                ) from None
            else:
                raise

    def _guarded(self, work: Callable[[], None]) -> None:
        """Index in a background thread; any error ends the run."""
        try:
            work()
        except StillhouseError as error:
            self._error = error
        except Exception as error:  # a bug of ours: the run must end, not hang
            self._error = StillhouseError(f"the source can't be indexed: {type(error).__name__}: {error}")
            raise

    # --- calls from workers

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            if worker in self._roster.dead:
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
        if grant is None and self._follows:
            await self._more_chunks.within(LEASE_WAIT_S)
            return Wait(0.0)
        if grant is None:
            return Wait(RENEW_S if self._leases.all_parked else LEASE_WAIT_S)
        had_owners = grant.had_owners or grant.chunk.generation in self._found
        return replace(grant, had_owners=had_owners, close=self._closes)

    def _may_lease(self, chunk: ChunkId) -> bool:
        """False for chunks that nobody has begun, while there is no money. Chunks that were begun are recovered and
        closed.
        """
        return self._treasury is None or not self._treasury.recovers_only or self._treasury.is_touched(chunk)

    @property
    def _closes(self) -> Literal["budget", "stopped"] | None:
        """The kind of Failure that the samples of newly leased chunks become without being asked."""
        if self._finish:
            return "stopped"
        return "budget" if self._treasury is not None and self._treasury.is_over else None

    def _all_swept(self, now: float) -> bool:
        """True once nothing that earlier runs left on nodes is missing in the store; only resumed datasets wait."""
        return not self._resumed or self._store.is_local or self._roster.all_swept or now > self._started + TERM_S

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        now = self._clock.monotonic()
        with self._lock:
            if is_dead := self._is_dead(worker, counters):
                self._roster.died(worker)
            self._roster.renewed(worker, counters, now=now)
            if is_dead:
                return Renewal(held, stop=True)
            for chunk in held:
                self._leases.adopt(worker, chunk, now=now)
            if self._roster.all_renewed:
                self._grant_after = 0.0
            living = () if self._treasury is None else self._treasury.living
            silent = self._roster.newly_silent(living, now=now)
            lost = self._leases.renew(worker, held, now=now)
            sweep = self._roster.to_sweep(worker)
            may_look = not self._stopping and now >= self._grant_after
            looks = self._leases.looks(now=now) if may_look else []
            streamed = sorted({place for each in self._roster.totals.values() for place in each.streamed})
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

    def _is_dead(self, worker: str, counters: Counters) -> bool:
        """True if the worker was taken for dead: by this queue or, as the budget's ledger shows, by one before it."""
        if worker in self._roster.dead:
            return True
        treasury, spending = self._treasury, counters.spending
        return treasury is not None and spending is not None and treasury.took_for_dead(worker, spending)

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._roster.totals[worker] = counters  # otherwise sealed would exceed asked until the next renewal
            if chunk not in self._sealed:
                self._sealed.add(chunk)
                self._leases.sealed(chunk)
            is_dead = self._is_dead(worker, counters)
        if self._treasury is not None:
            if counters.spending is not None and not is_dead:
                self._treasury.reported(worker, counters.spending)
            await self._treasury.sealed(chunk, by=worker, is_own=counts is not None and not is_dead)

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._leases.give_back(worker, chunk)

    async def park(self, worker: str, chunk: ChunkId, parked: Parked, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._roster.totals[worker] = counters  # else the chunk's samples would count twice until the next renewal
            self._leases.park(worker, chunk, parked, now=self._clock.monotonic(), utc=self._clock.time())
            is_dead = self._is_dead(worker, counters)
        if self._treasury is not None and counters.spending is not None and not is_dead:
            self._treasury.reported(worker, counters.spending)

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            for chunk in ended:
                self._leases.batch_ended(chunk)
            for chunk in running:
                self._leases.parked.running(chunk, now=self._clock.monotonic(), utc=self._clock.time())

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """See `gen.coordination.messages.Queue`."""
        with self._lock:
            self._leases.shipped(self._roster.swept(worker, left_by))

    # --- calls from the driver

    async def worker_died(self, worker: str) -> None:
        """Ray reported that the worker's process is gone: its chunks are free once its journals are shipped."""
        with self._lock:
            now = self._clock.monotonic()
            self._roster.died(worker)
            chunks = self._leases.died(worker, not_before=now if self._store.is_local else now + TERM_S)
            if not self._store.is_local:
                self._roster.left_behind(worker, chunks)
        if self._treasury is not None:
            self._treasury.died(worker)

    async def hold(self, good_for_s: float) -> None:
        """The dataset is certainly ours for this long. The driver calls it repeatedly, because nobody sends after that
        time.
        """
        self._ours_until = self._clock.monotonic() + good_for_s

    async def totals(self) -> dict[str, Counters]:
        """Each worker's last report, for a later queue."""
        with self._lock:
            return dict(self._roster.totals)

    async def remember(self, totals: Mapping[str, Counters]) -> None:
        """Restore an earlier queue's totals for workers that have not reported yet; live workers report again."""
        with self._lock:
            self._roster.restore(totals)

    async def stop(self) -> None:
        """Lease nothing more, and have the workers stop."""
        self._stopping = True

    def _finished(self) -> bool:
        if self._treasury is not None and self._treasury.is_over:
            return not self._treasury.has_touched
        return self._last and self._figures.all_sealed

    async def stats(self) -> QueueStats:
        """The run's progress."""
        with self._lock:
            return self._figures.read(
                sealed=self._sealed,
                last=self._last,
                finished=self._finished(),
                lease_waits=self._lease_waits,
                error=self._error,
            )
