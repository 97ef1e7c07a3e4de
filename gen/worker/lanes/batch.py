"""The batch lane: a chunk's samples go to the provider's batch API, many in one batch.

Nothing is created that could have been created before: an intent is in the store first, and whoever has the chunk later
looks for its batch until it is found, or a listing has not shown it for `LISTED_WITHIN_S`. A result becomes an ANSWERED
frame at its intent's time, so that reading a batch's results again adds nothing.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.batch_intents import Intents, StoredIntent
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.errors import StoreAway, TeacherPaused
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import (
    MAX_INPUT_BYTES,
    Access,
    Answered,
    Batch,
    BatchRefused,
    Intent,
    Job,
    Unreadable,
    Unserved,
)
from stillhouse.gen.teachers.batches.calls import called
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.keys import without_keys
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    kind_of,
)
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.retry import Decision, Pause
from stillhouse.gen.teachers.transport import Lost, NotSent, Reply
from stillhouse.gen.worker.lanes.base import Gate, Listener
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls, pause, pause_s, was_not_created
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.completion import Completion

LISTED_WITHIN_S = 900.0
"""A batch that a listing has not shown for so long was not created."""
LOOK_S = (1.0, 300.0)
"""Between two looks at a batch: half its age, within these bounds."""
PARK_AFTER_S = 5.0
"""A chunk is not parked before its batches are so old: small ones may have ended by then."""
FULL_S = 5.0
"""Between two looks whether the teacher may have another batch."""
MAX_EXPIRED = 3
"""A sample that expired so often is given up."""


@dataclass(slots=True, eq=False)
class _Open:
    """An intent whose batch may exist."""

    n: int
    stored: StoredIntent
    batch: str | None
    """The provider's id of the batch; None if it is not known whether there is one."""
    candidates: tuple[str, ...] = ()
    """Ids of running batches, each of which may be it, where that is not known."""
    may_rest: bool = False
    """True if nothing is to be done for it until it ends, which takes a while."""

    @property
    def wanted(self) -> Intent:
        return Intent(self.stored.id, sum(count for _, count in self.stored.samples), self.stored.at)

    def ordinal(self, key: str) -> int | None:
        """The sample in the id of a request; None if it is another intent's."""
        intent, _, ordinal = key.rpartition("-")
        return int(ordinal) if intent == self.stored.id and ordinal.isdecimal() and len(ordinal) < 10 else None


@dataclass(slots=True)
class _End:
    """What came of a batch."""

    expired: list[int] = field(default_factory=list)
    """Samples that the provider did not get to."""
    settled: int = 0
    """How many it settled."""
    pause: str | None = None
    """Why nothing can be asked of the teacher until a person has acted."""


@dataclass(slots=True, eq=False)
class _Work:
    """A chunk in the lane."""

    held: LeasedChunk
    waiting: dict[int, None] = field(default_factory=dict)
    """Samples to be put into a batch, in order."""
    out: set[int] = field(default_factory=set)
    """Samples in open intents."""
    expired: Counter[int] = field(default_factory=Counter)
    """How often each sample expired."""
    next: int = 0
    """Number of the next intent."""
    intents: dict[int, _Open] = field(default_factory=dict)
    """The open ones, by number."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the chunk is not this worker's any more."""

    @property
    def is_over(self) -> bool:
        return self.held.abandoned or self.held.open.left == 0

    @property
    def fresh(self) -> list[int]:
        """Samples that wait, and are not in a batch."""
        settled = self.held.open.state.is_settled
        return [each for each in self.waiting if each not in self.out and not settled(each)]

    async def pause(self, seconds: float) -> None:
        """Wait so long, as long as the chunk is this worker's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.dropped.wait()


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
    ) -> None:
        self.account = client.account
        self.largest_reply_bytes = 0
        self.slots = self.wanted = self.waiting = 0
        self.is_full = False
        """True while a chunk waits because the teacher has as many batches as it may have."""
        self._client = client
        self._worker_tasks = tasks
        self._listener = listener
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._place = client.interpreter.place or 0
        self._settings = client.teacher.batch
        self._api = batches_of(client.teacher, self._settings)
        self._calls = BatchCalls(client, self._api, counters=counters)
        self._intents = Intents(store, place=self._place)
        self._works: dict[int, _Work] = {}
        self._creating = asyncio.Lock()
        """One batch at a time: its input is in memory, and a refused one holds up the account's others."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def runs_dry(self) -> bool:
        """True if more batches may be open than it has chunks."""
        return not self.is_full and sum(not work.is_over for work in self._works.values()) < self._settings.max_open

    def take(self, held: LeasedChunk, ordinals: Iterable[int]) -> None:
        """Ask these samples of the chunk."""
        work = self._works.get(id(held))
        if work is None:
            work = self._works[id(held)] = _Work(held)
            self._spawn(self._keep, work)
        work.waiting.update(dict.fromkeys(ordinals))
        work.changed.set()

    def widen(self, slots: int) -> None:
        """It uses no slots."""

    def drop(self, held: LeasedChunk) -> None:
        """The chunk is not this worker's any more."""
        if (work := self._works.get(id(held))) is not None:
            work.dropped.set()
            work.changed.set()

    def open_batches(self, held: LeasedChunk) -> AtProvider | None:
        """Its batches for the chunk; None if one of them has to be attended to."""
        found = AtProvider(0, [])
        if (work := self._works.get(id(held))) is None:
            return found
        for n, intent in work.intents.items():
            if not intent.may_rest:
                return None
            ids = intent.candidates if intent.batch is None else (intent.batch,)
            found.batches.append(OpenBatch(place=self._place, n=n, at=intent.stored.at, url=intent.stored.url, ids=ids))
            waiting = sum(each in work.waiting for each in self._unsettled(work, intent))
            found = found._replace(samples=found.samples + waiting)
        return found

    def waiting_for_room(self, held: LeasedChunk) -> int:
        """Samples of the chunk that wait until the teacher may have another batch."""
        work = self._works.get(id(held))
        return len(work.fresh) if self.is_full and work is not None else 0

    async def is_running(self, batch: OpenBatch) -> bool:
        """Look at the batch of a parked chunk once; one that can't be looked at now counts as running."""
        access = self._client.access(self._client.endpoint_for(batch.url))
        for each in batch.ids:
            try:
                found = await called(self._api.look(each, access), self._client.call)
            except (NotSent, Lost):
                continue
            except BatchRefused as refused:
                self._calls.refused(refused.trouble)
                continue
            if found.state != "running":
                return False
        return True

    def cancel(self) -> None:
        """End all tasks; the batches stay with the provider, for whoever has the chunks next."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        task = self._worker_tasks.spawn(work, *args)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- a chunk

    async def _keep(self, work: _Work) -> None:
        """Have the chunk's samples in batches until none is left."""
        try:
            for known in await asyncio.to_thread(self._intents.of, work.held.open.chunk.id):
                work.next = known.n + 1
                if known.has_ended:
                    work.expired.update(known.expired)
                else:
                    work.out.update(known.stored.ordinals())
                    intent = work.intents[known.n] = _Open(known.n, known.stored, known.batch)
                    self._spawn(self._follow, work, intent)
            while not work.is_over:
                work.changed.clear()
                while work.fresh and not self._gate.stopping:
                    await self._ask(work)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S[1]):
                        await work.changed.wait()
        finally:
            del self._works[id(work.held)]

    async def _ask(self, work: _Work) -> None:
        """Put samples that wait into one more batch."""
        async with self._creating:
            await self._may_open()
            ordinals = work.fresh[: min(self._settings.max_requests, self._api.max_requests)]
            if work.is_over or self._gate.stopping or not ordinals:
                return
            chunk, url = work.held.open.chunk.id, self._client.teacher.urls[0]
            name = partial(self._intents.name, chunk, work.next)
            lines = await asyncio.to_thread(self._lines, work.held, ordinals, await asyncio.to_thread(name), url)
            ordinals = ordinals[: len(lines)]
            days, at = self._api.kept_days, self._clock.time()
            decide = partial(self._intents.decide, chunk, work.next, ordinals, at=at, url=url, kept_days=days)
            if (stored := await asyncio.to_thread(decide)) is None:
                raise StoreAway(f"chunk {chunk}: another worker decided on its batch {work.next}, and has it now")
            intent = _Open(work.next, stored, None)
            work.intents[work.next] = intent
            work.next += 1
            work.out.update(ordinals)
            intent.batch = await self._created(work, intent, lines)
        self._spawn(self._follow, work, intent)

    async def _may_open(self) -> None:
        """Wait until the teacher may have another batch, and requests may be sent."""
        await self._gate.passed()
        try:
            while await asyncio.to_thread(self._intents.count_open) >= self._settings.max_open:  # of all workers
                if not self.is_full:
                    self.is_full = True
                    self._listener.wants_more()  # for who makes room
                await asyncio.sleep(FULL_S)
        finally:
            self.is_full = False
        await self._gate.fence.open()

    def _lines(self, held: LeasedChunk, ordinals: Iterable[int], intent: str, url: str) -> list[bytes]:
        """Lines of input for these samples, for as many as fit into a batch; in a thread."""
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

    async def _created(self, work: _Work, intent: _Open, lines: Sequence[bytes]) -> str | None:
        """Upload and create, once the provider takes it; None if it may have been created or not."""
        job, url = Job(intent.wanted, lines), intent.stored.url
        uploaded = await self._calls.until_served(lambda: self._api.upload(job, self._client.access(url)))
        for tries in itertools.count():
            await self._gate.fence.open()
            if work.is_over or self._gate.stopping:
                return None
            try:
                batch = await called(self._api.create(job, uploaded, self._client.access(url)), self._client.call)
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
                return batch.id
            await pause(tries)
        raise AssertionError

    async def _follow(self, work: _Work, intent: _Open) -> None:
        """From a batch to its end, which is in the chunk's journal and then in the store."""
        held = work.held
        batch = None
        if self._unsettled(work, intent):
            intent.batch = batch_id = intent.batch or await self._found(work, intent)
            intent.may_rest = False
            batch = None if batch_id is None else await self._end_of(work, intent, batch_id)
        if work.is_over or self._gate.stopping:
            return
        held.under_way += 1  # else the journal could be closed meanwhile
        try:
            end = _End() if batch is None else await self._collected(work, intent, batch)
            if not await self._made_safe(work):
                return
            await asyncio.to_thread(partial(self._intents.ended, held.open.chunk.id, intent.n))
        finally:
            held.ended()
        if batch is not None and batch.trouble is not None:
            self._calls.refused(batch.trouble)
        if end.pause is not None:
            raise TeacherPaused(f"teacher {self._client.teacher.name} {end.pause}; then run the same command again")
        if not end.settled:  # whatever the reason, the next batch would meet it too
            await pause(intent.n)
        self._go_on(work, intent, end)

    async def _made_safe(self, work: _Work) -> bool:
        """Have all that is known of the chunk in the store; False if it is sealed meanwhile, or another worker's."""
        try:
            if not work.is_over:
                await asyncio.to_thread(work.held.open.journal.sync)
                await asyncio.to_thread(work.held.shipper.ship)
        except (StoreAway, OSError):
            if not work.is_over:  # else its journal is gone
                raise
        return not work.is_over

    def _go_on(self, work: _Work, intent: _Open, end: _End) -> None:
        """Ask again what the batch left open."""
        work.expired.update(end.expired)
        work.out.difference_update(intent.stored.ordinals())
        del work.intents[intent.n]
        lacks = work.held.open.state.schedule.lacks
        work.waiting.update({each: None for each in self._unsettled(work, intent) if lacks(each)})
        work.changed.set()
        if not work.is_over:
            work.held.advance()
        self._listener.wants_more()

    def _unsettled(self, work: _Work, intent: _Open) -> list[int]:
        is_settled = work.held.open.state.is_settled
        return [each for each in intent.stored.ordinals() if not is_settled(each)]

    async def _found(self, work: _Work, intent: _Open) -> str | None:
        """The id of the batch that the intent made; None once it is sure that it made none."""
        since = self._clock.monotonic()
        strangers = set() if self._api.names else await asyncio.to_thread(self._intents.batches)
        for looks in itertools.count():
            if work.held.abandoned or self._gate.stopping:
                return None
            found = await self._calls.until_served(lambda: self._api.find(intent.wanted, self._access(intent)))
            candidates = [each for each in found if each.id not in strangers]
            for each in candidates:
                # One without a name tells whose it is once it has ended.
                if each.intent == intent.stored.id or (each.state != "running" and await self._is_ours(each, intent)):
                    name = partial(self._intents.submitted, work.held.open.chunk.id, intent.n, each.id)
                    await asyncio.to_thread(name)
                    return each.id
                if each.state != "running":
                    strangers.add(each.id)
            awaited = any(each.id not in strangers for each in candidates)
            if not awaited and self._clock.monotonic() - since >= LISTED_WITHIN_S:
                return None
            intent.candidates = tuple(each.id for each in candidates if each.id not in strangers)
            intent.may_rest = awaited and self._clock.time() - intent.stored.at >= PARK_AFTER_S
            if intent.may_rest:
                work.held.due.set()
            await work.pause(pause_s(looks))
        raise AssertionError

    async def _is_ours(self, batch: Batch, intent: _Open) -> bool:
        keys: list[str] = []

        def take(line: bytes) -> None:
            if not keys and isinstance(result := self._api.read(line), (Answered, Unserved)):
                keys.append(result.key)

        await self._calls.download(batch, self._url(intent), take)
        return bool(keys) and intent.ordinal(keys[0]) is not None

    async def _end_of(self, work: _Work, intent: _Open, batch_id: str) -> Batch:
        """The batch, once it has ended or the chunk is another worker's."""
        while True:
            batch = await self._calls.until_served(lambda: self._api.look(batch_id, self._access(intent)))
            age_s = self._clock.time() - intent.stored.at
            if batch.state != "running" or work.held.abandoned:
                return batch
            intent.may_rest = age_s >= PARK_AFTER_S
            if intent.may_rest:
                work.held.due.set()
            await work.pause(min(LOOK_S[1], max(LOOK_S[0], age_s / 2)))

    # --- results

    async def _collected(self, work: _Work, intent: _Open, batch: Batch) -> _End:
        """Put all that the batch says into the journal, as long as the chunk needs it."""
        left = set(intent.stored.ordinals())
        before = len(self._unsettled(work, intent))
        unserved: list[int] = []
        deleted: list[int] = []
        end = _End()

        def take(line: bytes) -> None:
            result = self._api.read(line)
            if isinstance(result, Unreadable) or (ordinal := intent.ordinal(result.key)) not in left:
                return  # no result, another's, or one that came before
            left.discard(ordinal)
            if isinstance(result, Unserved):
                unserved.append(ordinal)
            elif isinstance(decision := self._answered(work, intent, ordinal, result.reply), Pause):
                end.pause = decision.reason

        is_whole = await self._calls.download(batch, self._url(intent), take)
        if batch.state == "failed":
            return end
        if not is_whole:
            deleted = sorted(left)
        elif batch.state in ("expired", "cancelled"):
            unserved += sorted(left)
        else:
            why = "the provider lost the batch" if batch.state == "lost" else "the batch has no result for it"
            for ordinal in sorted(left):
                self._lost(work, intent, ordinal, why)
        end.expired = deleted + (unserved if batch.state != "cancelled" else [])
        if end.expired:
            await asyncio.to_thread(partial(self._intents.expired, work.held.open.chunk.id, intent.n, end.expired))
        for ordinal in unserved:
            self._unserved(work, intent, ordinal, counts=batch.state != "cancelled")
        for ordinal in deleted:
            self._deleted(work, intent, ordinal)
        end.settled = before - len(self._unsettled(work, intent))
        return end

    def _ended(self, work: _Work, ordinal: int) -> None:
        """The sample's request ended."""
        self._listener.heard(work.held, ordinal)
        if work.held.open.left == 0:
            work.held.advance()

    def _is_known(self, work: _Work, intent: _Open, ordinal: int) -> bool:
        """True if the journal has what came of the sample in this batch, or nobody needs it."""
        opened = work.held.open
        return work.is_over or opened.state.is_settled(ordinal) or (ordinal, intent.stored.at) in opened.recovered

    def _answered(self, work: _Work, intent: _Open, ordinal: int, reply: Reply) -> Decision | None:
        if self._is_known(work, intent, ordinal):
            return None
        opened, at, client = work.held.open, intent.stored.at, self._client
        body = without_keys(reply.body, keys=client.interpreter.keys)
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(body))
        opened.state.sent(ordinal)
        latency_s = max(0.0, self._clock.time() - at)
        received = opened.received(
            ordinal,
            reply._replace(body=body),
            at=at,
            latency_s=latency_s,
            endpoint=self._host_of(intent),
            place=self._place,
        )
        decision = opened.answered(received)
        outcome, tally = received.outcome, self._counters.of(client.teacher.name)
        tally.requests += 1
        if isinstance(outcome, Completion):
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
        else:
            self._counters.troubled(client.teacher.name, kind_of(outcome), outcome.message)
        self._ended(work, ordinal)
        return decision

    def _lost(self, work: _Work, intent: _Open, ordinal: int, why: str) -> None:
        if self._is_known(work, intent, ordinal):
            return
        at, endpoint, opened = intent.stored.at, self._host_of(intent), work.held.open
        opened.sent(ordinal, at=at, endpoint=endpoint, place=self._place)
        opened.unanswered(ordinal, Kind.LOST, Ambiguous(why), at=at, place=self._place, endpoint=endpoint)
        self._ended(work, ordinal)

    def _unserved(self, work: _Work, intent: _Open, ordinal: int, *, counts: bool) -> None:
        """The sample got no answer; it is given up if it `counts`, and was in `MAX_EXPIRED` such batches."""
        opened = work.held.open
        if work.is_over or opened.state.is_settled(ordinal):
            return
        why, at = "the provider did not get to it", intent.stored.at
        if not self._is_known(work, intent, ordinal):
            opened.unserved(ordinal, at=at, endpoint=self._host_of(intent), place=self._place, why=why)
        self._expires(work, intent, ordinal, why, counts=counts)

    def _deleted(self, work: _Work, intent: _Open, ordinal: int) -> None:
        """The sample may have been answered and billed; otherwise it is as if the provider had not got to it."""
        if work.is_over or work.held.open.state.is_settled(ordinal):
            return
        why = "its batch's results were deleted before they were collected"
        self._lost(work, intent, ordinal, why)
        self._expires(work, intent, ordinal, why, counts=True)

    def _expires(self, work: _Work, intent: _Open, ordinal: int, why: str, *, counts: bool) -> None:
        times = work.expired[ordinal] + counts
        if times >= MAX_EXPIRED:
            why = f"{why} ({times} batches)"
            work.held.open.expired(ordinal, at=intent.stored.at, place=self._place, why=why)
        self._ended(work, ordinal)

    # --- where

    def _url(self, intent: _Open) -> str:
        return self._client.endpoint_for(intent.stored.url)

    def _access(self, intent: _Open) -> Access:
        return self._client.access(self._url(intent))

    def _host_of(self, intent: _Open) -> str:
        return self._client.host_of(self._url(intent))
