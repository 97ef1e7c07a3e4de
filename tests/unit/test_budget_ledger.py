"""The budget's ledger and the workers' purses, in every order of events: nothing is ever overspent or forgotten."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.dataset.budget import BudgetDocument, BudgetLedger, Opened, SpendReport
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.expense import NOTHING, UNLIMITED, Expense
from stillhouse.gen.worker.purse import Purse

CHUNKS = [ChunkId(0, number) for number in range(3)]


def requests(count: int) -> Expense:
    """This many requests."""
    return Expense(requests=count)


def limited_to(count: int) -> Expense:
    """A budget of requests alone."""
    return Expense(count, UNLIMITED, UNLIMITED)


def begin(ledger: BudgetLedger, worker: str, *, wants: int = 10) -> None:
    """A worker gets the first chunk, and is granted this many requests if there is money for them."""
    ledger.leased(worker, CHUNKS[0])
    ledger.reported(worker, SpendReport(wants=requests(wants), next=requests(1)))
    ledger.grant(worker)


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
    """What really happens; the ledger learns of it late, or never."""

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
        """It reports, and gets its grant once that is stored."""
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
def test_no_order_of_crashes_overspends_or_loses_money(limit: int, moves: list[tuple[str, int, int]]) -> None:
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


@dataclass(eq=False)
class Stint:
    """One journal: a worker's time with a chunk."""

    worker: str
    chunk: ChunkId
    recovered: int
    whole: frozenset[str]
    frames: set[int]
    """Requests, by number; those that it recovered first."""
    is_announced: bool
    shipped: set[int] = field(default_factory=set)
    is_over: bool = False
    has_disk: bool = True
    is_swept: bool = False

    @property
    def stored(self) -> set[int]:
        """What the store has of it."""
        return self.frames if self.is_swept else self.shipped

    @property
    def is_visible(self) -> bool:
        """True if the store has anything of it."""
        return self.is_announced or self.is_swept or bool(self.shipped)


class Disks:
    """A dataset on an object store: a journal is on a node's disk, and whole in the store only once it is swept."""

    def __init__(self, limit: int) -> None:
        self.ledger = BudgetLedger(limited_to(limit), BudgetDocument(), keeps_journals=False)
        self.sent = 0
        self.owner: dict[ChunkId, str] = {}
        self.workers: dict[str, dict[ChunkId, Stint | None]] = {}
        """The living, with their chunks; None: leased, and not read yet."""
        self.granted: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.stints: list[Stint] = []

    def hire(self) -> None:
        """Another worker."""
        self.workers[f"w{len(self.granted)}"] = {}
        self.granted[f"w{len(self.granted)}"] = 0

    def lease(self, worker: str, chunk: ChunkId) -> None:
        """A worker leases a chunk that nobody has."""
        if chunk not in self.owner:
            self.owner[chunk] = worker
            self.ledger.leased(worker, chunk)
            self.workers[worker][chunk] = None

    def read(self, worker: str, chunk: ChunkId) -> None:
        """It reads what there is in the store, and what it left itself."""
        if chunk not in self.workers[worker] or self.workers[worker][chunk] is not None:
            return
        earlier = [each for each in self.stints if each.chunk == chunk]
        mine = [each.frames for each in earlier if each.worker == worker]
        frames = set().union(*mine, *(each.stored for each in earlier))
        visible = [each for each in earlier if each.is_visible]
        whole = {each.worker for each in visible} - {each.worker for each in visible if not each.is_swept}
        stint = Stint(worker, chunk, len(frames), frozenset(whole), frames, is_announced=bool(earlier))
        self.workers[worker][chunk] = stint
        self.stints.append(stint)

    def report(self, worker: str) -> None:
        """It reports, and gets its grant."""
        held = [stint for stint in self.workers[worker].values() if stint is not None]
        opened = [
            Opened(each.chunk, requests(each.recovered), requests(len(each.frames)), whole=each.whole) for each in held
        ]
        granted, spent = requests(self.granted[worker]), requests(self.spent[worker])
        self.ledger.reported(worker, SpendReport(granted, NOTHING, spent, requests(4), requests(1), tuple(opened)))
        self.ledger.grant(worker)
        self.granted[worker] = self.ledger.document.workers[worker].granted.requests

    def ask(self, worker: str, chunk: ChunkId) -> None:
        """One request, if there is money for it."""
        if (stint := self.workers[worker].get(chunk)) is not None and self.spent[worker] < self.granted[worker]:
            stint.frames.add(self.sent)
            self.sent += 1
            self.spent[worker] += 1

    def ship(self, worker: str, chunk: ChunkId) -> None:
        """What was written so far is in the store."""
        if (stint := self.workers[worker].get(chunk)) is not None:
            stint.shipped |= stint.frames

    def lose(self, worker: str, chunk: ChunkId) -> None:
        """Its lease expires, and it stops; others may have the chunk, or it may have it again."""
        if chunk in self.workers[worker]:
            if (stint := self.workers[worker].pop(chunk)) is not None:
                stint.is_over = True
            del self.owner[chunk]

    def kill(self, worker: str, *, with_disk: bool) -> None:
        """It dies, and its node's disk may be lost with it."""
        for chunk in list(self.workers[worker]):
            self.lose(worker, chunk)
        for stint in self.stints:
            stint.has_disk &= with_disk or stint.worker != worker
        self.workers.pop(worker)
        self.ledger.died(worker)

    def sweep(self) -> None:
        """Neighbours ship what is on disks, and is not being written."""
        for stint in self.stints:
            stint.is_swept |= stint.is_over and stint.has_disk


_OFTEN = ["lease", "read", "report", "ask", "ask"]
_SELDOM = ["hire", "ship", "lose", "kill", "burn", "sweep"]
DISK_MOVES = st.lists(
    st.tuples(st.sampled_from([*_OFTEN, *_OFTEN, *_SELDOM]), st.integers(0, 3), st.sampled_from(CHUNKS[:2])),
    max_size=80,
)


BURNT = [
    *[("lease", 0, CHUNKS[0]), ("read", 0, CHUNKS[0]), ("report", 0, CHUNKS[0]), *[("ask", 0, CHUNKS[0])] * 4],
    *[("report", 0, CHUNKS[0]), *[("ask", 0, CHUNKS[0])] * 3, ("burn", 0, CHUNKS[0]), ("hire", 0, CHUNKS[0])],
    *[("lease", 0, CHUNKS[0]), ("read", 0, CHUNKS[0]), ("report", 0, CHUNKS[0]), *[("ask", 0, CHUNKS[0])] * 3],
]
"""A worker reports four requests, sends three more, and its disk is lost; the next owner sends three and dies."""


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(1, 40), moves=DISK_MOVES)
@example(limit=40, moves=BURNT)
def test_no_order_of_crashes_and_sweeps_overspends(limit: int, moves: list[tuple[str, int, ChunkId]]) -> None:
    """Whoever reads a chunk's journals before or after a neighbour ships them, from whatever disks are left."""
    world = Disks(limit)
    world.hire()
    for move, who, chunk in moves:
        worker = [*world.workers][who % len(world.workers)] if world.workers else ""
        match move:
            case "hire":
                world.hire()
            case "sweep":
                world.sweep()
            case _ if not worker:
                pass
            case "report":
                world.report(worker)
            case "kill" | "burn":
                world.kill(worker, with_disk=move == "kill")
            case _:
                getattr(world, move)(worker, chunk)
        assert world.sent <= limit
    for worker in list(world.workers):
        world.kill(worker, with_disk=True)
    world.sweep()
    world.hire()
    (last,) = world.workers
    for chunk in CHUNKS:
        world.lease(last, chunk)
        world.read(last, chunk)
    world.report(last)
    world.kill(last, with_disk=True)
    assert world.sent <= world.ledger.spent.requests <= limit


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


def test_the_budget_is_used_up_once_nobody_holds_a_grant() -> None:
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


async def test_nobody_waits_for_the_money_of_batches_whose_chunk_was_lost() -> None:
    """Its worker can't return it while it lives: a run that needs it would wait for ever."""
    ledger, purse = (
        BudgetLedger(limited_to(2), BudgetDocument(), keeps_journals=True),
        Purse(limited_to(2), clock=ManualClock()),
    )

    async def reserved() -> asyncio.Task[bool]:
        turn = asyncio.ensure_future(purse.reserve(requests(1)))
        await asyncio.sleep(0)
        ledger.reported("a", purse.report())
        ledger.grant("a")
        purse.accept(ledger.document.workers["a"].granted)
        return turn

    ledger.leased("a", CHUNKS[0])
    assert await (await reserved())
    purse.batch_begins(CHUNKS[0], requests(1))
    purse.lost(CHUNKS[0])
    assert await (await reserved())
    assert (ledger.held, ledger.unpayable) == (requests(2), None)
    purse.settle(requests(1), requests(1))
    last = await reserved()
    assert (ledger.held, ledger.unpayable) == (requests(1), requests(1))
    purse.close()
    assert not await last


@pytest.mark.parametrize("how", ["lost", "kept", "swept"])
def test_a_lost_disk_leaves_the_whole_grant_spent(how: Literal["lost", "kept", "swept"]) -> None:
    """What its journals would have shown is gone; if they exist, only what they show counts."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=False)
    begin(ledger, "a")
    if how == "kept":
        ledger.reported("a", SpendReport(granted=requests(10), ended=True, shipped=True))
    ledger.died("a")
    ledger.leased("b", CHUNKS[0])
    whole = frozenset({"a"} if how == "swept" else ())
    ledger.reported("b", SpendReport(opened=(Opened(CHUNKS[0], requests(3), requests(3), whole=whole),)))
    assert (ledger.spent.requests, ledger.held) == (10 if how == "lost" else 3, NOTHING)


def test_a_worker_that_was_taken_for_dead_changes_nothing() -> None:
    """Even once the ledger has dropped it, because its chunk's next owner reported what the chunk had cost."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=True)
    begin(ledger, "a")
    ledger.died("a")
    late = SpendReport(granted=requests(10), spent=requests(4), opened=(Opened(CHUNKS[0], NOTHING, requests(4)),))
    assert ledger.took_for_dead("a", late)
    ledger.leased("b", CHUNKS[0])
    taken = SpendReport(opened=(Opened(CHUNKS[0], requests(3), requests(3)),))
    assert not ledger.took_for_dead("b", taken)
    ledger.reported("b", taken)
    before = ledger.document.model_dump_json()
    assert "a" not in ledger.document.workers
    assert ledger.took_for_dead("a", late)
    ledger.reported("a", late)
    assert ledger.document.model_dump_json() == before
    assert not ledger.took_for_dead("c", SpendReport(wants=requests(1), next=requests(1)))


def test_one_dead_owners_spending_is_not_mistaken_for_anothers() -> None:
    """Two in a row died with a chunk; the journal of the first is found, and the second's disk is lost."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=False)
    for name in ("a", "b"):
        begin(ledger, name, wants=5)
        ledger.died(name)
    ledger.leased("c", CHUNKS[0])
    opened = Opened(CHUNKS[0], requests(5), requests(5), whole=frozenset({"a"}))
    ledger.reported("c", SpendReport(opened=(opened,)))
    assert (ledger.spent, ledger.held) == (requests(10), NOTHING), "all that each of them may have sent"


def test_an_unreported_shard_gives_its_chunks_cost() -> None:
    """Its owner died between the seal and its report."""
    ledger = BudgetLedger(limited_to(100), BudgetDocument(), keeps_journals=True)
    begin(ledger, "a")
    ledger.died("a")
    assert ledger.held == requests(10)
    ledger.sealed(CHUNKS[0], requests(7))
    assert (ledger.spent, ledger.held) == (requests(7), NOTHING)


async def test_a_purse_pays_in_order_and_returns_what_it_cannot_use() -> None:
    """Nothing overtakes a request that waits for money; a remainder too small for it is returned."""
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


async def test_a_batch_gets_what_the_budget_allows_and_returns_the_rest() -> None:
    """Also to another worker than the one that created it: what it may cost goes with its chunk."""
    clock, chunk = ManualClock(), CHUNKS[0]
    ledger = BudgetLedger(limited_to(50), BudgetDocument(), keeps_journals=True)
    first, second = (Purse(limited_to(50), clock=clock) for _ in range(2))
    ledger.leased("first", chunk)
    turn = asyncio.ensure_future(first.reserve_some([requests(1)] * 20))
    await asyncio.sleep(0)
    ledger.reported("first", first.report())
    ledger.grant("first")
    first.accept(ledger.document.workers["first"].granted)
    assert await turn == 5, "a tenth of what is left"
    first.batch_begins(chunk, requests(5))
    ledger.reported("first", first.report([Opened(chunk, NOTHING, NOTHING, requests(5))]))
    assert (ledger.held, ledger.reserved, ledger.left.requests) == (NOTHING, requests(5), 45)
    first.let_go(chunk)
    ledger.leased("second", chunk)
    ledger.reported("second", second.report([Opened(chunk, NOTHING, NOTHING, requests(5))]))
    for _ in range(3):
        second.spend(requests(1))
    waits = asyncio.ensure_future(second.reserve(requests(1)))
    await asyncio.sleep(0)
    assert second.report([Opened(chunk, NOTHING, requests(3), requests(5))]).returned == NOTHING
    waits.cancel()
    await asyncio.sleep(0)
    second.batch_ended(chunk, requests(5))
    ledger.reported("second", second.report([Opened(chunk, NOTHING, requests(3), NOTHING)]))
    assert (ledger.spent, ledger.reserved) == (requests(3), NOTHING)
    ledger.reported("second", second.report([Opened(chunk, NOTHING, requests(3), NOTHING)]))
    assert (ledger.held, ledger.left.requests) == (NOTHING, 47)


class Batches(World):
    """The same world with batches, which belong to the worker that has their chunk."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.open: dict[ChunkId, list[int]] = {chunk: [] for chunk in CHUNKS}
        """Requests in each open batch, as the store knows."""
        self.read: set[ChunkId] = set()
        """Chunks of which the first batch's results have come, and it is still open."""
        self.purses: dict[str, Purse] = {}
        self.names: dict[ChunkId, str] = {}
        """Owners."""
        self.recovered: dict[tuple[str, ChunkId], int] = {}

    def reserved(self, chunk: ChunkId) -> int:
        """What the chunk's open batches may cost."""
        return sum(self.open[chunk])

    @property
    def committed(self) -> int:
        """Requests that were answered, and those that still may be."""
        return self.sent + sum(sum(self.open[chunk][chunk in self.read :]) for chunk in CHUNKS)

    def take(self, name: str) -> None:
        """A worker, perhaps a new one, leases all chunks that nobody has."""
        self.purses.setdefault(name, Purse(limited_to(self.limit), clock=ManualClock()))
        for chunk in CHUNKS:
            if chunk not in self.names:
                self.ledger.leased(name, chunk)
                self.store()
                self.names[chunk] = name
                self.recovered[name, chunk] = self.cost[chunk]

    def say(self, name: str, *, arrives: bool = True) -> None:
        """A report, which may get lost."""
        opened = [
            Opened(
                chunk, requests(self.recovered[name, chunk]), requests(self.cost[chunk]), requests(self.reserved(chunk))
            )
            for chunk, owner in self.names.items()
            if owner == name
        ]
        report = self.purses[name].report(opened)
        if arrives:
            self.ledger.reported(name, report)
            self.ledger.grant(name)
            self.store()
            self.purses[name].accept(self.ledger.document.workers[name].granted)

    async def create(self, name: str, chunk: ChunkId, turns: "dict[str, asyncio.Task[int]]") -> None:
        """A batch of up to five requests, once there is money for one; its worker waits meanwhile."""
        if self.names.get(chunk) != name:
            return
        purse = self.purses[name]
        turn = turns.setdefault(name, asyncio.ensure_future(purse.reserve_some([requests(1)] * 5)))
        await asyncio.sleep(0)
        if turn.done():
            self.open[chunk].append(turn.result())
            purse.batch_begins(chunk, requests(turn.result()))
            del turns[name]

    def collect(self, name: str, chunk: ChunkId, unserved: int) -> None:
        """A batch's results arrive, some of them free of charge; the next call settles them, as is safe by then."""
        if self.names.get(chunk) != name or not self.open[chunk]:
            return
        if chunk in self.read:
            self.read.remove(chunk)
            self.purses[name].batch_ended(chunk, requests(self.open[chunk].pop(0)))
        else:
            self.read.add(chunk)
            served = max(0, self.open[chunk][0] - unserved)
            self.cost[chunk] += served
            self.purses[name].spend(requests(served))

    def park(self, name: str, chunk: ChunkId) -> None:
        """The queue knows everything about the chunk when it is released."""
        if self.names.get(chunk) == name:
            self.say(name)
            self.purses[name].let_go(chunk)
            del self.names[chunk]

    def lose(self, name: str, chunk: ChunkId) -> None:
        """The lease expires, and the worker learns of it."""
        if self.names.get(chunk) == name:
            self.purses[name].lost(chunk)
            del self.names[chunk]

    def bury(self, name: str) -> None:
        """The worker is gone."""
        del self.purses[name]
        self.names = {chunk: owner for chunk, owner in self.names.items() if owner != name}
        self.ledger.died(name)


BATCH_MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["take", "say", "say", "lost", "create", "create", "create", "collect", "collect", "park", "lose", "bury"]
        ),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=80,
)


UNOPENED = [
    *[("take", 0, 0), ("create", 0, 0), ("say", 0, 0), ("create", 0, 0), ("say", 0, 0)],
    *[("collect", 0, 0), ("collect", 0, 0), ("bury", 0, 0)],
    *[("take", 0, 0), ("lose", 0, 0), ("take", 0, 0), ("say", 1, 0)],
]
"""A batch whose cost was not reported, and then a worker that leased its chunk, lives, and never opened it."""


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(5, 60), moves=BATCH_MOVES)
@example(limit=50, moves=UNOPENED)
def test_no_order_of_crashes_overspends_on_batches(limit: int, moves: list[tuple[str, int, int]]) -> None:
    """What was answered and what open batches may cost never exceed the budget, and nothing is forgotten in the end."""

    async def live() -> None:
        world, turns, count = Batches(limit), dict[str, asyncio.Task[int]](), 0
        for move, who, which in moves:
            names, chunk = list(world.purses), CHUNKS[which]
            if move == "take" or not names:
                count += 1
                world.take(f"w{count}" if who == 0 or not names else names[who % len(names)])
                continue
            name = names[who % len(names)]
            match move:
                case "say" | "lost":
                    world.say(name, arrives=move == "say")
                case "create":
                    await world.create(name, chunk, turns)
                case "collect":
                    world.collect(name, chunk, who)
                case "park":
                    world.park(name, chunk)
                case "lose":
                    world.lose(name, chunk)
                case "bury":
                    turns.pop(name, None)
                    world.bury(name)
            ledger = world.ledger
            assert world.committed <= limit
            assert world.committed <= (ledger.spent + ledger.held + ledger.reserved).requests
        for name in list(world.purses):
            world.bury(name)
        world.take("last")
        world.say("last")
        ledger = world.ledger
        assert ledger.reserved.requests == sum(map(world.reserved, CHUNKS))
        if "lose" not in [move for move, _, _ in moves]:  # else a whole grant may count as spent
            assert ledger.spent.requests == world.sent

    asyncio.run(live())
