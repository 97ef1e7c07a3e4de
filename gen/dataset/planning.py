"""Decides what the next generation is and when it can be planned."""

import io
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Literal, Protocol, TypeAlias, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.dataset.binding import Begun, is_planned, read_binding, unplan
from stillhouse.gen.dataset.generations import Generation, GenerationReader
from stillhouse.gen.dataset.index import End
from stillhouse.gen.dataset.layout import plan_key
from stillhouse.gen.dataset.more_planning import more_plan
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.plans import Plan, PlannedFile, RetryPlan, SourcePlan, frozen_columns, store_plan
from stillhouse.gen.dataset.recipe_faults import no_prompt, no_such_column, placed
from stillhouse.gen.dataset.retry_planning import retry_plan, unpaid_plan
from stillhouse.gen.dataset.upstream import inherited
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.arrivals import Arrivals
from stillhouse.gen.source.files import START_OF_FILE, Row, SourceFile, kept_fields, read_rows
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.store.base import Store
from stillhouse.schemas.arrow import SCHEMA_VERSION, columns_of
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe

_FIRST_ROWS = 300

SOURCE_ANSWER = "source_answer"
"""Holds the turns that `source.answer: drop` leaves out of the prompt."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be planned until all open generations are fully indexed, or fully sealed, or files arrive."""

    until: Literal["indexed", "sealed", "files"]


Step: TypeAlias = Plan | Wait | None
"""A plan just stored; what to wait for; or None if nothing more will be planned."""


class Planner(Protocol):
    """Plans a run's generations step by step, while workers are busy with open generations."""

    generations: list[Generation]
    """All generations as of the last step."""

    def step(self) -> Step:
        """Plan whatever can be planned now.

        Raises:
            StillhouseError: the source or the dataset is not what it has to be; see the classes.
        """
        ...


class Planning:
    """A run's planner between its steps: what it waits for, and what the run's queue has yet to be told."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._waits_for: Wait | None = None
        self._fresh: Plan | None = None
        """What the last step planned."""
        self.advance()

    @property
    def known(self) -> int:
        """Generations planned so far."""
        return len(self._planner.generations) + (self._fresh is not None)

    @property
    def opened(self) -> list[int]:
        """The generations that are not sealed, as of the last step."""
        plans = [each.plan for each in self._planner.generations if not each.is_sealed]
        return [plan.generation for plan in (*plans, self._fresh) if plan is not None]

    @property
    def is_over(self) -> bool:
        """True if nothing more will be planned."""
        return self._waits_for is None

    def advance(self) -> None:
        """Plan what can be planned now; raises what `Planner.step` does."""
        step = self._planner.step()
        # Nothing else is looked for until the plan is indexed: workers are to have it as soon as can be.
        self._fresh, self._waits_for = (step, Wait("indexed")) if isinstance(step, Plan) else (None, step)

    def due(
        self, *, known: int, last: bool, indexed: bool, sealed: bool, arrived: bool = False
    ) -> Literal["tell", "advance"] | None:
        """What to do now, by what the queue knows and how far its generations are; None: wait.

        `arrived`: there are files that a run that follows its source has yet to plan.
        """
        if known < self.known or self._waits_for is None:
            return "tell" if (known, last) != (self.known, self.is_over) else None
        if not indexed:
            return None
        match self._waits_for.until:
            case "indexed":
                return "advance"
            case "sealed":
                return "advance" if sealed or arrived else None
            case "files":
                return "advance" if arrived else None
            case _:
                assert_never(self._waits_for.until)


def first_planning(store: Store, make: Callable[[], Planner], *, begun: Begun = is_planned) -> Planning:
    """Plan what can be planned now, with a planner of `make`.

    If the source is no longer what an earlier run planned, the plans of a dataset that has not `begun` give way.

    Raises:
        StillhouseError: see `Planner.step`.
    """
    try:
        return Planning(make())
    except SourceError:
        bound = read_binding(store)
        if bound is None or store.stat(plan_key(0)) is None or begun() is not None:
            raise
        unplan(store, bound)
        return Planning(make())


class SourcePlanner:
    """For `run`: finishes open generations, then plans new source rows, what there was no money for, and more samples.

    New rows need the generations before them indexed, because prompts asked there are duplicates here. A resumed pilot
    is finished and does not grow; a resumed retry generation does not block a pilot. One that follows its source plans
    the files that arrive, as long as it lives.
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
        """Args:
        store: the dataset's.
        recipe: what is run.
        limit: a pilot: plan at most so many source rows.
        preflight: raises where what the first prompts of a source bring is not what the recipe needs.
        has_money: False if the budget is used up, so that nothing is asked again that it had no money for.
        arrivals: the source's files, if the run follows it.
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
        return next_plan(
            self._recipe,
            generations,
            limit=self._limit,
            version=self._version(),
            preflight=self._preflight,
            arrived=arrived,
        )

    def _version(self) -> int:
        bound = read_binding(self._store)
        return SCHEMA_VERSION if bound is None else bound.version


class FinishPlanner:
    """For `run --finish`: plans nothing, so that the open generations are the last ones."""

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
                f"{self._store.url}: nothing was asked yet, so there is nothing to finish; leave out --finish"
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
            UsageError: a generation of source rows is not sealed: the run comes first.
            SourceError, DatasetError: see `retry_plan`, `store_plan` and `read_generations`.
        """
        self.generations = generations = self._reader.read()
        unsealed = [each.plan for each in generations if not each.is_sealed]
        if not generations or not all(isinstance(plan, RetryPlan) for plan in unsealed):
            raise UsageError(
                f"{self._store.url}: some of its prompts are not asked yet; finish the run first: stillhouse run RECIPE"
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


def next_plan(
    recipe: Recipe,
    generations: Sequence[Generation],
    *,
    limit: int | None = None,
    version: int = SCHEMA_VERSION,
    preflight: Callable[[Sequence[Prompt]], None] = lambda prompts: None,
    arrived: list[SourceFile] | None = None,
) -> SourcePlan | None:
    """The next generation of source rows, or None if every row is planned; requires all generations indexed.

    `arrived`: the files that count, of a source that is followed; without rows they are not planned.

    Raises:
        SourceError: there is no source file, or a planned one changed; see also `check_first_rows`, `inherited` and
            `preflight`.
    """
    ends = _ends(generations)
    files = PlannedFiles(recipe, found=arrived)
    known = files.matched(list(ends))
    places = {file: ends[known[file]] if file in known else START_OF_FILE for file in files.found()}
    fresh = [(file, place) for file, place in places.items() if place is not None]
    if not fresh and generations:
        return None
    begun = bool(generations)
    sources = [file for file, _ in fresh]
    if (begun or arrived) and not _first_rows(sources, recipe, most=1, columns=None):
        return None
    upstream = inherited(sources, recipe)
    templates_system = generations[0].plan.templates_system if begun else True
    frozen = generations[0].plan.kept_fields if begun else None
    kept = cache(partial(kept_columns, sources, recipe, version=version, frozen=frozen))
    preflight(check_first_rows(sources, recipe, kept=kept, proven=begun, templates_system=templates_system))
    return SourcePlan(
        generation=len(generations),
        files=files.plan(fresh),
        limit=limit,
        samples=recipe.ask.most_samples,
        accept=recipe.ask.accept or 0,
        templates_system=templates_system,
        kept=frozen_columns(kept()),
        upstream=upstream,
    )


def _ends(generations: Sequence[Generation]) -> dict[PlannedFile, End]:
    """How far each file was planned, from the last generation that names it; latest first."""
    ends: dict[PlannedFile, End] = {}
    named: set[tuple[str, int, str | None]] = set()
    for generation in reversed(generations):
        if isinstance(generation.plan, SourcePlan):
            for planned, end in zip(generation.plan.files, generation.parts[-1].ends, strict=True):
                name = (planned.url, planned.size, planned.digest)
                # Without a digest, any later file with the same url and size is taken for it.
                known = name in named if planned.digest else any(name[:2] == other[:2] for other in named)
                if not known:
                    ends[planned] = end
                    named.add(name)
    return ends


def check_first_rows(
    files: Sequence[SourceFile],
    recipe: Recipe,
    *,
    kept: Callable[[], list[pa.Field]] | None = None,
    proven: bool = False,
    templates_system: bool = True,
) -> list[Prompt]:
    """Refuse a source with nothing to ask before it is planned, because plans can't change.

    An empty file among others is fine (parallel writers leave some); so is a source of bad rows only, if an earlier
    generation has `proven` the recipe. `kept`: what finds the kept columns, once rows are found; by default
    `kept_columns`.

    Returns:
        The prompts that the first rows make; none if `proven`.

    Raises:
        SourceError: there is no row in any file, in none of the first rows a column that the recipe names, or none of
            them makes a prompt.
        UsageError: the template can't be compiled, or see `kept_columns`.
    """
    with placed(recipe):
        maker = PromptMaker.of(recipe, templates_system=templates_system)
        rows = _first_rows(files, recipe, most=_FIRST_ROWS, columns=maker.columns)
    if not rows:
        raise SourceError(
            f"{recipe.where('source.path')}source.path: expected rows, got none in {_all_of(files)}: "
            "write prompts there, or give another path"
        )
    if message := no_such_column(recipe, rows, maker, first=files[0].url):
        raise SourceError(message)
    if proven:
        return []
    fields = kept_columns(files, recipe) if kept is None else kept()
    maker = PromptMaker.of(recipe, kept=fields, templates_system=templates_system)
    made = [row.bad or "no row" if row.values is None else maker.make(row.values) for row in rows]
    prompts = [each for each in made if isinstance(each, Prompt)]
    if not prompts:
        (why, count), *_ = Counter(map(str, made)).most_common(1)
        raise SourceError(no_prompt(recipe, rows, maker, why=why, count=count, first=files[0].url))
    return prompts


def _all_of(files: Sequence[SourceFile]) -> str:
    first = files[0].url
    return first if len(files) == 1 else f"{len(files):,} files, the first of which is {first}"


def _first_rows(
    files: Sequence[SourceFile], recipe: Recipe, *, most: int, columns: Collection[str] | None
) -> list[Row]:
    rows = (row for file in files for row in read_rows(file, source=recipe.source, columns=columns))
    return list(islice(rows, most))


def kept_columns(
    files: Sequence[SourceFile],
    recipe: Recipe,
    *,
    version: int = SCHEMA_VERSION,
    frozen: Sequence[pa.Field] | None = None,
) -> list[pa.Field]:
    """The kept columns as the plan freezes them, or as an earlier plan froze them (`frozen`).

    Raises:
        SourceError: a file lacks one or can't be read, or no type holds what two files have.
        UsageError: one has the name of a column of ours, or a type that Parquet has not.
    """
    with placed(recipe):
        fields = list(kept_fields(files, source=recipe.source, frozen=frozen))
    if recipe.source.answer == "drop":
        fields.append(pa.field(SOURCE_ANSWER, pa.string()))
    try:
        columns_of(version, recipe.identity()).with_kept(fields)
    except ValueError as error:
        raise UsageError(f"{recipe.where('source.keep')}source.{error}") from None
    try:
        pq.write_table(pa.schema(fields).empty_table(), io.BytesIO())
    except (pa.ArrowException, NotImplementedError) as error:
        raise UsageError(
            f"{recipe.where('source.keep')}source.keep: {files[0].url} has a column of a type that can't be stored: "
            f"{error}"
        ) from None
    return fields
