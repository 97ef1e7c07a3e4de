"""Finds the batch of an intent whose creation may or may not have succeeded.

A listing may show a batch late. So an intent counts as never created only once listings have not shown its batch for
`LISTED_WITHIN_S`, over all owners of the chunk; and its batch is looked for again before its samples are asked again.
"""

import asyncio
import itertools
from functools import partial

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.batch_intents import Intents
from stillhouse.gen.teachers.batches.base import Answered, Batch, BatchApi, Result, Steps, Unserved
from stillhouse.gen.worker.lanes.base import Gate
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls, pause_s
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work

LISTED_WITHIN_S = 900.0
"""A batch that listings have not shown for this long was not created."""


class BatchSearch:
    """Looks for one teacher's batches."""

    def __init__(self, api: BatchApi, *, calls: BatchCalls, intents: Intents, gate: Gate, clock: Clock) -> None:
        self._api = api
        self._calls = calls
        self._intents = intents
        self._gate = gate
        self._clock = clock

    async def found(self, work: Work, intent: OpenIntent) -> str | None:
        """The id of the intent's batch; None once it is certain that there is none."""
        since: float | None = None
        strangers = set() if self._api.names else await asyncio.to_thread(self._intents.batches)
        for looks in itertools.count():
            if work.is_over or self._gate.stopping:
                return None
            found = await self._calls.until_served(partial(self._look_for, intent))
            candidates = [each for each in found if each.id not in strangers]
            for each in candidates:
                # A batch without a name shows whose it is once it has ended.
                if each.intent == intent.stored.id or (each.state != "running" and await self._is_ours(each, intent)):
                    name = partial(self._intents.submitted, work.held.open.chunk.id, intent.n, each.id)
                    await asyncio.to_thread(name)
                    return each.id
                if each.state != "running":
                    strangers.add(each.id)
            intent.candidates = tuple(each.id for each in candidates if each.id not in strangers)
            intent.may_rest = False
            if intent.candidates:
                work.awaits(intent, age_s=self._clock.time() - intent.stored.at)
            elif self._api.repeats:
                return None
            if since is None:
                since = await self._missing_since(work, intent)
            elif not intent.candidates and self._clock.time() - since >= LISTED_WITHIN_S:
                return None
            await work.pause(pause_s(looks))
        raise AssertionError

    async def late(self, intent: OpenIntent) -> str | None:
        """The id of the batch of an intent that was given up on, if it is listed now."""
        for each in await self._calls.until_served(partial(self._look_for, intent)):
            if each.intent == intent.stored.id or (each.state != "running" and await self._is_ours(each, intent)):
                return each.id
        return None

    async def _missing_since(self, work: Work, intent: OpenIntent) -> float:
        note = partial(self._intents.missing, work.held.open.chunk.id, intent.n, since=self._clock.time())
        return await asyncio.to_thread(note)

    def _look_for(self, intent: OpenIntent) -> Steps[tuple[Batch, ...]]:
        return self._api.find(intent.wanted, self._calls.access(intent.stored))

    async def _is_ours(self, batch: Batch, intent: OpenIntent) -> bool:
        """True if one of its results belongs to the intent."""
        is_ours = False

        async def take(result: Result) -> None:
            nonlocal is_ours
            if not is_ours and isinstance(result, (Answered, Unserved)):
                is_ours = intent.asked_in(result.key) is not None

        await self._calls.download(batch, intent.stored, take)
        return is_ours
