"""A whole run in one process: the real worker, queue, limiter, transport and simulator in one event loop, without Ray.

It does what `cluster.driver` does with actors. Cancelling it is a crash that leaves everything as it was on disk.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from functools import partial

from stillhouse.cluster.actors.prompt_queue import PromptQueue
from stillhouse.cluster.actors.rate_limiter import RateLimiter
from stillhouse.gen import simulator
from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.clock import SYSTEM, Clock
from stillhouse.gen.coordination.messages import End
from stillhouse.gen.coordination.silence import Silence
from stillhouse.gen.dataset.batch_rules import at_provider_line, check_batches, check_none_open, check_still_batched
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.budget_file import begin_budget
from stillhouse.gen.dataset.budget_rules import check_budget, why_no_money
from stillhouse.gen.dataset.budget_words import over_line
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.planners import FinishPlanner, RetryPlanner, SourcePlanner
from stillhouse.gen.dataset.planning import Planner, Planning, first_planning
from stillhouse.gen.dataset.run_lock import read_holder
from stillhouse.gen.dataset.tidying import tidy
from stillhouse.gen.errors import AtProvider, BudgetSpent, Paused, StillhouseError, UsageError
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.transport import DownloadingTransport
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

_ERRORS: dict[str, type[StillhouseError]] = {
    "unusable": UsageError,
    "away": Paused,
    "paused": Paused,
    "failed": StillhouseError,
}


def _patient() -> HttpTransport:
    """A transport that gives each connection a minute. On a busy machine this loop may stand still for 10 s; pending
    connections would then time out, and the retries would count as requests."""
    return HttpTransport(connect_timeout_s=60.0)


async def run_in_process(
    recipe: Recipe,
    *,
    workers: int = 1,
    limit: int | None = None,
    retry: Sequence[str] | None = None,
    finish: bool = False,
    crew: Callable[[Sequence[Worker]], None] | None = None,
    clock: Clock = SYSTEM,
    no_wait: bool = False,
    transport: Callable[[], DownloadingTransport] = _patient,
    stored: Callable[[Store], Store] = lambda store: store,
) -> Summary:
    """Run the recipe until every source row is settled, as `cluster.driver.run` does; its Summary.

    Simulators without `endpoints` are served in this loop (give `endpoints` by model_copy to keep one over several
    runs). `retry`: ask its kinds of Failures again, as `stillhouse retry` does; `finish`: as `run --finish`. `crew` is
    called with the workers before they start, for tests that stop them. `clock`: the machine's, as the workers read it.
    `transport`: makes what they send with; `stored`: what they see of the dataset's store.

    Raises:
        StillhouseError: what stopped a worker, of the class that has its exit code; Paused also where one was stopped.
    """
    started = time.monotonic()
    store = open_dataset(recipe)
    store.probe()
    begun = partial(why_begun, store, recipe.run, last=read_holder(store))
    recipe = bind(store, recipe, begun=begun)
    requests = retries = 0
    with _threads():
        async with AsyncExitStack() as stack:
            check_budget(recipe)
            check_batches(recipe)
            check_still_batched(recipe, store)
            if finish:
                check_none_open(store)
            budget = None if finish else recipe.budget
            no_money = None if budget is None else why_no_money(recipe, budget, begin_budget(store))

            def preflight(prompts: Sequence[Prompt]) -> None:
                check_references(recipe, prompts)
                check_budget(recipe, prompts)

            def planner() -> Planner:
                if finish:
                    return FinishPlanner(store)
                if retry is not None:
                    return RetryPlanner(store, recipe, kinds=retry)
                return SourcePlanner(store, recipe, limit=limit, preflight=preflight, has_money=no_money is None)

            planning = first_planning(store, recipe, planner, begun=begun)
            if no_money is not None and (planning.opened or summarise(store).unpaid):
                raise BudgetSpent(no_money)
            if planning.opened:
                ready = await _with_simulators(recipe, stack)
                crew_now = await _Crew.start(
                    stored(store),
                    ready,
                    planning,
                    workers=workers,
                    stack=stack,
                    clock=clock,
                    finish=finish,
                    transport=transport(),
                )
                crew_now.no_wait = no_wait
                if crew is not None:
                    crew(crew_now.workers)
                try:
                    await crew_now.work()
                finally:
                    requests = sum(worker.counters.requests for worker in crew_now.workers)
                    retries = sum(worker.counters.retries for worker in crew_now.workers)
    tidy(store)
    update = {"requests": requests, "retries": retries, "seconds": round(time.monotonic() - started, 3)}
    return summarise(store).model_copy(update=update)


class _Crew:
    """A run's queue and workers."""

    queue: PromptQueue
    no_wait: bool = False
    _store: Store

    def __init__(self, planning: Planning, workers: list[Worker], silence: Silence, *, budget: Budget | None) -> None:
        self._budget = budget
        self._planning = planning
        self._silence = silence
        self._given_up: Paused | None = None
        self.workers = workers

    @classmethod
    async def start(
        cls,
        store: Store,
        recipe: Recipe,
        planning: Planning,
        *,
        workers: int,
        stack: AsyncExitStack,
        clock: Clock,
        finish: bool,
        transport: DownloadingTransport,
    ) -> "_Crew":
        queue = await asyncio.to_thread(PromptQueue, recipe, workers=workers, finish=finish)
        ledgers = {teacher.limits_key: RateLimiter(teacher.limits) for teacher in recipe.teachers}
        stack.push_async_callback(transport.close)
        hands = [
            Worker(
                f"worker-{number}-{secrets.token_hex(3)}",
                recipe=recipe,
                store=store,
                queue=queue,
                ledgers=ledgers,
                transport=transport,
                clock=clock,
            )
            for number in range(workers)
        ]
        silence = Silence(
            give_up_after_s=recipe.run.give_up_after_s,
            is_chain=recipe.route == "fallback",
            judges=[teacher.name for teacher in recipe.teachers if teacher.role == "judge"],
        )
        crew = cls(planning, hands, silence, budget=recipe.budget)
        crew.queue, crew._store = queue, store
        return crew

    async def work(self) -> None:
        """Until all workers have ended; then raise what stopped them, if anything did."""
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(worker.run()) for worker in self.workers]
            watch = group.create_task(self._watch(runs))
            await asyncio.wait(runs)
            watch.cancel()
        stats = await self.queue.stats()
        if stats.error is not None:
            raise UsageError(stats.error) if stats.exit_code == 2 else Paused(stats.error)
        if self._given_up is not None:
            raise self._given_up
        for end in (run.result() for run in runs):
            if end.kind in _ERRORS:
                raise _ERRORS[end.kind](end.message)
        if self.no_wait and not stats.finished:
            raise AtProvider(at_provider_line(self._store))
        if not stats.finished:
            raise Paused("stopped")
        if self._budget is not None and stats.budget is not None and stats.budget.unpayable is not None:
            raise BudgetSpent(over_line(self._budget, stats.budget.spent, stats.budget.unpayable))

    async def _watch(self, runs: list["asyncio.Task[End]"]) -> None:
        """Stop all workers when one has failed or the source can't be read on, as the driver does."""
        while True:
            await asyncio.sleep(0.05)
            await self._plan_on()
            failed = any(run.done() and not run.cancelled() and run.result().kind != "done" for run in runs)
            stats = await self.queue.stats()
            _, self._given_up = self._silence.look(stats.teachers, now=time.monotonic())
            rests = self.no_wait and stats.rests
            if failed or rests or self._given_up is not None or stats.error is not None:
                await self.queue.stop()
                for worker in self.workers:
                    worker.stop()
                return

    async def _plan_on(self) -> None:
        """Plan on once what has to happen first did, as the driver does."""
        stats, planning = await self.queue.stats(), self._planning
        if stats.budget is not None and stats.budget.unpayable is not None:
            return
        due = planning.due(known=stats.known, last=stats.last, indexed=stats.planned, sealed=stats.all_sealed)
        if due == "tell":
            await self.queue.planned(last=planning.is_over)
        elif due == "advance":
            planning.advance()


async def _with_simulators(recipe: Recipe, stack: AsyncExitStack) -> Recipe:
    teachers = []
    for teacher in recipe.teachers:
        if teacher.api == "simulator" and not teacher.endpoints:
            server = await stack.enter_async_context(await simulator.serve(teacher.simulator or SimulatorSettings()))
            teacher = teacher.model_copy(update={"endpoints": (server.url,)})
        teachers.append(teacher)
    return recipe.model_copy(update={"teachers": tuple(teachers)})


@contextmanager
def _threads() -> Iterator[None]:
    """Threads of this run only, which end with it: nothing of a cancelled run continues after its end."""
    executor = ThreadPoolExecutor(8)
    asyncio.get_running_loop().set_default_executor(executor)
    try:
        yield
    finally:
        executor.shutdown(wait=True)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8))
