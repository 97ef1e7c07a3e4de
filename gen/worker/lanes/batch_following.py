"""Follows a batch to its end, until its results are in the chunk's journal, and that is in the store."""

import asyncio
import itertools
from functools import partial

from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.dataset.batch_intents import StoredIntent, created_elsewhere
from stillhouse.gen.errors import TeacherPaused
from stillhouse.gen.teachers.batches.base import Batch
from stillhouse.gen.worker.lanes.batch_calls import pause
from stillhouse.gen.worker.lanes.batch_creation import BatchCreation
from stillhouse.gen.worker.lanes.batch_parts import BatchParts
from stillhouse.gen.worker.lanes.batch_results import BatchEnd, BatchResults
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work


class BatchFollowing:
    """Follows one teacher's batches."""

    def __init__(self, parts: BatchParts, *, creation: BatchCreation, results: BatchResults, keep_going: bool) -> None:
        """`keep_going`: ask again for batches that the provider does not know under this key, or at this URL."""
        self._client, self._api, self._calls, self._intents = parts.client, parts.api, parts.calls, parts.intents
        self._search, self._money, self._listener = parts.search, parts.money, parts.listener
        self._gate, self._counters, self._clock = parts.gate, parts.counters, parts.clock
        self._creation = creation
        self._results = results
        self._keep_going = keep_going

    async def follow(self, work: Work, intent: OpenIntent) -> None:
        """Follow the intent's batch to its end, and have whatever it leaves open asked again."""
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
            if not await work.made_safe():
                return
            await asyncio.to_thread(partial(self._intents.ended, held.open.chunk.id, intent.n))
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

    def _go_on(self, work: Work, intent: OpenIntent, end: BatchEnd) -> None:
        """Ask again what the batch left open."""
        work.expired.update(end.expired)
        del work.intents[intent.n]
        lacks = work.attempts.lacks
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
            if (found := await self._creation.repeated(work, intent)) is not None:
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
            await work.until_next_look(age_s)
