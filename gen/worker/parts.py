"""Creates the parts of a worker that its recipe needs, and connects them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stillhouse.gen.checks.chunk_function import ChunkFunction
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.slots import Slots
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.messages import LimitLedger, Queue
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.assigner import ONLINE, Assigner
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.expense import limits_of
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.prices import asked_by
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.asker import Asker
from stillhouse.gen.worker.chain import Chain
from stillhouse.gen.worker.checking import Checker, Intake, Judging
from stillhouse.gen.worker.chunk_checking import ChunkChecker
from stillhouse.gen.worker.descriptors import free_for_connections
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.judge_of import judges_of
from stillhouse.gen.worker.judges import Judges, LetPass
from stillhouse.gen.worker.lanes.base import Gate
from stillhouse.gen.worker.leased_chunk import Hands
from stillhouse.gen.worker.leased_chunks import LeasedChunks
from stillhouse.gen.worker.purse import Purse
from stillhouse.gen.worker.settlement_counter import SettlementCounter
from stillhouse.gen.worker.suspicion import Suspicion
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.gen.worker.voting import Voting
from stillhouse.schemas.checks import Check, whole_chunks
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Parts:
    """Each part knows those above it, and none below."""

    name: str
    """The worker's name."""
    queue: Queue
    ledgers: Mapping[str, LimitLedger]
    clock: Clock
    chunks: LeasedChunks
    counters: Counters
    tasks: Tasks
    fence: Fence
    purse: Purse
    gate: Gate
    accounts: Mapping[str, Account]
    clients: list[TeacherClient]
    judges: Judges | None
    hands: Hands
    suspicion: Suspicion
    chain: Chain | None
    settlements: SettlementCounter
    asker: Asker
    judging: Judging | None
    """What judges answers by the recipe's checks."""
    checker: Checker | ChunkChecker | None
    voting: Voting | None

    @property
    def all_clients(self) -> list[TeacherClient]:
        """All clients, including those of judges and those that ask online what batches left."""
        online = [client.online for client in self.clients if client.online is not None]
        return [*self.clients, *online, *(self.judges.clients if self.judges is not None else ())]

    @classmethod
    def of(
        cls,
        name: str,
        recipe: Recipe,
        *,
        store: Store,
        queue: Queue,
        ledgers: Mapping[str, LimitLedger],
        transport: Transport,
        judging: Judging | None,
        clock: Clock,
    ) -> Self:
        """See `Worker`."""
        counters, tasks = Counters(), Tasks(name)
        fence = Fence(clock, ship_every_s=recipe.run.ship_every_s)
        purse = Purse(None if recipe.budget is None else limits_of(recipe.budget), clock=clock)
        gate = Gate(tasks, fence, purse)
        by_key = {key: Account(clock) for key in ledgers}
        clients = _clients(recipe, by_key, transport=transport, clock=clock)
        asked = judges_of(recipe)
        judges = Judges(tasks, asked, accounts=by_key, transport=transport, clock=clock) if asked else None
        teacher_of = Assigner(
            [client.interpreter for client in clients],
            is_chain=recipe.route == "fallback",
            online={place: each.online.interpreter for place, each in enumerate(clients) if each.online is not None},
        )
        hands = Hands(name, recipe=recipe, store=store, teacher_of=teacher_of, clock=clock, judges=asked)
        suspicion = Suspicion(
            tasks,
            gate,
            places={(client.teacher.name, host) for client in clients for host in client.hosts},
            has_records=lambda key: hands.has_records(teacher=key[0], endpoint=key[1]),
        )
        chain = _chain(recipe, tasks, clients, suspicion, hands, clock=clock) if recipe.route == "fallback" else None
        settlements = SettlementCounter(tasks, suspicion, chain=chain, judges=judges)
        asker = Asker(
            tasks,
            clients=clients,
            gate=gate,
            listener=settlements,
            counters=counters,
            clock=clock,
            store=store,
            keep_going=recipe.run.keep_going,
            connections=free_for_connections(),
            chain=chain,
            judges=judges,
        )
        judging = _judging(recipe) if judging is None else judging
        checker = voting = None
        if judging is not None and recipe.all_checks:
            checker = _checker(recipe, tasks, judging, judges, counters=counters, clock=clock)
        if judging is not None and recipe.equality:
            voting = Voting(tasks, hands, judging, recipe.equality)
        return cls(
            name, queue, ledgers, clock, LeasedChunks(), counters, tasks, fence, purse, gate, by_key, clients, judges,
            hands, suspicion, chain, settlements, asker, judging, checker, voting,
        )  # fmt: skip


def _clients(
    recipe: Recipe, accounts: Mapping[str, Account], *, transport: Transport, clock: Clock
) -> list[TeacherClient]:
    """A client for each teacher that answers, in the recipe's order."""

    def client(teacher: Teacher, place: int) -> TeacherClient:
        account = accounts[teacher.limits_key]
        return TeacherClient(
            Interpreter(teacher, recipe.ask, place=place), transport=transport, account=account, clock=clock
        )

    clients = [client(teacher, place) for place, teacher in enumerate(recipe.answering)]
    for place, each in enumerate(clients):
        if each.teacher.mode == "batch-then-online":
            each.online = client(asked_by(each.teacher, "online"), ONLINE + place)
    return clients


def _chain(
    recipe: Recipe, tasks: Tasks, clients: list[TeacherClient], suspicion: Suspicion, hands: Hands, *, clock: Clock
) -> Chain:
    return Chain(
        tasks,
        clients,
        given_up_on=suspicion.given_up_on,
        give_up_after_s=recipe.run.give_up_after_s,
        answered_before=lambda teacher: hands.has_records(teacher=teacher),
        clock=clock,
    )


def _judging(recipe: Recipe) -> Judging | None:
    """Judges answers by the recipe's checks, except judges; None if there is nothing to judge."""
    checks, equality = recipe.all_checks, recipe.equality
    if not checks and equality is None:
        return None
    if equality is None and all(isinstance(check, Check) and check.judge is not None for check in checks):
        return LetPass(len(checks))
    return CheckPool(checks, equality=equality, slots=Slots.of_node())


def _checker(
    recipe: Recipe, tasks: Tasks, judging: Judging, judges: Judges | None, *, counters: Counters, clock: Clock
) -> Checker | ChunkChecker:
    checks = recipe.all_checks
    intake = Intake(tasks, checks, counters=counters, clock=clock, keep_going=recipe.run.keep_going)
    if (settings := whole_chunks(checks)) is None:
        return Checker(tasks, judging, intake, judges=judges)
    return ChunkChecker(tasks, judging, intake, function=ChunkFunction(settings))
