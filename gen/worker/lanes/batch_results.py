"""Writes a batch's results into its chunk's journal.

A result becomes an ANSWERED frame with its intent's time, so reading a batch's results again adds nothing.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.batches.base import Batch, Result, Unreadable, Unserved
from stillhouse.gen.teachers.keys import without_keys
from stillhouse.gen.teachers.outcome import Ambiguous, kind_of
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.retry import Decision, Pause
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.lanes.batch_parts import BatchParts
from stillhouse.gen.worker.lanes.batch_work import OpenIntent, Work
from stillhouse.schemas.completion import Completion

MAX_EXPIRED = 3
"""A sample that expired this often is given up on."""


@dataclass(slots=True)
class BatchEnd:
    """The results of a batch."""

    expired: list[int] = field(default_factory=list)
    """Samples that the provider did not reach."""
    settled: int = 0
    """How many samples it settled."""
    pause: str | None = None
    """Why nothing can be asked of the teacher until a person has acted."""


class BatchResults:
    """Collects one teacher's batches."""

    def __init__(self, parts: BatchParts) -> None:
        self.largest_reply_bytes = 0
        self._client, self._calls, self._intents = parts.client, parts.calls, parts.intents
        self._money, self._listener = parts.money, parts.listener
        self._counters, self._clock = parts.counters, parts.clock
        self._place = parts.client.interpreter.place or 0

    async def collected(self, work: Work, intent: OpenIntent, batch: Batch) -> BatchEnd:
        """Write all results of the batch into the journal, as long as the chunk needs them."""
        left = set(intent.stored.ordinals())
        before = len(work.unsettled(intent))
        unserved: list[int] = []
        deleted: list[int] = []
        end = BatchEnd()

        async def take(result: Result) -> None:
            if isinstance(result, Unreadable) or (asked := intent.asked_in(result.key)) is None:
                return  # no result, or another intent's
            ordinal, mark = asked
            if ordinal not in left:
                return  # one that came before
            left.discard(ordinal)
            if isinstance(result, Unserved):
                unserved.append(ordinal)
            elif isinstance(decision := await self._answered(work, intent, ordinal, result.reply, mark=mark), Pause):
                end.pause = decision.reason

        is_whole = await self._calls.download(batch, intent.stored, take)
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
        end.settled = before - len(work.unsettled(intent))
        return end

    def _ended(self, work: Work, ordinal: int) -> None:
        """The sample's request ended."""
        self._listener.heard(work.held, ordinal)
        if work.held.open.left == 0:
            work.held.advance()

    def _is_known(self, work: Work, intent: OpenIntent, ordinal: int) -> bool:
        """True if the journal has the result of the sample in this batch, or nobody needs it."""
        attempts = work.attempts
        return work.is_over or attempts.is_settled(ordinal) or attempts.was_read(ordinal, intent.stored.at)

    async def _answered(
        self, work: Work, intent: OpenIntent, ordinal: int, reply: Reply, *, mark: str
    ) -> Decision | None:
        if self._is_known(work, intent, ordinal):
            return None
        at, client = intent.stored.at, self._client
        cleared = partial(without_keys, reply.body, keys=client.interpreter.keys)
        body = cleared() if len(reply.body) < LARGE_BYTES else await reply_threads.keep(cleared)
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(body))
        latency_s = max(0.0, self._clock.time() - at)
        outcome, decision = await work.attempts.delivered(
            ordinal,
            reply._replace(body=body),
            mark=mark,
            at=at,
            latency_s=latency_s,
            endpoint=self._host_of(intent),
            place=self._place,
        )
        self._money.spend(work, ordinal, outcome)
        tally = self._counters.of(client.teacher.name)
        tally.requests += 1
        if isinstance(outcome, Completion):
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
        else:
            self._counters.troubled(client.teacher.name, kind_of(outcome), outcome.message)
        self._ended(work, ordinal)
        return decision

    def _lost(self, work: Work, intent: OpenIntent, ordinal: int, why: str) -> None:
        if self._is_known(work, intent, ordinal):
            return
        at, endpoint, attempts = intent.stored.at, self._host_of(intent), work.attempts
        attempts.sent(ordinal, at=at, endpoint=endpoint, place=self._place)
        attempts.unanswered(ordinal, Kind.LOST, Ambiguous(why), at=at, place=self._place, endpoint=endpoint)
        self._money.spend(work, ordinal, Ambiguous(why))
        self._ended(work, ordinal)

    def _unserved(self, work: Work, intent: OpenIntent, ordinal: int, *, counts: bool) -> None:
        """The sample got no answer; it is given up on if it `counts`, and was in `MAX_EXPIRED` such batches."""
        if work.is_over or work.attempts.is_settled(ordinal):
            return
        why, at = "the provider did not reach it", intent.stored.at
        if not self._is_known(work, intent, ordinal):
            work.attempts.unserved(ordinal, at=at, endpoint=self._host_of(intent), place=self._place, why=why)
        self._expires(work, intent, ordinal, why, counts=counts)

    def _deleted(self, work: Work, intent: OpenIntent, ordinal: int) -> None:
        """The sample may have been answered and billed; otherwise it is treated as if the provider had not reached
        it."""
        if work.is_over or work.attempts.is_settled(ordinal):
            return
        why = "its batch's results were deleted before they were collected"
        self._lost(work, intent, ordinal, why)
        self._expires(work, intent, ordinal, why, counts=True)

    def _expires(self, work: Work, intent: OpenIntent, ordinal: int, why: str, *, counts: bool) -> None:
        times = work.expired[ordinal] + counts
        if times >= MAX_EXPIRED:
            why = f"{why} ({times} batches)"
            work.attempts.expired(ordinal, at=intent.stored.at, place=self._place, why=why)
        self._ended(work, ordinal)

    def _host_of(self, intent: OpenIntent) -> str:
        return self._client.host_of(self._calls.url_of(intent.stored))
