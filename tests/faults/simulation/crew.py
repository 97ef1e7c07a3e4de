"""What `cluster.driver` and `cluster.crew` do, without Ray: a run's driver, its queue, its limiter and its workers.

The shared actors are called over a wire that takes time and may lose the call or its result; the classes behind it are
those that Ray runs.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from stillhouse.cluster.actors.prompt_queue import PromptQueue
from stillhouse.cluster.actors.rate_limiter import RateLimiter
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import TERM_S, Grant
from stillhouse.gen.coordination.messages import End, NoMore, Renewal, Unreachable, Wait
from stillhouse.gen.dataset.budget_words import over_line
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import Parked
from stillhouse.gen.dataset.planning import Planner, Planning
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import BudgetSpent, Paused, StillhouseError
from stillhouse.gen.limits.shares import LEASE_S, Lease, Report
from stillhouse.gen.worker.worker import Worker

from .processes import Killed, Process, Tenure, check_alive
from .services import Services

STOP_GRACE_S = 30.0
AWAY_S = 30.0
CALL_TIMEOUT_S = 10.0


class Line:
    """A worker's connection to the shared actors."""

    def __init__(
        self, rng: random.Random, process: Process, loss: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        self._rng = rng
        self._process = process
        self._loss = loss
        self._now = now

    async def call(self, actor: "Actor", do: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """The result of a call.

        Raises:
            Unreachable: the actor was not reached, or its result got lost.
        """
        await self._travel(actor)
        check_alive()
        if actor.value is None or actor.process.dead_at is not None:
            raise Unreachable("the actor is dead")
        result = await self._worked(actor, do)
        await self._travel(actor)
        return result

    async def _worked(self, actor: "Actor", do: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """The actor's result, computed in its own process, which may die meanwhile."""
        work = asyncio.get_running_loop().create_task(do(actor.value), context=actor.process.context)
        done, _ = await asyncio.wait([work], timeout=CALL_TIMEOUT_S)
        if not done or work.cancelled() or isinstance(work.exception(), Killed):
            raise Unreachable("the actor died of it, or is slow")
        return work.result()

    async def _travel(self, actor: "Actor") -> None:
        cut_until = max(self._process.cut_off_until, self._process.cut_from.get(actor.process.kind, 0.0))
        if self._now() < cut_until or self._loss():
            await asyncio.sleep(CALL_TIMEOUT_S)
            raise Unreachable("timeout")
        await asyncio.sleep(self._rng.uniform(0.001, 0.02))


@dataclass(eq=False)
class Actor:
    """A shared actor: its process and, once it is up, what runs there."""

    process: Process
    value: Any = None


class QueueLine:
    """`gen.coordination.messages.Queue` over a Line."""

    def __init__(self, line: Line, crew: "Crew", process: Process, now: Callable[[], float]) -> None:
        self._line = line
        self._crew = crew
        self._process = process
        self._now = now

    async def lease(self, worker: str, *, begun: bool = False) -> Grant | Wait | NoMore:
        """See `gen.coordination.messages.Queue`."""
        self._process.leases += 1
        leased = self._line.call(self._crew.queue, lambda queue: queue.lease(worker, begun=begun))
        return await leased  # type: ignore[no-any-return]

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        """See `gen.coordination.messages.Queue`."""
        asked_at = self._now()
        renewal = await self._line.call(self._crew.queue, lambda queue: queue.renew(worker, held, counters))
        self._process.renewed_at = asked_at
        return renewal  # type: ignore[no-any-return]

    async def sealed(self, worker: str, chunk: ChunkId, counts: ShardCounts | None, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._line.call(self._crew.queue, lambda queue: queue.sealed(worker, chunk, counts, counters))

    async def give_back(self, worker: str, chunk: ChunkId) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._line.call(self._crew.queue, lambda queue: queue.give_back(worker, chunk))

    async def park(self, worker: str, chunk: ChunkId, parked: Parked, counters: Counters) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._line.call(self._crew.queue, lambda queue: queue.park(worker, chunk, parked, counters))

    async def looked(self, worker: str, *, running: list[ChunkId], ended: list[ChunkId]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._line.call(self._crew.queue, lambda queue: queue.looked(worker, running=running, ended=ended))

    async def shipped(self, worker: str, left_by: list[str]) -> None:
        """See `gen.coordination.messages.Queue`."""
        await self._line.call(self._crew.queue, lambda queue: queue.shipped(worker, left_by))


class LedgerLine:
    """`gen.coordination.messages.LimitLedger` over a Line."""

    def __init__(self, line: Line, crew: "Crew") -> None:
        self._line = line
        self._crew = crew

    async def renew(self, worker: str, report: Report) -> Lease:
        """See `gen.coordination.messages.LimitLedger`."""
        lease: Lease = await self._line.call(self._crew.limiter, lambda ledger: ledger.renew(worker, report))
        await asyncio.sleep(self._crew.limiter_s)
        return lease

    async def leave(self, worker: str) -> None:
        """See `gen.coordination.messages.LimitLedger`."""
        await self._line.call(self._crew.limiter, lambda ledger: ledger.leave(worker))


@dataclass(eq=False)
class _Hand:
    process: Process
    task: "asyncio.Task[End]"
    worker: Worker | None = None


class Crew:
    """A run's actors, and its driver's part in planning."""

    queue: Actor
    limiter: Actor

    def __init__(self, services: Services, planner: Planner, *, tenure: Tenure) -> None:
        self._services = services
        self._tenure = tenure
        self._planning = Planning(planner)
        self._opened, self._known_at_start = self._planning.opened, self._planning.known
        self._error: StillhouseError | None = None
        self._hands: list[_Hand] = []
        self._ends: list[End] = []
        self._hire_at: list[float] = []
        """When others take the place of workers that their own store or disk failed."""
        self._stopping = False
        self._over: str | None = None
        """Why asking ended for want of money."""

    @property
    def has_work(self) -> bool:
        """True if any generation is open."""
        return bool(self._opened)

    async def work(self) -> None:
        """Until all chunks are sealed.

        Raises:
            StillhouseError: what stopped a worker, or the queue.
        """
        services = self._services
        if not self._opened:
            return
        try:
            self._start_queue(listen_s=0.0)
            self._start_limiter(listen_s=0.0)
            for _ in range(services.workers):
                self._hands.append(self._hire())
            await self._watch()
        finally:
            services.dismiss([self.queue.process, self.limiter.process, *(hand.process for hand in self._hands)])

    @property
    def limiter_s(self) -> float:
        """How long the limiter takes to answer."""
        return self._services.limiter_s

    async def hold(self, good_for_s: float) -> None:
        """Stop all sending after this time, unless this is called again before."""
        self._tenure.good_until = self._services.loop.time() + good_for_s
        if self._hands and self.queue.value is not None:  # else it is told when it is up
            await self.queue.value.hold(good_for_s)

    def stop_for(self, error: StillhouseError) -> None:
        """End the run in good order."""
        self._error = self._error or error

    async def _watch(self) -> None:
        loop, stopped_at = self._services.loop, None
        while self._hands:
            await asyncio.sleep(0.1 if self._stopping else 0.5)
            await self._tend()
            for end in self._ends:
                if end.kind not in ("done", "stopped"):
                    self._error = self._error or Paused(end.message)
            if self._error is not None and stopped_at is None:
                stopped_at, self._stopping = loop.time(), True
                for hand in self._hands:
                    if hand.worker is not None:
                        loop.call_soon(hand.worker.stop, context=hand.process.context)
            if stopped_at is not None and loop.time() - stopped_at > STOP_GRACE_S:
                break
        if self._error is not None:
            raise self._error
        if self._over is not None:
            raise BudgetSpent(self._over)

    async def _tend(self) -> None:
        queue = self.queue
        if queue.process.dead_at is not None:
            self._start_queue(listen_s=TERM_S)
        elif queue.value is not None:
            stats = await queue.value.stats()
            if stats.error is not None:
                self._error = self._error or Paused(stats.error)
            budget = self._services.recipe.budget
            if budget is not None and stats.budget is not None and stats.budget.unpayable is not None:
                self._over = over_line(budget, stats.budget.spent, stats.budget.unpayable)
            else:
                await self._plan_with(queue.value, stats)
        if self.limiter.process.dead_at is not None:
            self._start_limiter(listen_s=LEASE_S)
        for hand in [hand for hand in self._hands if hand.task.done()]:
            self._hands.remove(hand)
            if hand.process.dead_at is None:
                end = hand.task.result()
                if end.kind == "away" and self._hands and not self._stopping:
                    self._hire_at.append(self._services.loop.time() + AWAY_S)
                elif end.kind == "stopped" and not self._stopping:  # it was taken for dead
                    self._hands.append(self._hire())
                else:
                    self._ends.append(end)
                self._services.processes.retire(hand.process)
            else:
                await self._replace(hand)
        now = self._services.loop.time()
        due, self._hire_at = [at for at in self._hire_at if at <= now], [at for at in self._hire_at if at > now]
        if not self._stopping:
            for _ in due:
                self._hands.append(self._hire())

    async def _plan_with(self, queue: PromptQueue, stats: QueueStats) -> None:
        """As `cluster.driver` does."""
        planning = self._planning
        due = planning.due(known=stats.known, last=stats.last, indexed=stats.planned, sealed=stats.all_sealed)
        if due == "tell":
            await queue.planned(last=planning.is_over)
        elif due == "advance" and not self._stopping:
            try:
                planning.advance()
            except StillhouseError as error:
                self._error = self._error or error

    async def _replace(self, hand: _Hand) -> None:
        if self.limiter.value is not None:
            await self.limiter.value.died(hand.process.name)
        for _ in range(10):
            if self.queue.value is not None and self.queue.process.dead_at is None:
                await self.queue.value.worker_died(hand.process.name)
                break
            await asyncio.sleep(0.5)
            if self.queue.process.dead_at is not None:
                self._start_queue(listen_s=TERM_S)
        if not self._stopping:
            self._hands.append(self._hire())

    def _start_queue(self, *, listen_s: float) -> None:
        services = self._services

        async def main(process: Process) -> None:
            await asyncio.sleep(services.rng.uniform(0.1, 1.0))
            try:
                actor.value = PromptQueue(
                    services.recipe,
                    opened=self._opened,
                    known=self._known_at_start,
                    workers=services.workers,
                    listen_s=listen_s,
                    store=services.store,
                    clock=services.clock,
                    background=services.in_thread,
                )
                await actor.value.hold(self._tenure.good_until - services.loop.time())
            except StillhouseError as error:
                self._error = self._error or error

        process, _ = services.processes.spawn("queue", services.head, main)
        self.queue = actor = Actor(process)

    def _start_limiter(self, *, listen_s: float) -> None:
        services = self._services

        async def main(process: Process) -> None:
            actor.value = RateLimiter(services.teacher.limits, listen_s=listen_s, clock=services.clock)

        process, _ = services.processes.spawn("limiter", services.head, main)
        self.limiter = actor = Actor(process)

    def _hire(self) -> _Hand:
        services = self._services

        async def main(process: Process) -> End:
            process.tenure = self._tenure
            await asyncio.sleep(services.rng.uniform(0.1, 1.5))
            try:
                line = Line(services.rng, process, services.loses_message, services.loop.time)
                hand.worker = Worker(
                    process.name,
                    recipe=services.recipe_on(process.node),
                    store=services.store,
                    queue=QueueLine(line, self, process, services.loop.time),
                    ledgers={services.teacher.limits_key: LedgerLine(line, self)},
                    transport=services.transport,
                    clock=services.clock,
                    judging=services.judging,
                )
                process.renewed_at = services.loop.time()
                return await hand.worker.run()
            except StillhouseError as error:
                return End.because(error)
            except BaseExceptionGroup as group:
                if process.dead_at is None:
                    raise
                raise Killed(process.name) from group

        # As Ray spreads actors: where the fewest are.
        there = Counter(hand.process.node.name for hand in self._hands)
        node = min(services.nodes, key=lambda node: (there[node.name], services.rng.random()))
        process, task = services.processes.spawn("worker", node, main)
        hand = _Hand(process, task)
        return hand
