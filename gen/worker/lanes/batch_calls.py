"""Calls of a batch API that are repeated until the provider serves them, or a person has to act."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.batch_intents import StoredIntent
from stillhouse.gen.errors import StillhouseError, TeacherPaused
from stillhouse.gen.teachers.batches import read_result
from stillhouse.gen.teachers.batches.base import Access, Batch, BatchApi, BatchRefused, Result, Steps
from stillhouse.gen.teachers.batches.calls import Lines, called
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Policy,
    ServerError,
    TooLong,
    Trouble,
)
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import Lost, NotSent

TURN_S = 0.02
"""Results are read this long before others have their turn on the event loop."""
RETRY_S = (1.0, 300.0)
"""Time between two tries of a call that the provider can't serve now."""

T = TypeVar("T")


class BatchCalls:
    """Makes one teacher's calls."""

    def __init__(self, client: TeacherClient, api: BatchApi, *, counters: Counters) -> None:
        self._client = client
        self._api = api
        self._counters = counters

    def url_of(self, stored: StoredIntent) -> str:
        """Where the intent's batch is now."""
        return self._client.endpoint_for(stored.url)

    def access(self, stored: StoredIntent) -> Access:
        """How to reach it."""
        return self._client.access(self.url_of(stored))

    async def until_served(self, steps: Callable[[], Steps[T]]) -> T:
        """Repeat a call until the provider serves it; the call must be safe to repeat."""
        for tries in itertools.count():
            try:
                return await called(steps(), self._client.call)
            except (NotSent, Lost):
                pass
            except BatchRefused as refused:
                self.refused(refused.trouble)
            await pause(tries)
        raise AssertionError

    def refused(self, trouble: Trouble) -> None:
        """Raise what a person has to fix; everything else is waited for."""
        teacher = self._client.teacher.name
        message = self._client.interpreter.redact(trouble.message)
        match trouble:
            case Money() | Auth():
                raise TeacherPaused(f"teacher {teacher}: {message}; then run the same command again")
            case BadRequest() | TooLong() | Policy():
                raise StillhouseError(f"teacher {teacher} refuses the batch: {message}")
            case _:
                self._counters.note(f"teacher {teacher}: its batch API can't serve now ({message}); trying again")

    async def download(self, batch: Batch, stored: StoredIntent, take: Callable[[Result], Awaitable[None]]) -> bool:
        """Pass on all of its results, perhaps more than once; False if the provider has deleted some."""
        errors: list[Exception] = []
        is_whole = True
        teacher, loop = self._client.teacher, asyncio.get_running_loop()
        turn_at = loop.time()

        async def guarded(line: bytes) -> None:
            nonlocal turn_at
            if not errors:
                try:
                    await take(await read_result(teacher, teacher.batch, self._api, line))
                except Exception as error:  # noqa: BLE001 - raised below, for the transport must not see it
                    errors.append(error)
            if loop.time() - turn_at > TURN_S:
                await asyncio.sleep(0)
                turn_at = loop.time()

        for number in range(len(self._api.results(batch, self.access(stored)))):
            for tries in itertools.count():
                lines = Lines(guarded)
                request = self._api.results(batch, self.access(stored))[number]
                with contextlib.suppress(NotSent, Lost):
                    reply = await self._client.download(request, lines.feed)
                    if reply.status in (404, 410):
                        is_whole = False
                        break
                    if 200 <= reply.status < 300:
                        await lines.end()
                        break
                    self.refused(trouble_of(reply, self._api.errors))
                if errors:
                    break
                await pause(tries)
            if errors:
                raise errors[0]
        return is_whole


def was_not_created(trouble: Trouble) -> bool:
    """True if a refused creation made no batch for sure."""
    return not isinstance(trouble, (ServerError, Ambiguous, Malformed)) and trouble.status not in (502, 504, 524)


async def pause(tries: int) -> None:
    """Wait before another try, longer each time."""
    await asyncio.sleep(pause_s(tries))


def pause_s(tries: int) -> float:
    """How long to wait before another try, longer each time."""
    return min(RETRY_S[1], RETRY_S[0] * 1.5 ** min(tries, 20)) * random.uniform(0.75, 1.25)
