"""The lane of `mode: batch-then-online`: each sample is in one batch, and what no batch answers is asked online.

A sample goes online once its journal has an attempt at it, whatever came of that, so a later owner of the chunk decides
the same. A batch that never existed, or that the provider rejected as a whole, does not count as an attempt: another
one is created. Under `accept`, samples that are asked only because others were not accepted go online at once, or every
round would take as long as a batch.
"""

from functools import cached_property

from stillhouse.gen.worker.lanes.batch import BatchLane
from stillhouse.gen.worker.lanes.batch_work import Work
from stillhouse.gen.worker.lanes.online import OnlineLane
from stillhouse.gen.worker.leased_chunk import LeasedChunk


class BatchThenOnlineLane(BatchLane):
    """Asks one teacher's samples in batches, and then online."""

    @cached_property
    def _online(self) -> OnlineLane[LeasedChunk]:
        """Asks what the batches leave."""
        client = self._client.online
        assert client is not None, f"teacher {self._client.teacher.name} has no client to ask it online"
        return OnlineLane(
            client,
            tasks=self._worker_tasks,
            listener=self._listener,
            gate=self._gate,
            counters=self._counters,
            clock=self._clock,
        )

    @property
    def waiting(self) -> int:
        """Samples that only wait for the account's limits."""
        return self._online.waiting

    @property
    def slots(self) -> int:
        """Maximum number of connections that it uses now."""
        return self._online.slots

    @property
    def wanted(self) -> int:
        """Connections that it could use now beyond `slots`."""
        return self._online.wanted

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        return max(super().largest_reply_bytes, self._online.largest_reply_bytes)

    def widen(self, slots: int) -> None:
        """Use this many more connections."""
        self._online.widen(slots)

    def cancel(self) -> None:
        """End all tasks."""
        super().cancel()
        self._online.cancel()

    async def _ask(self, work: Work) -> None:
        later = [ordinal for ordinal in work.fresh if self._is_for_online(work, ordinal)]
        if not later:
            await super()._ask(work)
        elif (intent := await self._creation.late(work)) is not None:
            self._spawn(self._following.follow, work, intent)
        else:
            for ordinal in later:
                del work.waiting[ordinal]
            self._online.take(work.held, later)

    def _is_for_online(self, work: Work, ordinal: int) -> bool:
        state = work.held.open.state
        return state.tries(ordinal).attempts > 0 or not state.schedule.is_first(ordinal)
