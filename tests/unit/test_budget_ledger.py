"""The budget's ledger and the workers' purses, in every order of events: nothing is ever overspent or forgotten."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.dataset.budget import BudgetDocument, BudgetLedger, Opened, SpendReport
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.expense import NOTHING, UNLIMITED, Expense
from stillhouse.gen.worker.purse import Purse

CHUNKS = [ChunkId(0, number) for number in range(3)]


def requests(count: int) -> Expense:
    """So many requests."""
    return Expense(requests=count)


def limited_to(count: int) -> Expense:
    """A budget of requests alone."""
    return Expense(count, UNLIMITED, UNLIMITED)


@dataclass
class Worker:
    """A worker that spends what it was granted, request by request, on its chunks."""

    name: str
    granted: int = 0
    spent: int = 0
    recovered: dict[ChunkId, int] = field(default_factory=dict)
    """What its chunks had cost when it took them over."""

    def report(self, world: "World", *, wants: int = 0) -> SpendReport:
        """Its totals."""
        opened = [
            Opened(chunk, requests(recovered), requests(world.cost[chunk]))
            for chunk, recovered in self.recovered.items()
        ]
        return SpendReport(
            granted=requests(self.granted),
            spent=requests(self.spent),
            wants=requests(wants),
            next=requests(1) if wants else None,
            opened=tuple(opened),
        )


class World:
    """What really happens, beside the ledger that is told of it late, or never."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ledger = BudgetLedger(limited_to(limit), BudgetDocument(), keeps_journals=True)
        self.stored = self.ledger.document.model_dump_json()
        self.cost = dict.fromkeys(CHUNKS, 0)
        """By the journals."""
        self.owner: dict[ChunkId, Worker] = {}
        self.workers: list[Worker] = []
        self.count = 0

    def hire(self) -> None:
        """A new worker takes over the chunks that nobody has."""
        self.count += 1
        worker = Worker(f"w{self.count}")
        self.workers.append(worker)
        for chunk in CHUNKS:
            if chunk not in self.owner:
                self.ledger.leased(worker.name, chunk)
                self.store()
                self.owner[chunk] = worker
                worker.recovered[chunk] = self.cost[chunk]

    def renew(self, worker: Worker) -> None:
        """It reports, and is told its grant once that is stored."""
        self.ledger.reported(worker.name, worker.report(self, wants=4))
        self.ledger.grant(worker.name)
        self.store()
        worker.granted = self.ledger.document.workers[worker.name].granted.requests

    def ask(self, worker: Worker, chunk: ChunkId) -> None:
        """One request, if there is money for it."""
        if worker.spent < worker.granted and self.owner.get(chunk) is worker:
            worker.spent += 1
            self.cost[chunk] += 1

    def kill(self, worker: Worker) -> None:
        """The worker is gone with what it did not report; its journals stay."""
        self.workers.remove(worker)
        self.owner = {chunk: owner for chunk, owner in self.owner.items() if owner is not worker}
        self.ledger.died(worker.name)

    def restart_queue(self) -> None:
        """A queue that knows only what is stored."""
        self.ledger = BudgetLedger(
            limited_to(self.limit), BudgetDocument.model_validate_json(self.stored), keeps_journals=True
        )
        for name in set(self.ledger.document.workers) - {worker.name for worker in self.workers}:
            self.ledger.died(name)

    def store(self) -> None:
        """Store the ledger."""
        self.stored = self.ledger.document.model_dump_json()

    @property
    def sent(self) -> int:
        """Requests, by the teacher's count."""
        return sum(self.cost.values())


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["hire", "renew", "ask", "ask", "ask", "kill", "queue"]), st.integers(0, 9), st.integers(0, 2)
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 40), moves=MOVES)
def test_no_order_of_crashes_overspends_or_forgets(limit: int, moves: list[tuple[str, int, int]]) -> None:
    """Never more requests than the budget has; and once all is recovered, the ledger says how many there were."""
    world = World(limit)
    world.hire()
    for move, who, which in moves:
        worker = world.workers[who % len(world.workers)] if world.workers else None
        if move == "hire":
            world.hire()
        elif move == "queue":
            world.restart_queue()
        elif worker is not None and move == "renew":
            world.renew(worker)
        elif worker is not None and move == "ask":
            world.ask(worker, CHUNKS[which])
        elif worker is not None and move == "kill":
            world.kill(worker)
        assert world.sent <= limit
    for worker in list(world.workers):
        world.kill(worker)
    world.hire()
    (last,) = world.workers
    world.ledger.reported(last.name, last.report(world))
    assert (world.ledger.spent.requests, world.ledger.held) == (world.sent, NOTHING)


def test_a_grant_is_a_tenth_of_what_is_left_or_one_request() -> None:
    """So that a worker that dies holds up little."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=True)
    granted: list[int] = []
    for _ in range(3):
        ledger.reported("w", SpendReport(granted=requests(sum(granted)), wants=requests(90), next=requests(1)))
        ledger.grant("w")
        granted.append(ledger.document.workers["w"].granted.requests - sum(granted))
    assert granted == [10, 9, 8]
    poor = BudgetLedger(limited_to(3), BudgetDocument(), keeps_journals=True)
    poor.reported("w", SpendReport(wants=requests(90), next=requests(1)))
    poor.grant("w")
    assert poor.document.workers["w"].granted == requests(1)


def test_asking_ends_once_nobody_holds_anything() -> None:
    """What another worker holds may come back, and a dead one's chunks may say that they cost less."""
    ledger = BudgetLedger(limited_to(2), BudgetDocument(), keeps_journals=True)
    for name in ("a", "b"):
        ledger.leased(name, CHUNKS[0] if name == "a" else CHUNKS[1])
        ledger.reported(name, SpendReport(wants=requests(1), next=requests(1)))
        ledger.grant(name)
    spent = SpendReport(granted=requests(1), spent=requests(1), wants=requests(1), next=requests(1))
    ledger.reported("a", spent)
    assert not ledger.can_pay
    assert ledger.unpayable is None, "b may return its request"
    ledger.died("b")
    assert ledger.unpayable is None, "b's chunk has not said what it cost"
    ledger.leased("a", CHUNKS[1])
    opened = Opened(CHUNKS[1], requests(1), requests(1))
    ledger.reported("a", SpendReport(requests(1), NOTHING, requests(1), requests(1), requests(1), (opened,)))
    assert ledger.unpayable == requests(1)


@pytest.mark.parametrize("how", ["lost", "kept"])
def test_a_lost_disk_leaves_the_whole_grant_spent(how: Literal["lost", "kept"]) -> None:
    """What its journals would have said is gone; with them, only what they say counts."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=False)
    ledger.leased("a", CHUNKS[0])
    ledger.reported("a", SpendReport(wants=requests(10), next=requests(1)))
    ledger.grant("a")
    if how == "kept":
        ledger.reported("a", SpendReport(granted=requests(10), ended=True, shipped=True))
    ledger.died("a")
    ledger.leased("b", CHUNKS[0])
    ledger.reported("b", SpendReport(opened=(Opened(CHUNKS[0], requests(3), requests(3)),)))
    assert (ledger.spent.requests, ledger.held) == (10 if how == "lost" else 3, NOTHING)


def test_a_shard_without_a_report_says_what_its_chunk_cost() -> None:
    """Its owner died between the seal and its report."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=True)
    ledger.leased("a", CHUNKS[0])
    ledger.reported("a", SpendReport(wants=requests(10), next=requests(1)))
    ledger.grant("a")
    ledger.died("a")
    assert ledger.held == requests(10)
    ledger.sealed(CHUNKS[0], requests(7))
    assert (ledger.spent, ledger.held) == (requests(7), NOTHING)


async def test_a_purse_pays_in_order_and_returns_what_it_cannot_use() -> None:
    """Nobody overtakes a request that waits for money; what is too little for it goes back."""
    clock = ManualClock()
    purse = Purse(limited_to(100), clock=clock)
    first = asyncio.ensure_future(purse.reserve(requests(3)))
    second = asyncio.ensure_future(purse.reserve(requests(1)))
    await asyncio.sleep(0)
    purse.accept(requests(2))
    assert not first.done()
    assert not second.done()
    report = purse.report()
    assert (report.returned, report.next) == (requests(2), requests(3))
    purse.accept(requests(6))
    assert await first
    assert await second
    purse.settle(requests(3), requests(1))
    assert purse.report().spent == requests(1)
    purse.close()
    assert not await purse.reserve(requests(1))
