"""One world: a run, its teacher, its store and its nemesis, from the first prompt to a complete dataset.

The run is started again whenever it ends unfinished, as its user would; in the end nothing goes wrong, and what
is stored then is compared with what really happened.
"""

import asyncio
import contextvars
import math
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from first_journals import in_first_format

import stillhouse.cluster.actors.prompt_queue
import stillhouse.gen.dataset.batch_intents
import stillhouse.gen.dataset.parked_chunks
import stillhouse.gen.journal.shipping
import stillhouse.gen.worker.leased_chunk
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.budget_file import begin_budget
from stillhouse.gen.dataset.budget_rules import why_no_money
from stillhouse.gen.dataset.layout import JOURNAL_PREFIX
from stillhouse.gen.dataset.planners import RetryPlanner, SourcePlanner
from stillhouse.gen.dataset.planning import Planner
from stillhouse.gen.dataset.tidying import tidy
from stillhouse.gen.errors import BudgetSpent, Paused, StillhouseError
from stillhouse.gen.views.summary import summarise
from stillhouse.schemas.budget import Budget

from .checks import check_stored
from .crew import Crew
from .history import Broken, History
from .journals import journal_class
from .judging import VirtualJudging
from .locks import InTurn, TurnLock
from .loop import VirtualLoop
from .nemesis import Nemesis
from .processes import Node, Processes, Tenure
from .run_locks import held_lock
from .services import Services, VirtualClock
from .spec import Spec
from .stores import Bucket, Disk, Weather, Wire, scratch_folder
from .teacher import Teacher

RETRIED = ("overload", "ambiguous", "malformed", "poison", "unchecked", "expired")
MOST_RUNS = 60
MOST_STEPS = 2_000_000
MOST_S = 50_000.0
"""A run that takes longer, in virtual seconds, hangs."""
CALM_AT_S = 10_000.0
"""From this moment only the teacher fails: no run has to end while its store keeps failing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened in a world."""

    requests: int
    steps: int
    seconds: float
    """Virtual."""
    runs: int
    lost: int
    """Kept answers that were asked again because they went with a disk, or two workers had one chunk."""
    blows: Counter[str]
    aged: int
    """Journals and segments that were left in STILLJ01."""
    moved: int
    """Requests that went to another teacher of a chain than the first."""
    batches: int
    """Batches that were created at the provider."""


class World:
    """See the module."""

    def __init__(
        self, seed: int, root: Path, *, spec: Spec | None = None, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """`spec`: what it is like, where not drawn from the seed."""
        random.seed(seed)  # for the jitter of retries
        rng = self._rng = random.Random(seed)
        self.spec = spec = spec or Spec.drawn(rng)
        self._root = root
        self._note = note
        self._nemesis = nemesis = Nemesis(rng, strikes=spec.strikes, note=self._say)
        processes = Processes(step=nemesis.step)
        self._loop = loop = VirtualLoop(rng if spec.shuffles else None, admit=self._admit)
        loop.set_task_factory(processes.task_factory)
        loop.set_exception_handler(lambda loop, context: None)  # the dead leave errors that nobody asks for
        processes.loop = loop
        history = History(loop, processes, ship_every_s=spec.ship_every_s, ships=not spec.local, note=self._say)
        # Of two runs one takes over what the other had: for a while two workers have one chunk.
        history.upheaval = spec.rival_after_s is not None
        self._weather = Weather(spec.fault_share, spec.slow_share)
        wire = Wire(rng, loop, history, self._weather, nemesis.point)
        recipe = spec.recipe(root)
        (root / "scratch").mkdir()
        clock = VirtualClock(loop)
        store = (
            Disk(Path(recipe.dataset.path), wire)
            if spec.local
            else Bucket(wire, history, root / "scratch", clock, ages=self._ages)
        )
        head = Node("head", root / "head")
        nodes = [Node(f"node-{n}", root / f"node-{n}", can_be_lost=not spec.local) for n in range(spec.nodes)]
        nemesis.loop, nemesis.processes, nemesis.history = loop, processes, history
        nemesis.weather, nemesis.nodes = self._weather, nodes
        self.teacher = Teacher(
            rng,
            loop,
            history,
            weights=spec.weights,
            latency_s=spec.latency_s,
            in_flight=spec.in_flight,
            point=nemesis.point,
            outages=spec.outages,
            loading=spec.loading,
            batch_troubles=spec.batch_troubles,
        )
        self.teacher.accept = spec.accept
        self.services = Services(
            rng=rng,
            loop=loop,
            clock=clock,
            processes=processes,
            history=history,
            store=store,
            transport=self.teacher,
            recipe=recipe,
            head=head,
            nodes=nodes,
            workers=spec.workers,
            loss_share=spec.loss_share,
            judging=VirtualJudging(recipe, rng, takes_s=spec.check_s) if recipe.checks or recipe.select else None,
        )
        self.rival: Services | None = None
        """Another cluster, which runs the same recipe on the same dataset."""
        if spec.rival_after_s is not None:
            far = Node("far-node-0", root / "far-node-0", can_be_lost=True, cluster=1)
            self.rival = replace(self.services, head=Node("far-head", root / "far-head", cluster=1), nodes=[far])
            nemesis.nodes = [*nodes, far]
        self._runs = self._aged = 0

    def part(self, *lost: str, at: float, for_s: float, driver: bool = True, node: str = "") -> None:
        """Cut the first cluster's workers (of that node), and its driver, from queue, limiter or store, at a moment."""
        kinds = ("driver", "worker") if driver else ("worker",)

        def cut() -> None:
            for each in self.services.nodes:
                if each.name.startswith(node):
                    each.cut_from |= dict.fromkeys(lost, at + for_s)
            for process in self.services.processes.all:
                if process.node.cluster == 0 and process.kind in kinds and process.node.name.startswith(node):
                    process.cut_from |= dict.fromkeys(lost, at + for_s)
                    process.disturbed |= "queue" in lost
            self.services.history.message_lost |= "limiter" in lost
            self.services.history.store_lost |= "store" in lost

        self.at(at, cut)

    def at(self, moment: float, do: Callable[[], None]) -> None:
        """Do something at a moment, outside of all processes."""
        self._loop.call_at(moment, do, context=contextvars.Context())

    def run(self) -> Figures:
        """Live it.

        Raises:
            AssertionError: a promise is broken.
        """
        with self._patched(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a dying process leaves coroutines that nobody awaits
            try:
                self._loop.run_until_complete(self._live())
            finally:
                self._end()
        history = self.services.history
        if history.broken:
            raise history.broken[0]
        return Figures(
            requests=len(history.requests),
            steps=self._loop.steps,
            seconds=self._loop.time(),
            runs=self._runs,
            lost=len(history.lost),
            blows=self._nemesis.blows,
            aged=self._aged,
            batches=self.teacher.provider.created,
            moved=sum(self.spec.route == "fallback" and each.teacher != "t0" for each in history.requests),
        )

    async def _live(self) -> None:
        spec, rng = self.spec, self._rng
        self.at(CALM_AT_S, self._rest)
        self._set_breaking(spec.check_breaks)
        self.services.history.budget = self.services.recipe.budget
        prompts = spec.write_source(rng, self._root, name="a.jsonl", start=0, count=spec.prompts)
        if spec.pilot is not None:
            await self._begin(
                lambda has_money: SourcePlanner(
                    self.services.store, self.services.recipe, limit=spec.pilot, has_money=has_money
                )
            )
        if not spec.together:
            await self._until_done(self._run_planner)
        if spec.later_prompts:
            prompts |= spec.write_source(
                rng, self._root, name="b.jsonl", start=spec.prompts - 1, count=spec.later_prompts
            )
        self._grow()
        async with asyncio.TaskGroup() as group:
            if spec.rival_after_s is not None:
                group.create_task(self._until_done(self._run_planner, rival_after_s=spec.rival_after_s))
            await self._until_done(self._run_planner)
        self._set_breaking(False)
        if spec.retries:
            await self._until_done(self._retry_planner)
        self._rest()
        await self._until_done(self._run_planner)
        check_stored(self.services, prompts)
        sent = len(self.services.history.requests)
        await self._until_done(self._run_planner)
        if len(self.services.history.requests) != sent:
            raise Broken("a finished run sends requests")

    def _grow(self) -> None:
        """Want more samples."""
        recipe = self.services.recipe
        ask = recipe.ask.model_copy(update=self.spec.wanted(grown=True))
        self.teacher.accept = ask.accept or 0
        for services in (self.services, self.rival):
            if services is not None:
                services.recipe = recipe.model_copy(update={"ask": ask})

    def _set_breaking(self, breaks: bool) -> None:
        """Have the check judge all answers, or not."""
        if self.services.judging is not None:
            self.services.judging.breaks = breaks

    def _raise_budget(self) -> None:
        """Want to spend more, as a user does whose budget is used up."""
        budget = self.services.history.budget
        assert budget is not None
        limits = {name: 3 * limit for name, limit in budget.model_dump(exclude_none=True).items()}
        raised = Budget(usd=limits.get("usd"), requests=math.ceil(limits["requests"]) if "requests" in limits else None)
        self.services.history.budget = raised
        for services in filter(None, (self.services, self.rival)):
            services.recipe = services.recipe.model_copy(update={"budget": raised})

    async def _begin(self, planner: Callable[[bool], Planner]) -> None:
        """A run that is killed after a while, if it is not done before."""
        services = self.services
        process, task = services.processes.spawn("driver", services.head, lambda _: self._drive(services, planner))
        done, _ = await asyncio.wait([task], timeout=self.spec.pilot_s)
        if not done:
            self.services.history.upheaval = True  # its workers live on for a while, as of any driver that is killed
            self.services.processes.kill(process)
            await asyncio.wait([task])
        elif process.dead_at is None:
            self.services.processes.retire(process)

    def _run_planner(self, has_money: bool) -> Planner:
        return SourcePlanner(self.services.store, self.services.recipe, has_money=has_money)

    def _retry_planner(self, has_money: bool) -> Planner:
        return RetryPlanner(self.services.store, self.services.recipe, kinds=RETRIED)

    async def _until_done(self, planner: Callable[[bool], Planner], *, rival_after_s: float | None = None) -> None:
        """Run until a run reports that it is done; if given, on the other cluster after this time."""
        services = self.services
        if rival_after_s is not None and self.rival is not None:
            services = self.rival
            await asyncio.sleep(rival_after_s)
        while True:
            self._runs += 1
            if self._runs > MOST_RUNS:
                raise Broken(f"not done after {MOST_RUNS} runs")
            if self._runs > MOST_RUNS // 2:
                self._rest()
            process, task = services.processes.spawn("driver", services.head, lambda _: self._drive(services, planner))
            await asyncio.wait([task])
            if process.dead_at is None:
                services.processes.retire(process)
                if task.result() == "done":
                    return
                if task.result() == "spent":
                    self.services.history.judge_end()
                    self._raise_budget()
            await asyncio.sleep(self._rng.choice((0.1, 3.0, 20.0)))

    async def _drive(self, services: Services, planner: Callable[[bool], Planner]) -> str:
        try:
            async with held_lock(services, waiting=self._say) as lock:
                bind(services.store, services.recipe)
                recipe, no_money = services.recipe, None
                if recipe.budget is not None:
                    no_money = why_no_money(recipe, recipe.budget, begin_budget(services.store))
                crew = Crew(services, planner(no_money is None), tenure=Tenure())
                if no_money is not None and (crew.has_work or summarise(services.store).unpaid):
                    raise BudgetSpent(no_money)  # noqa: TRY301 - as the driver does
                async with lock.followed_by(crew):
                    await crew.work()
                tidy(services.store)
        except BudgetSpent as error:
            self._say(str(error))
            return "spent"
        except Paused as error:
            self._say(f"paused: {error}")
            return "paused"
        except StillhouseError as error:
            self._say(f"failed: {error}")
            if "failed alike" not in str(error):
                raise
            return "failed"
        return "done"

    def _rest(self) -> None:
        """Stop all faults, except at the teacher."""
        self._nemesis.rest()
        self._weather.fault_share = self._weather.slow_share = self._weather.away_until = 0.0
        self.services.loss_share = 0.0

    def _admit(self, handle: asyncio.Handle) -> bool:
        if self._loop.steps > MOST_STEPS or self._loop.time() > MOST_S:
            self._loop.run_soon([handle])  # what waits for it can then end, once everything is killed
            raise Broken(f"it never ends: {self._loop.steps} steps, {self._loop.time():.0f} s")
        return self.services.processes.admit(handle)

    def _say(self, words: str) -> None:
        self._note(f"{self._loop.time():9.3f}  {words}")

    @contextmanager
    def _patched(self) -> Iterator[None]:
        services = self.services
        journal = journal_class(
            self._loop,
            services.history,
            point=self._nemesis.point,
            torn=self._nemesis.torn,
            kill=services.processes.kill,
            segments=self._segments,
            ages=self._ages,
        )
        locks = mock.Mock(Lock=lambda: TurnLock(self._loop))
        with (
            mock.patch.object(stillhouse.gen.worker.leased_chunk, "JournalFile", journal),
            mock.patch.object(stillhouse.gen.journal.shipping, "threading", locks),
            mock.patch.object(stillhouse.cluster.actors.prompt_queue, "threading", locks),
            mock.patch.object(stillhouse.gen.dataset.batch_intents, "ThreadPoolExecutor", InTurn),
            mock.patch.object(stillhouse.gen.dataset.parked_chunks, "ThreadPoolExecutor", InTurn),
        ):
            yield

    def _ages(self, data: bytes) -> bytes:
        """A journal's bytes as an older version would have left them, or as they are."""
        if self._rng.random() >= self.spec.first_format_share:
            return data
        self._aged += 1
        return in_first_format(data)

    def _segments(self, chunk: str) -> Iterator[str]:
        if isinstance(self.services.store, Bucket):
            yield from (stat.key for stat in self.services.store.listing(f"{JOURNAL_PREFIX}{chunk}/"))

    def _end(self) -> None:
        """End everything that belongs to the run."""
        self._nemesis.rest()
        self._loop.set_admit(lambda handle: True)
        for process in self.services.processes.all:
            self.services.processes.kill(process)
        self._loop.run_until_complete(self._emptied())
        self._loop.close()

    async def _emptied(self) -> None:
        while self._loop.lanes or any(process.tasks for process in self.services.processes.all):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(10.0)


def simulate(seed: int, *, note: Callable[[str], None] = lambda _: None) -> Figures:
    """Run the seed's world.

    Raises:
        Broken: a promise is broken, or anything else went wrong; its cause is the first of what did.
    """
    root = scratch_folder()
    try:
        return World(seed, root, note=note).run()
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, KeyboardInterrupt):
            raise
        raise Broken(f"{type(first).__name__}: {first}") from first
    finally:
        shutil.rmtree(root, ignore_errors=True)
