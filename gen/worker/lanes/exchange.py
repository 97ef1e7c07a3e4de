"""One attempt at a sample: journalled before it is sent, and its reply journalled before it is read."""

import asyncio
import functools
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from stillhouse.gen.clock import Clock
from stillhouse.gen.errors import StoreAway, UsageError
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection, Outcome
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.retry import Blame, Decision
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.lanes.base import Attempts, DocketT
from stillhouse.gen.worker.replies import Journalled, Received
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt

_T = TypeVar("_T")


class Sample(NamedTuple):
    """The sample that a slot asks."""

    ordinal: int
    again: bool
    """True if it was asked before."""
    prompt: Prompt
    key: Hashable
    """The same for all samples of the prompt."""
    chars: int
    """The prompt's size."""


class Exchange(Generic[DocketT]):
    """Makes the attempts for one teacher's lane."""

    def __init__(self, client: TeacherClient, *, tasks: Tasks, clock: Clock) -> None:
        self.largest_reply_bytes = 0
        """Size of the largest reply so far."""
        self._client = client
        self._tasks = tasks
        self._clock = clock

    async def attempt(
        self, held: DocketT, sample: Sample, endpoint: Endpoint, images: tuple[SentImage, ...]
    ) -> tuple[Outcome, Decision, Blame | None]:
        """Send it once and keep the reply: (outcome, decision, who is to blame for a refusal).

        Raises:
            UsageError: the endpoint's TLS certificate is not valid.
            StoreAway: the journal can't be written, and nothing was sent.
        """
        client, attempts = self._client, held.attempts
        ordinal, _, prompt, key, _ = sample
        ask = Request(
            prompt.messages, held.number(ordinal), images=images, tools=prompt.tools or (), scored=prompt.scored
        )
        at, start = self._clock.time(), self._clock.monotonic()
        request = client.request(ask, endpoint, now=at)
        place = client.interpreter.place
        attempts.sent(ordinal, at=at, endpoint=endpoint.host, place=place)
        outcome: NoConnection | Ambiguous
        try:
            reply = await client.send(request)
        except NotSent as error:
            if error.certificate:
                raise _untrusted(client.teacher.name, endpoint, error) from None
            outcome = NoConnection(str(error))
            return (
                outcome,
                attempts.unanswered(ordinal, Kind.NOT_SENT, outcome, at=at, place=place, endpoint=endpoint.host),
                None,
            )
        except Lost as error:
            outcome = Ambiguous(str(error), deadline=error.deadline)
            latency_s = self._clock.monotonic() - start
            cut = None if error.cut is None else error.cut._replace(latency_s=latency_s)
            decision = attempts.unanswered(
                ordinal, Kind.LOST, outcome, at=at, place=place, endpoint=endpoint.host, cut=cut
            )
            return outcome, decision, None
        latency_s = self._clock.monotonic() - start
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(reply.body))

        def journal() -> Journalled:
            return attempts.journalled(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint.host, place=place)

        if len(reply.body) < LARGE_BYTES:
            try:
                received = attempts.read(journal())
            except StoreAway as error:
                received = attempts.read(await self._kept_later(journal, error))
        else:
            received = await self._read_beside(attempts, journal)
        blame = client.weigh(key, received.outcome, endpoint=endpoint, sent_at=start)
        try:
            decision = attempts.answered(received, blame=blame)
        except StoreAway as error:
            decision = await self._kept_later(functools.partial(attempts.answered, received, blame=blame), error)
        if reply.ceilings and not (blame is not None and (blame.on == "request" or blame.spares_account)):
            client.told(reply)
        return received.outcome, decision, blame

    async def _read_beside(self, attempts: Attempts, journal: Callable[[], Journalled]) -> Received:
        """Journal and read a large reply in threads."""
        try:
            journalled = await reply_threads.keep(journal)
        except StoreAway as error:
            journalled = await self._kept_later(journal, error)
        return await reply_threads.read(functools.partial(attempts.read, journalled))

    async def _kept_later(self, keep: Callable[[], _T], error: StoreAway) -> _T:
        """Keep what was paid for although the disk is full: space may turn up while the worker stops."""
        while True:
            self._tasks.fail(error)
            await asyncio.sleep(1.0)
            try:
                return keep()
            except StoreAway as again:
                error = again


def _untrusted(teacher: str, endpoint: Endpoint, error: NotSent) -> UsageError:
    return UsageError(
        f"teachers.{teacher}: TLS to {endpoint.host} failed: {error}; use a certificate that the nodes trust, or name "
        "its CA in SSL_CERT_FILE on each node"
    )
