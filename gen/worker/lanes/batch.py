"""The batch lane: a chunk's samples go to the provider's batch API, many in one batch.

Nothing is created that may have been created before: an intent is stored first, and a later owner of the chunk looks
for its batch until it is found, or counts as never created (`batch_search`).
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, NamedTuple

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.batch_intents import Intents, who_of
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.worker.lanes.base import Gate, Listener
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls
from stillhouse.gen.worker.lanes.batch_creation import BatchCreation
from stillhouse.gen.worker.lanes.batch_docket import BatchDocket
from stillhouse.gen.worker.lanes.batch_following import BatchFollowing
from stillhouse.gen.worker.lanes.batch_looks import BatchLooks
from stillhouse.gen.worker.lanes.batch_money import BatchMoney
from stillhouse.gen.worker.lanes.batch_parts import BatchParts
from stillhouse.gen.worker.lanes.batch_results import BatchResults
from stillhouse.gen.worker.lanes.batch_search import BatchSearch
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks


class AtProvider(NamedTuple):
    """A teacher's batches for one chunk."""

    samples: int
    """Open samples in them."""
    batches: list[OpenBatch]


class BatchLane:
    """Asks one teacher's samples in batches."""

    def __init__(
        self,
        client: TeacherClient,
        *,
        tasks: Tasks,
        listener: Listener[LeasedChunk],
        gate: Gate,
        counters: Counters,
        clock: Clock,
        store: Store,
        keep_going: bool,
        stage: int = 0,
        beside: Collection[str] = (),
    ) -> None:
        """`stage`: the number of the check whose judge is asked, if it is one; `beside`: see `Intents`."""
        self.account = client.account
        self._client = client
        self._worker_tasks = tasks
        self._listener = listener
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._place = client.interpreter.place or 0
        self._stage = stage
        self.teacher = client.teacher.name
        self.who = who_of(self._place, stage=stage)
        """Who is asked, see `batch_intents`."""
        self._api = batches_of(client.teacher, client.teacher.batch)
        calls = BatchCalls(client, self._api, counters=counters)
        self._looks = BatchLooks(client, self._api, calls=calls)
        self._money = BatchMoney(client, purse=gate.purse, listener=listener)
        self._intents = Intents(store, who=self.who, beside=beside)
        search = BatchSearch(self._api, calls=calls, intents=self._intents, gate=gate, clock=clock)
        parts = BatchParts(
            client, self._api, calls, self._intents, search, self._money, listener, gate, counters, clock
        )
        self._results = BatchResults(parts)
        self._creation = BatchCreation(parts)
        self._following = BatchFollowing(parts, creation=self._creation, results=self._results, keep_going=keep_going)
        self._works: dict[int, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        return self._results.largest_reply_bytes

    @property
    def waiting(self) -> int:
        """Batches don't count towards the account's limits."""
        return 0

    @property
    def slots(self) -> int:
        """Batches use no slots."""
        return 0

    @property
    def wanted(self) -> int:
        """Batches use no slots."""
        return 0

    def reserved(self, held: LeasedChunk) -> Expense | None:
        """What the lane's batches for the chunk may cost, under a budget; None if that is not known yet."""
        if (work := self._works.get(id(held))) is None:
            return NOTHING
        return work.reserved if work.is_known else None

    @property
    def is_full(self) -> bool:
        """True while a chunk waits until another batch has ended."""
        return self._creation.has_most or self._money.is_short

    @property
    def open(self) -> int:
        """Batches that may be at the provider, of the chunks in hand."""
        return sum(len(work.intents) for work in self._works.values() if not work.held.abandoned)

    @property
    def runs_dry(self) -> bool:
        """True if more batches may be open than there are chunks."""
        chunks = sum(not work.is_over for work in self._works.values())
        return not self.is_full and chunks < self._client.teacher.batch.max_open

    def take(self, docket: BatchDocket, ordinals: Iterable[int]) -> None:
        """Ask these samples of the chunk, and collect what its earlier owners asked here."""
        work = self._works.get(id(docket.held))
        if work is None:
            work = self._works[id(docket.held)] = Work(docket)
            self._spawn(self._keep, work)
        work.waiting.update(dict.fromkeys(ordinals))
        work.changed.set()

    def widen(self, slots: int) -> None:
        """Do nothing: batches use no slots."""

    def drop(self, held: LeasedChunk) -> None:
        """The chunk is no longer this worker's."""
        if (work := self._works.get(id(held))) is not None:
            if held.open.left == 0:  # its reservation ends with the seal: what the results cost is paid from it
                for intent in work.intents.values():
                    self._money.ended(work, intent)
            work.dropped.set()
            work.changed.set()

    def open_batches(self, held: LeasedChunk) -> AtProvider | None:
        """The lane's batches for the chunk; None if one of them needs attention."""
        found = AtProvider(0, [])
        if (work := self._works.get(id(held))) is None:
            return found
        if not work.is_known:
            return None
        for intent in work.intents.values():
            if not intent.may_rest:
                return None
            found.batches.append(intent.at_provider(self._place, stage=self._stage))
            waiting = sum(each in work.waiting for each in work.unsettled(intent))
            found = found._replace(samples=found.samples + waiting)
        if self._api.names:
            missing = work.missing.values()
            found.batches.extend(each.at_provider(self._place, stage=self._stage, is_missing=True) for each in missing)
        return found

    def fresh(self, held: LeasedChunk) -> int:
        """Samples of the chunk that wait to be put into a batch."""
        work = self._works.get(id(held))
        return 0 if work is None else len(work.fresh)

    async def is_running(self, batch: OpenBatch) -> bool:
        """Look at the batch of a parked chunk once; a batch that can't be looked at now counts as running."""
        return await self._looks.is_running(batch)

    def cancel(self) -> None:
        """End all tasks; the batches stay with the provider, for whoever has the chunks next."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        task = self._worker_tasks.spawn(work, *args)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- a chunk

    async def _keep(self, work: Work) -> None:
        """Put the chunk's samples into batches as long as it is this worker's."""
        for known in await asyncio.to_thread(self._intents.of, work.held.open.chunk.id):
            work.next = known.n + 1
            intent = OpenIntent(known.n, known.stored, known.batch)
            if known.has_ended:
                work.expired.update(known.expired)
                if known.was_given_up:
                    work.missing[known.n] = intent
            else:
                work.intents[known.n] = intent
                worst = await asyncio.to_thread(self._money.worst, work, work.unread(intent))
                intent.worst = sum(worst, NOTHING)
                self._spawn(self._following.follow, work, intent)
        work.is_known = True
        while not work.dropped.is_set():
            work.changed.clear()
            while work.fresh and not (work.is_over or self._gate.stopping):
                await self._ask(work)
            await work.until_changed()
        del self._works[id(work.held)]

    async def _ask(self, work: Work) -> None:
        """Put waiting samples into one more batch."""
        if (intent := await self._creation.next(work)) is not None:
            self._spawn(self._following.follow, work, intent)
