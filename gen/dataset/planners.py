"""Plan a run's generations step by step: one planner each for `run`, `run --finish` and `retry`."""

from collections.abc import Callable, Sequence

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.generations import Generation, GenerationReader
from stillhouse.gen.dataset.more_planning import more_plan
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.planning import Step, Wait
from stillhouse.gen.dataset.plans import RetryPlan, SourcePlan, store_plan
from stillhouse.gen.dataset.retry_planning import retry_plan, unpaid_plan
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.arrivals import Arrivals
from stillhouse.gen.store.base import Store
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import SCHEMA_VERSION


class SourcePlanner:
    """For `run`: finishes open generations, then plans new source rows, what there was no money for, and more samples.

    New rows can only be planned once earlier generations are indexed, because prompts that they ask are duplicates. A
    resumed pilot is finished and does not grow; a resumed retry generation does not block a pilot. A planner that
    follows its source plans files as they arrive, until the run ends.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        *,
        limit: int | None = None,
        preflight: Callable[[Sequence[Prompt]], None] = lambda prompts: None,
        has_money: bool = True,
        arrivals: Arrivals | None = None,
    ) -> None:
        """Args: store: the dataset's store. recipe: the recipe to run. limit: a pilot: plan at most this many source
        rows. preflight: raises if the first prompts of a source don't fit the recipe. has_money: False if the budget is
        used up, so that what it had no money for is not asked again. arrivals: the source's files, if the run follows
        it.
        """
        self.generations: list[Generation] = []
        self._reader = GenerationReader(store)
        self._store = store
        self._recipe = recipe
        self._limit = limit
        self._preflight = preflight
        self._resumed: bool | None = None
        """True if a generation of source rows was open at the start."""
        self._rows_planned = False
        self._may_ask_again = has_money
        self._arrivals = arrivals

    def step(self) -> Step:
        """See `Planner`.

        Raises:
            SourceError, DatasetError: see `next_plan`, `store_plan`, `read_generations` and `PlannedFiles.check`.
        """
        self.generations = generations = self._reader.read()
        sources = [each for each in generations if isinstance(each.plan, SourcePlan)]
        if self._resumed is None:
            self._resumed = any(not each.is_sealed for each in sources)
        if not self._rows_planned:
            if not all(each.is_indexed for each in sources):
                return Wait("indexed")
            self._rows_planned = self._arrivals is None
            if (fresh := self._fresh(generations)) is not None:
                store_plan(self._store, fresh)
                return fresh
        if not all(each.is_sealed for each in generations):
            return Wait("sealed")
        if self._may_ask_again:
            self._may_ask_again = False
            plans = [each.plan for each in generations]
            if (again := unpaid_plan(self._store, self._recipe, plans)) is not None:
                store_plan(self._store, again)
                return again
        ask = self._recipe.ask
        more = more_plan([each.plan for each in generations], samples=ask.most_samples, accept=ask.accept or 0)
        if more is not None:
            PlannedFiles(self._recipe).check(more.files)
            store_plan(self._store, more)
            return more
        return None if self._arrivals is None else Wait("files")

    def _fresh(self, generations: Sequence[Generation]) -> SourcePlan | None:
        """The next generation of source rows, if there is one to plan now."""
        if self._resumed and self._limit is not None:
            return None
        arrived = None if self._arrivals is None else self._arrivals.take()
        if arrived == []:
            return None
        try:
            return next_plan(
                self._recipe,
                generations,
                limit=self._limit,
                version=self._version(),
                preflight=self._preflight,
                arrived=arrived,
            )
        except SourceError:
            if self._arrivals is not None and self._arrivals.take_back():
                return None  # a file was removed, renamed or written to since it was listed
            raise

    def _version(self) -> int:
        bound = read_binding(self._store)
        return SCHEMA_VERSION if bound is None else bound.version


class FinishPlanner:
    """For `run --finish`: plans nothing, so the open generations are the last ones."""

    def __init__(self, store: Store) -> None:
        self.generations: list[Generation] = []
        self._reader = GenerationReader(store)
        self._store = store

    def step(self) -> Step:
        """See `Planner`.

        Raises:
            UsageError: there is nothing to finish.
            DatasetError: see `read_generations`.
        """
        self.generations = self._reader.read()
        if not self.generations:
            raise UsageError(
                f"{self._store.url}: nothing has been asked yet, so there is nothing to finish; leave out --finish"
            )
        return None if all(each.is_sealed for each in self.generations) else Wait("sealed")


class RetryPlanner:
    """For `retry`: finishes an open retry generation, then plans one for the Failures of these kinds.

    Failures in a resumed generation wait for the next call, unless it did not ask their kind.
    """

    def __init__(self, store: Store, recipe: Recipe, *, kinds: Sequence[str]) -> None:
        self.generations: list[Generation] = []
        self._reader = GenerationReader(store)
        self._store = store
        self._recipe = recipe
        self._kinds = tuple(kinds)
        self._is_done = False

    def step(self) -> Step:
        """See `Planner`.

        Raises:
            UsageError: a generation of source rows is not sealed: finish the run first.
            SourceError, DatasetError: see `retry_plan`, `store_plan` and `read_generations`.
        """
        self.generations = generations = self._reader.read()
        unsealed = [each.plan for each in generations if not each.is_sealed]
        if not generations or not all(isinstance(plan, RetryPlan) for plan in unsealed):
            raise UsageError(
                f"{self._store.url}: some of its prompts have not been asked yet; finish the run first: stillhouse run "
                "RECIPE"
            )
        self._is_done = self._is_done or any(
            isinstance(plan, RetryPlan) and plan.kinds == self._kinds for plan in unsealed
        )
        if unsealed:
            return Wait("sealed")
        if self._is_done:
            return None
        self._is_done = True
        fresh = retry_plan(self._store, self._recipe, [each.plan for each in generations], kinds=self._kinds)
        if fresh is not None:
            store_plan(self._store, fresh)
        return fresh
