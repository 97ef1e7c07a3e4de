"""The asker: hands each sample to its teacher's lane, and divides the process's connections among the lanes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.worker.chain import Chain
from stillhouse.gen.worker.judges import HeldHearing, Judges
from stillhouse.gen.worker.lanes import LANES
from stillhouse.gen.worker.lanes.base import Gate, Lane, Listener
from stillhouse.gen.worker.lanes.batch import BatchLane
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks


class Asker:
    """Hands samples to lanes."""

    def __init__(
        self,
        tasks: Tasks,
        *,
        clients: Sequence[TeacherClient],
        gate: Gate,
        listener: Listener[LeasedChunk],
        counters: Counters,
        clock: Clock,
        store: Store,
        keep_going: bool,
        connections: int = 2**20,
        chain: Chain | None = None,
        judges: Judges | None = None,
    ) -> None:
        """Args: tasks: the worker's tasks. clients: one for each teacher. gate: closed while nothing may be sent.
        listener: receives each attempt's end. counters: the worker's counters. clock: the worker's clock. store: the
        dataset's store. keep_going: pay again for batches that the provider does not know under this key, or at this
        URL. connections: how many the process can have at once. chain: under `route: fallback`, decides which teacher
        each sample is sent to. judges: the judges of the recipe's checks.
        """
        self._chain = chain
        self._connections = connections
        self._gate = gate
        self._counters = counters
        in_batches = {"store": store, "keep_going": keep_going}
        self._lanes: dict[str, Lane[LeasedChunk]] = {
            client.teacher.name: LANES[client.teacher.mode](
                client,
                tasks=tasks,
                listener=listener,
                gate=gate,
                counters=counters,
                clock=clock,
                **({"router": chain} if client.teacher.mode == "online" else in_batches),
            )
            for client in clients
        }
        if chain is not None:
            chain.use(list(self._lanes.values()), counters=counters)
        self._batch_lanes = {
            client.interpreter.place: lane
            for client, lane in zip(clients, self._lanes.values(), strict=True)
            if isinstance(lane, BatchLane)
        }
        """Batch lanes of the teachers that answer, by position in the recipe."""
        self._judges = judges
        self._judge_lanes: tuple[Lane[HeldHearing], ...] = ()
        if judges is not None:
            self._judge_lanes = judges.begin(gate, counters=counters, clock=clock, store=store, keep_going=keep_going)
        self._all_batch_lanes = [*self._batch_lanes.values(), *(judges.batch_lanes.values() if judges else ())]
        self._accounts = {client.account for client in clients}

    def cancel(self) -> None:
        """End all lanes."""
        for lane in self._all:
            lane.cancel()

    @property
    def _all(self) -> Iterator[Lane[Any]]:
        """All lanes, the judges' first."""
        yield from self._judge_lanes
        yield from self._lanes.values()

    def backlog(self, account: Account) -> int | None:
        """Samples of an account's teachers that only wait for its limits; None if nothing may be sent for now."""
        if not self._gate.is_open:
            return None
        return sum(lane.waiting for lane in self._all if lane.account is account)

    @property
    def runs_dry(self) -> bool:
        """True if a teacher could be asked more samples than there are for it."""
        if self._chain is not None:  # the others only replace it
            return self._chain.lane.runs_dry
        return any(lane.runs_dry for lane in self._lanes.values())

    @property
    def slots(self) -> int:
        """Maximum number of requests in flight."""
        return sum(account.slots for account in self._accounts)

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        return max(lane.largest_reply_bytes for lane in self._all)

    def take(self, held: LeasedChunk) -> None:
        """Ask those of the chunk's samples that may be asked now."""
        if self._judges is not None and not held.was_taken:
            self._judges.open(held)
        held.was_taken = True
        by_teacher: dict[str, list[int]] = {}
        for ordinal in held.open.take():
            if self._chain is not None:
                self._chain.take(held, ordinal)
            else:
                by_teacher.setdefault(held.open.samples.teacher(ordinal).teacher.name, []).append(ordinal)
        for teacher, ordinals in by_teacher.items():
            self._lanes[teacher].take(held, ordinals)
        if self._judges is not None:
            self._judges.gathered(held)  # perhaps there was nothing more to ask

    @property
    def is_batched(self) -> bool:
        """True if all teachers are asked in batches."""
        return len(self._batch_lanes) == len(self._lanes)

    @property
    def is_full(self) -> bool:
        """True if a chunk waits because a teacher has as many batches as it may have: others must be collected
        first."""
        return any(lane.is_full for lane in self._all_batch_lanes)

    def at_provider(self, held: LeasedChunk) -> list[OpenBatch] | None:
        """The batches that contain all that is open in the chunk; None if something is not in one."""
        if not self._all_batch_lanes or not self._is_idle(held):
            return None
        samples, batches = 0, list[OpenBatch]()
        for lane in self._batch_lanes.values():
            if (found := lane.open_batches(held)) is None:
                return None
            samples += found.samples
            batches += found.batches
        if samples != held.open.state.schedule.out:
            return None
        if self._judges is not None:
            if (questions := self._judges.at_provider(held)) is None:
                return None
            batches += questions
        return batches if any(not each.missing for each in batches) else None

    def waits_for_room(self, held: LeasedChunk) -> bool:
        """True if the chunk only waits for batches that its teachers may not open yet."""
        if not self.is_full or not self._is_idle(held):
            return False
        samples = 0
        for lane in self._batch_lanes.values():
            samples += lane.fresh(held) if lane.is_full else 0
            samples += 0 if (found := lane.open_batches(held)) is None else found.samples
        if samples != held.open.state.schedule.out:
            return False
        return self._judges is None or self._judges.waits_for_room(held)

    def reserved(self, held: LeasedChunk) -> Expense | None:
        """What the chunk's open batches may cost, under a budget; None if that is not known yet."""
        if self._all_batch_lanes and held.open.left and not held.was_taken:
            return None
        parts = [lane.reserved(held) for lane in self._all_batch_lanes]
        known = [part for part in parts if part is not None]
        return sum(known, NOTHING) if len(known) == len(parts) else None

    def count_batches(self) -> None:
        """Count the open batches of the chunks in hand."""
        found = Counter[str]()
        for lane in self._all_batch_lanes:
            found[lane.teacher] += lane.open
        for name, count in found.items():
            self._counters.of(name).batches_open = count

    async def is_running(self, batch: OpenBatch) -> bool:
        """Look at a batch once: False if it has ended."""
        lane = next((each for each in self._all_batch_lanes if each.who == batch.who), None)
        return lane is not None and await lane.is_running(batch)

    def drop(self, held: LeasedChunk) -> None:
        """The chunk is no longer this worker's."""
        for lane in self._batch_lanes.values():
            lane.drop(held)
        if self._judges is not None:
            self._judges.drop(held)

    def fill_slots(self) -> None:
        """Use as many slots as the leases and the process's file descriptors allow."""
        room = self._connections - sum(lane.slots for lane in self._all)
        for lane in self._all:
            wanted = max(0, lane.wanted)
            if wanted > room:
                self._counters.note(
                    f"a worker is limited to {self._connections} requests in flight: its process can't open more "
                    "files (`ulimit -Hn`); raise that limit, or use more workers (`run.workers`)"
                )
            lane.widen(min(wanted, room))
            room -= min(wanted, room)

    def _is_idle(self, held: LeasedChunk) -> bool:
        """True if the chunk needs nothing here: no request is in flight, nothing can be asked, and answers only await
        judges in batch mode, if anything."""
        if held.under_way or held.open.is_due:
            return False
        return self._judges is not None or not held.open.state.verdicts.awaited
