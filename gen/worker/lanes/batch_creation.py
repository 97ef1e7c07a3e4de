"""Creates one teacher's batches: decides what is in the next one, stores its intent, and has the provider create it."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from functools import partial

from stillhouse.gen.dataset.batch_intents import StoredIntent
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.teachers.batches.base import MAX_INPUT_BYTES, BatchRefused, Job, Steps
from stillhouse.gen.teachers.batches.calls import called
from stillhouse.gen.teachers.expense import NOTHING
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.lanes.batch_calls import pause, was_not_created
from stillhouse.gen.worker.lanes.batch_parts import BatchParts
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work, request_id

FULL_S = 5.0
"""How often to check whether the teacher may have another batch."""


class BatchCreation:
    """Creates one teacher's batches."""

    def __init__(self, parts: BatchParts) -> None:
        self.has_most = False
        """True while a chunk waits because the teacher has as many batches as it may have."""
        self._client, self._api, self._calls, self._intents = parts.client, parts.api, parts.calls, parts.intents
        self._search, self._money, self._listener = parts.search, parts.money, parts.listener
        self._gate, self._counters, self._clock = parts.gate, parts.counters, parts.clock
        self._settings = parts.client.teacher.batch
        self._creating = asyncio.Lock()
        """One batch at a time: its input is in memory, and a refused batch holds up the account's others."""
        self._repeating = asyncio.Lock()
        """One repeated creation at a time, and not `_creating`: its holder may wait for this batch to end."""

    async def next(self, work: Work) -> OpenIntent | None:
        """Put waiting samples into one more batch, and return its intent; None if nothing may be asked now.

        If they are in a batch that is listed only now, that one's.
        """
        async with self._creating:
            await self._may_open()
            ordinals = work.fresh[: min(self._settings.max_requests, self._api.max_requests)]
            if work.is_over or self._gate.stopping or not ordinals:
                return None
            if (late := await self.late(work)) is not None:
                return late
            if not await work.made_safe():  # what is asked may follow from what came before, as a judge's questions do
                return None
            worst = await self._money.reserve(work, ordinals)
            if work.is_over or self._gate.stopping or (self._money.is_limited and not worst):
                self._money.give_back(worst)
                return None
            chunk, url = work.held.open.chunk.id, self._client.teacher.urls[0]
            name = partial(self._intents.name, chunk, work.next)
            ordinals = ordinals[: len(worst)] if worst else ordinals
            lines = await asyncio.to_thread(self._lines, work, ordinals, await asyncio.to_thread(name), url)
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
            return intent

    async def late(self, work: Work) -> OpenIntent | None:
        """An intent with waiting samples whose batch is listed only now: it is collected before anything is asked."""
        for intent in list(work.missing.values()):
            waiting = set(intent.stored.ordinals()).intersection(work.fresh)
            if waiting and (batch := await self._search.late(intent)) is not None:
                del work.missing[intent.n]
                intent.batch, intent.worst = batch, NOTHING  # its money was released when it was given up
                work.intents[intent.n] = intent
                if len(waiting) < intent.wanted.requests:  # the others were asked again
                    await self._calls.until_served(partial(self._cancelled, intent.stored, batch))
                return intent
        return None

    async def repeated(self, work: Work, intent: OpenIntent) -> str | None:
        """Create the intent's batch again, with an API that then makes no second one; None if it may or may not have
        been created."""
        async with self._repeating:
            await self._gate.passed()
            lines = partial(self._lines, work, [*intent.stored.ordinals()], intent.stored.id)
            return await self._created(work, intent, await asyncio.to_thread(lines, self._calls.url_of(intent.stored)))

    async def _may_open(self) -> None:
        """Wait until the teacher may have another batch, and requests may be sent."""
        await self._gate.passed()
        try:
            while await asyncio.to_thread(self._intents.count_open) >= self._settings.max_open:  # of all workers
                if not self.has_most:
                    self.has_most = True
                    self._listener.wants_more()  # somebody has to collect one to make room
                await asyncio.sleep(FULL_S)
        finally:
            self.has_most = False
        await self._gate.fence.open()

    def _lines(self, work: Work, ordinals: Iterable[int], intent: str, url: str) -> list[bytes]:
        """Lines of input for these samples, as many as fit into a batch; in a thread."""
        protocol, access = self._client.interpreter.protocol, self._client.access(url)
        room = min(MAX_INPUT_BYTES, self._api.max_bytes)
        lines: list[bytes] = []
        for ordinal in ordinals:
            ask, mark = work.attempts.entry(ordinal)
            request = protocol.request(ask, base_url=url, key=access.key, now=access.now)
            line = self._api.line(request_id(intent, ordinal, mark), request)
            room -= len(line) + 1
            if room < 0 and lines:
                break
            lines.append(line)
        return lines

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
                self._counters.of(self._client.teacher.name).batches += 1
                return batch.id
            await pause(tries)
        raise AssertionError

    def _cancelled(self, stored: StoredIntent, batch_id: str) -> Steps[None]:
        return self._api.cancel(batch_id, self._calls.access(stored))
