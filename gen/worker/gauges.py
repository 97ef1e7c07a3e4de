"""Fills in the part of a worker's counters that describes the present: what is open, what it costs, what is late."""

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.budget import Opened
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.parts import Parts
from stillhouse.gen.worker.shares import Shares


class Gauges:
    """The present state of one worker, as counters."""

    def __init__(self, parts: Parts, *, shares: Shares) -> None:
        """All arguments are the worker's."""
        self._counters, self._tasks, self._clients = parts.counters, parts.tasks, parts.all_clients
        self._asker, self._purse, self._fence = parts.asker, parts.purse, parts.fence
        self._chunks = parts.chunks
        self._shares = shares

    def read(self, *, ended: bool = False, shipped: bool = False) -> Counters:
        """The worker's counters, up to date.

        Args:
            ended: the worker sends nothing more.
            shipped: the journals of all its chunks are in the store.
        """
        counters, held = self._counters, self._chunks.held
        if self._purse.is_limited:
            opened = map(self.opened, (*held.values(), *self._chunks.sealed.values()))
            costs = [*filter(None, opened), *self._chunks.parked.values()]
            counters.spending = self._purse.report(costs, ended=ended, shipped=shipped)
        counters.open_chunks = len(held) + (self._chunks.opening is not None)
        counters.waiting_chunks = sum(map(self._asker.waits_for_room, held.values()))
        counters.open_settled = sum(each.settled for each in held.values())
        self._asker.count_batches()
        for name, tally in counters.teachers.items():
            tally.awaited = sum(client.awaited for client in self._clients if client.teacher.name == name)
        counters.held_up = self._held_up()
        counters.journal_lag_bytes = sum(each.shipper.behind_bytes for each in held.values())
        return counters

    def opened(self, held: LeasedChunk) -> Opened | None:
        """What the chunk costs; None if it is not known yet what its batches may cost."""
        spending, reserved = held.open.state.spending, self._asker.reserved(held)
        if reserved is None:
            return None
        return Opened(held.open.chunk.id, spending.recovered, spending.total, reserved, held.whole)

    def _held_up(self) -> str:
        """What has kept the worker from sending for long enough to report."""
        if self._tasks.stopping:
            return ""
        if self._fence.store_is_late:
            return "the store accepts no journals from them"
        late = self._shares.late
        return "" if late is None else f"no answer from the RateLimiter of account {late}"
