"""The batch lane: a chunk's samples go to the provider's batch API, many in one batch.

Nothing is created that may have been created before: an intent is stored first, and a later owner of the chunk looks
for its batch until it is found, or counts as never created (`batch_search`).
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters, Tally
from stillhouse.gen.dataset.batch_intents import Intents, StoredIntent, created_elsewhere
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.errors import StoreAway, TeacherPaused
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import MAX_INPUT_BYTES, Batch, BatchRefused, Job, Steps
from stillhouse.gen.teachers.batches.calls import called
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.lanes.base import Gate, Listener
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls, pause, was_not_created
from stillhouse.gen.worker.lanes.batch_looks import BatchLooks
from stillhouse.gen.worker.lanes.batch_money import BatchMoney
from stillhouse.gen.worker.lanes.batch_results import BatchEnd, BatchResults
from stillhouse.gen.worker.lanes.batch_search import BatchSearch
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks

LOOK_S = (1.0, 300.0)
"""Time between two looks at a batch: half its age, within these bounds."""
FULL_S = 5.0
"""How often to check whether the teacher may have another batch."""


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
    ) -> None:
        self.account = client.account
        self._client = client
        self._worker_tasks = tasks
        self._listener = listener
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._place = client.interpreter.place or 0
        self._keep_going = keep_going
        self._settings = client.teacher.batch
        self._api = batches_of(client.teacher, self._settings)
        self._calls = BatchCalls(client, self._api, counters=counters)
        self._looks = BatchLooks(client, self._api, calls=self._calls)
        self._money = BatchMoney(client, purse=gate.purse, listener=listener)
        self._intents = Intents(store, place=self._place)
        self._search = BatchSearch(self._api, calls=self._calls, intents=self._intents, gate=gate, clock=clock)
        self._results = BatchResults(
            client,
            self._api,
            calls=self._calls,
            intents=self._intents,
            listener=listener,
            counters=counters,
            clock=clock,
            money=self._money,
        )
        self._has_most = False
        """True while a chunk waits because the teacher has as many batches as it may have."""
        self._works: dict[int, Work] = {}
        self._creating = asyncio.Lock()
        """One batch at a time: its input is in memory, and a refused batch holds up the account's others."""
        self._repeating = asyncio.Lock()
        """One repeated creation at a time, and not `_creating`: its holder may wait for this batch to end."""
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
        """What its batches for the chunk may cost, where there is a budget; None if that is not known yet."""
        if (work := self._works.get(id(held))) is None:
            return NOTHING
        return work.reserved if work.is_known else None

    @property
    def is_full(self) -> bool:
        """True while a chunk waits until another batch has ended."""
        return self._has_most or self._money.is_short

    @property
    def open(self) -> int:
        """Batches that may be at the provider, of the chunks in hand."""
        return sum(len(work.intents) for work in self._works.values() if not work.held.abandoned)

    @property
    def runs_dry(self) -> bool:
        """True if more batches may be open than there are chunks."""
        return not self.is_full and sum(not work.is_over for work in self._works.values()) < self._settings.max_open

    def take(self, held: LeasedChunk, ordinals: Iterable[int]) -> None:
        """Ask these samples of the chunk."""
        work = self._works.get(id(held))
        if work is None:
            work = self._works[id(held)] = Work(held)
            self._spawn(self._keep, work)
        work.waiting.update(dict.fromkeys(ordinals))
        work.changed.set()

    def widen(self, slots: int) -> None:
        """It uses no slots."""

    def drop(self, held: LeasedChunk) -> None:
        """The chunk is no longer this worker's."""
        if (work := self._works.get(id(held))) is not None:
            work.dropped.set()
            work.changed.set()

    def open_batches(self, held: LeasedChunk) -> AtProvider | None:
        """Its batches for the chunk; None if one of them needs attention."""
        found = AtProvider(0, [])
        if (work := self._works.get(id(held))) is None:
            return found
        for intent in work.intents.values():
            if not intent.may_rest:
                return None
            found.batches.append(intent.at_provider(self._place))
            waiting = sum(each in work.waiting for each in work.unsettled(intent))
            found = found._replace(samples=found.samples + waiting)
        if self._api.names:
            found.batches.extend(each.at_provider(self._place, is_missing=True) for each in work.missing.values())
        return found

    def waiting_for_room(self, held: LeasedChunk) -> int:
        """Samples of the chunk that wait until the teacher may have another batch."""
        work = self._works.get(id(held))
        return len(work.fresh) if self.is_full and work is not None else 0

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
        """Put the chunk's samples into batches until none is left."""
        for known in await asyncio.to_thread(self._intents.of, work.held.open.chunk.id):
            work.next = known.n + 1
            intent = OpenIntent(known.n, known.stored, known.batch)
            if known.has_ended:
                work.expired.update(known.expired)
                if known.was_given_up:
                    work.missing[known.n] = intent
            else:
                work.intents[known.n] = intent
                worst = await asyncio.to_thread(self._money.worst, work.held, work.unread(intent))
                intent.worst = sum(worst, NOTHING)
                self._spawn(self._follow, work, intent)
        work.is_known = True
        while not work.is_over:
            work.changed.clear()
            while work.fresh and not self._gate.stopping:
                await self._ask(work)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S[1]):
                    await work.changed.wait()
        del self._works[id(work.held)]

    async def _ask(self, work: Work) -> None:
        """Put waiting samples into one more batch."""
        async with self._creating:
            await self._may_open()
            ordinals = work.fresh[: min(self._settings.max_requests, self._api.max_requests)]
            if work.is_over or self._gate.stopping or not ordinals or await self._collects_late(work):
                return
            worst = await self._money.reserve(work.held, ordinals)
            if work.is_over or self._gate.stopping or (self._money.is_limited and not worst):
                self._money.give_back(worst)
                return
            chunk, url = work.held.open.chunk.id, self._client.teacher.urls[0]
            name = partial(self._intents.name, chunk, work.next)
            ordinals = ordinals[: len(worst)] if worst else ordinals
            lines = await asyncio.to_thread(self._lines, work.held, ordinals, await asyncio.to_thread(name), url)
            ordinals = ordinals[: len(lines)]
            decide = partial(
                self._intents.decide,
                chunk,
                work.next,
                ordinals,
                at=self._clock.time(),
                url=url,
                secret=self._client.secret,
                kept_days=self._api.kept_days,
            )
            if (stored := await asyncio.to_thread(decide)) is None:
                raise StoreAway(f"chunk {chunk}: another worker decided on its batch {work.next}, and has it now")
            intent = OpenIntent(work.next, stored, None, worst=sum(worst[: len(lines)], NOTHING))
            self._money.give_back(worst[len(lines) :])
            self._money.begins(work, intent)
            work.intents[work.next] = intent
            work.next += 1
            intent.batch = await self._created(work, intent, lines)
        self._spawn(self._follow, work, intent)

    async def _collects_late(self, work: Work) -> bool:
        """True if waiting samples are in a batch that is listed only now: it is collected first."""
        for intent in list(work.missing.values()):
            waiting = set(intent.stored.ordinals()).intersection(work.fresh)
            if waiting and (batch := await self._search.late(intent)) is not None:
                del work.missing[intent.n]
                intent.batch, intent.worst = batch, NOTHING  # its money was released when it was given up
                work.intents[intent.n] = intent
                if len(waiting) < intent.wanted.requests:  # the others were asked again
                    await self._calls.until_served(partial(self._cancelled, intent.stored, batch))
                self._spawn(self._follow, work, intent)
                return True
        return False

    def _cancelled(self, stored: StoredIntent, batch_id: str) -> Steps[None]:
        return self._api.cancel(batch_id, self._calls.access(stored))

    async def _may_open(self) -> None:
        """Wait until the teacher may have another batch, and requests may be sent."""
        await self._gate.passed()
        try:
            while await asyncio.to_thread(self._intents.count_open) >= self._settings.max_open:  # of all workers
                if not self._has_most:
                    self._has_most = True
                    self._listener.wants_more()  # somebody has to collect one to make room
                await asyncio.sleep(FULL_S)
        finally:
            self._has_most = False
        await self._gate.fence.open()

    def _lines(self, held: LeasedChunk, ordinals: Iterable[int], intent: str, url: str) -> list[bytes]:
        """Lines of input for these samples, as many as fit into a batch; in a thread."""
        samples, protocol, access = held.open.samples, self._client.interpreter.protocol, self._client.access(url)
        room = min(MAX_INPUT_BYTES, self._api.max_bytes)
        lines: list[bytes] = []
        for ordinal in ordinals:
            prompt = samples.prompt(ordinal)
            source = held.open.chunk.images
            images = source.read(prompt) if prompt.images and source is not None else ()
            ask = Request(prompt.messages, ordinal % samples.per_series, images=images, tools=prompt.tools or ())
            request = protocol.request(ask, base_url=url, key=access.key, now=access.now)
            line = self._api.line(f"{intent}-{ordinal}", request)
            room -= len(line) + 1
            if room < 0 and lines:
                break
            lines.append(line)
        return lines

    # --- a batch

    async def _created(self, work: Work, intent: OpenIntent, lines: Sequence[bytes]) -> str | None:
        """Upload and create, once the provider accepts it; None if it may or may not have been created."""
        job = Job(intent.wanted, lines)
        uploaded = await self._calls.until_served(lambda: self._api.upload(job, self._calls.access(intent.stored)))
        for tries in itertools.count():
            await self._gate.fence.open()
            if work.is_over or self._gate.stopping:
                return None
            try:
                batch = await called(
                    self._api.create(job, uploaded, self._calls.access(intent.stored)), self._client.call
                )
            except NotSent:
                pass
            except Lost:
                return None
            except BatchRefused as refused:
                if not was_not_created(refused.trouble):
                    return None
                self._calls.refused(refused.trouble)
            else:
                name = partial(self._intents.submitted, work.held.open.chunk.id, intent.n, batch.id)
                await asyncio.to_thread(name)
                self._tally.batches += 1
                return batch.id
            await pause(tries)
        raise AssertionError

    async def _follow(self, work: Work, intent: OpenIntent) -> None:
        """Follow a batch to its end, whose results are in the chunk's journal and then in the store."""
        held = work.held
        batch = None
        if work.unsettled(intent):
            if intent.batch is None:
                intent.batch = await self._found(work, intent)
            batch_id = intent.batch
            intent.may_rest = False
            batch = None if batch_id is None else await self._end_of(work, intent, batch_id)
        if work.is_over or self._gate.stopping:
            return
        if intent.batch is None:
            work.missing[intent.n] = intent
        held.under_way += 1  # otherwise the journal could be closed meanwhile
        try:
            end = BatchEnd() if batch is None else await self._results.collected(work, intent, batch)
            self._tally.batches_ended += batch is not None
            if not await self._made_safe(work):
                return
            await asyncio.to_thread(partial(self._intents.ended, held.open.chunk.id, intent.n))
            intent.has_ended = True
            self._money.ended(work, intent)
        finally:
            held.ended()
        self._tally.batches_expired += bool(end.expired)
        if batch is not None and batch.trouble is not None:
            self._calls.refused(batch.trouble)
        if end.pause is not None:
            raise TeacherPaused(f"teacher {self._client.teacher.name} {end.pause}; then run the same command again")
        if not end.settled:  # whatever the reason, the next batch would fail in the same way
            await pause(intent.n)
        self._go_on(work, intent, end)

    @property
    def _tally(self) -> Tally:
        return self._counters.of(self._client.teacher.name)

    async def _made_safe(self, work: Work) -> bool:
        """Ship everything known about the chunk; False if it was sealed meanwhile, or is another worker's."""
        try:
            if not work.is_over:
                await asyncio.to_thread(work.held.open.journal.sync)
                await asyncio.to_thread(work.held.shipper.ship)
        except (StoreAway, OSError):
            if not work.is_over:  # otherwise its journal is gone
                raise
        return not work.is_over

    def _go_on(self, work: Work, intent: OpenIntent, end: BatchEnd) -> None:
        """Ask again what the batch left open."""
        work.expired.update(end.expired)
        del work.intents[intent.n]
        lacks = work.held.open.state.schedule.lacks
        work.waiting.update({each: None for each in work.unsettled(intent) if lacks(each)})
        work.changed.set()
        if not work.is_over:
            work.held.advance()
        self._listener.wants_more()

    async def _found(self, work: Work, intent: OpenIntent) -> str | None:
        """The id of the intent's batch, which may or may not have been created; None once it counts as never
        created."""
        for tries in itertools.count():
            if (found := await self._search.found(work, intent)) is not None:
                self._tally.batches += 1
                return found
            if work.is_over or self._gate.stopping:
                return None
            await self._check_account(intent.stored, f"batch {intent.n} of chunk {work.held.open.chunk.id}")
            if not self._api.repeats:
                return None
            await pause(tries)
            async with self._repeating:
                await self._gate.passed()
                lines = partial(self._lines, work.held, [*intent.stored.ordinals()], intent.stored.id)
                lines_again = await asyncio.to_thread(lines, self._calls.url_of(intent.stored))
                if (found := await self._created(work, intent, lines_again)) is not None:
                    return found
        raise AssertionError

    async def _check_account(self, stored: StoredIntent, name: str) -> None:
        """Don't ask again for a batch that another account may have. Raises TeacherPaused."""
        mark = await asyncio.to_thread(self._intents.account_mark, self._client.secret)
        where = created_elsewhere(stored, urls=self._client.teacher.urls, mark=mark)
        if where is not None and not self._keep_going:
            raise TeacherPaused(
                f"teacher {self._client.teacher.name}: the provider does not know {name}, which was created {where}: "
                "go back to that to collect it, or add --keep-going to pay for its answers again; then run the same "
                "command again"
            )

    async def _end_of(self, work: Work, intent: OpenIntent, batch_id: str) -> Batch:
        """The batch, once it has ended or the chunk is another worker's."""
        while True:
            batch = await self._calls.until_served(lambda: self._api.look(batch_id, self._calls.access(intent.stored)))
            age_s = self._clock.time() - intent.stored.at
            if batch.state != "running" or work.is_over:
                if batch.state == "lost":
                    await self._check_account(intent.stored, f"batch {batch_id}")
                return batch
            work.awaits(intent, age_s=age_s)
            await work.pause(min(LOOK_S[1], max(LOOK_S[0], age_s / 2)))
