"""The driver: one run of a recipe, from the plan to the last seal. It may die at any time; what is stored suffices.

One crew of actors lives for the whole run and works on all open generations; new ones are planned as soon as they can
be (`gen.dataset.planning`). The driver replaces workers that die, and ends when everything is sealed, or when a person
has to act.
"""

import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from stillhouse.cluster.progress.display import Display, Quiet
from stillhouse.cluster.progress.notebook import Notebook, in_notebook
from stillhouse.cluster.run_options import RunOptions
from stillhouse.cluster.signals import signals
from stillhouse.cluster.watch import Watch
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.dataset.batch_rules import check_batches, check_none_open, check_still_batched
from stillhouse.gen.dataset.binding import bind, read_binding
from stillhouse.gen.dataset.budget_file import begin_budget
from stillhouse.gen.dataset.budget_rules import check_budget, why_no_money
from stillhouse.gen.dataset.card_file import kept_card
from stillhouse.gen.dataset.first_rows import own_faults_first
from stillhouse.gen.dataset.last_run import store_last_run
from stillhouse.gen.dataset.layout import BUDGET_KEY, open_dataset
from stillhouse.gen.dataset.planners import FinishPlanner, RetryPlanner, SourcePlanner
from stillhouse.gen.dataset.planning import Planner, Planning, first_planning
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.dataset.run_lock import run_lock
from stillhouse.gen.dataset.tidying import tidy
from stillhouse.gen.dataset.upstream import notes_on
from stillhouse.gen.errors import BudgetSpent, StillhouseError
from stillhouse.gen.inert import inert
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.process.cpus import usable_cpus
from stillhouse.gen.source.arrivals import Arrivals
from stillhouse.gen.source.survey import passed_over_note
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.keys import has_secrets, resolve_all
from stillhouse.gen.teachers.prices import priced
from stillhouse.gen.teachers.protocols.answer_schema import schema_notes
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.result import RunResult
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.terms_notes import terms_notes

if TYPE_CHECKING:
    from stillhouse.cluster.crew import Crew

SLOTS_PER_WORKER = 512
"""Requests in flight per worker before `workers: auto` adds another."""


def run(
    recipe: Recipe,
    *,
    address: str | None = None,
    limit: int | None = None,
    follow: bool = False,
    display: Display | None = None,
) -> RunResult:
    """Run the recipe until every source row is settled; the same call again resumes where the last one ended.

    Args:
        recipe: what to do; `schemas.recipe_file.read_recipe` reads one from a file.
        address: the address of a running Ray cluster; by default one is started here, or joined inside a Ray job.
        limit: a pilot: plan at most this many of the next source rows.
        follow: also ask the rows of files that are added to the source, until a signal comes.
        display: where to show progress; by default in a notebook, if in one.

    Returns:
        The dataset's summary, whose `load` gives its records as a pyarrow Table.

    Raises:
        UsageError: the recipe, the source or the store is wrong (exit code 2).
        Paused: a signal, billing, authorisation, an absent store or a teacher that never answers; the same call resumes
            (exit code 3).
        StillhouseError: the run failed (exit code 1).
    """
    if display is None:
        display = Notebook(recipe) if in_notebook() else Quiet()
    driver = Driver(recipe, RunOptions(address=address, limit=limit, follow=follow), display=display)
    return RunResult.of(driver.run(), driver.store)


_UNPACKED = re.compile(r"/working_dir_files/_ray_pkg_\w+(/|$)")
"""Where Ray unpacks the folder that `ray job submit --working-dir` ships."""


class Driver:
    """Carries out a run, a retry, or a run that only seals open chunks."""

    def __init__(self, recipe: Recipe, options: RunOptions, *, display: Display) -> None:
        self._recipe = recipe
        self._options = options
        self._arrivals = Arrivals(recipe.source, clock=SYSTEM) if options.follow else None
        self._address = options.address or os.environ.get("RAY_ADDRESS")  # set for a Ray job
        self._display = display
        self._store = open_dataset(recipe)
        self._watch = Watch(recipe, self._store, arrivals=self._arrivals, no_wait=options.no_wait, display=display)
        self._started = time.monotonic()
        self._is_joined = False
        self._no_money: str | None = None
        """Why nothing can be asked, if the budget is used up when the run begins."""

    def run(self) -> Summary:
        """See `run`."""
        with ExitStack() as stack:
            self._check_keys(stack)
            self._store.probe()
            lock = run_lock(
                self._store, run=secrets.token_hex(8), waiting=self._display.note, lost=self._watch.stop_for
            )
            stack.enter_context(lock)
            begun = partial(why_begun, self._store, self._recipe.run, last=lock.last)
            with own_faults_first(self._recipe):
                bound = bind(self._store, self._recipe, begun=begun)
            self._recipe, notes = priced(bound)
            self._watch.say(
                [*notes, *schema_notes(self._recipe), *terms_notes(self._recipe), *_place_notes(self._store)]
            )
            check_budget(self._recipe)
            check_batches(self._recipe)
            check_still_batched(self._recipe, self._store)
            if self._options.finish:
                check_none_open(self._store)
            if self._options.retry is None and not self._options.finish:
                store_last_run(self._store, self._recipe)
                self._note_passed_over()
            self._no_money = self._look_at_budget()
            stack.enter_context(kept_card(self._store, self._card))
            planning = first_planning(self._store, self._recipe, self._planner, begun=begun)
            has_work = bool(planning.opened) or self._arrivals is not None
            if self._no_money is not None and (has_work or self.summary().unpaid):
                raise BudgetSpent(self._no_money)
            if has_work:
                if self._arrivals is not None:
                    paths = ", ".join(self._recipe.source.paths)
                    self._display.step(f"following {inert(paths)} until this run is stopped")
                crew = stack.enter_context(self._crew(planning))
                stack.enter_context(signals(self._watch.stop_by_signal))
                lock.report_to(crew.hold)
                try:
                    self._watch.until_end(crew, planning)
                finally:
                    lock.report_to(None)
                    crew.dismiss()
            tidy(self._store)
            summary = self.summary()
            if (why := summary.why_useless()) is not None:
                raise StillhouseError(why)
            return summary

    def _check_keys(self, stack: ExitStack) -> None:
        """Resolve the keys where they will be used, before anything is written.

        Workers of a Ray started here see what this process sees. On a cluster, one of its processes resolves the keys,
        unless the dataset exists already: then the first worker does, before it leases.
        """
        if self._address is None:
            resolve_all(self._recipe)
        elif any(map(has_secrets, self._recipe.teachers)) and read_binding(self._store) is None:
            self._join(stack)
            from stillhouse.cluster.actors.key_check import check_keys

            check_keys(self._recipe, self._display)

    def _join(self, stack: ExitStack) -> None:
        """Start or join Ray until the stack ends."""
        from stillhouse.cluster.runtime import connected

        self._display.step("starting Ray" if self._address is None else f"joining Ray at {self._address}")
        stack.enter_context(connected(self._address))
        self._is_joined = True

    def summary(self, *, state: str | None = None) -> Summary:
        """The dataset's counts, with this call's."""
        update: dict[str, float] = {"seconds": round(time.monotonic() - self._started, 3)}
        if (stats := self._watch.stats) is not None:
            update |= {
                "requests": stats.total.requests,
                "retries": stats.total.retries,
                "new_records": stats.counts.records,
                "new_rejected": sum(stats.counts.rejected.values()),
                "new_failed": sum(stats.counts.failed.values()),
            }
        return summarise(self._store, state=state).model_copy(update=update)

    @property
    def store(self) -> Store:
        """The dataset's store."""
        return self._store

    @property
    def dataset(self) -> str:
        """Where the dataset is."""
        return self._store.url

    def _note_passed_over(self) -> None:
        with suppress(StillhouseError):  # reported when the source is read, if it matters
            found = surveyed(self._recipe)
            for note in (passed_over_note(found.passed_over), *notes_on(found.files, self._recipe.source)):
                if note is not None:
                    self._display.note(f"source: {inert(note)}")

    def _card(self, stored: str) -> str:
        return card_of(self._store, self._recipe, stored=stored)

    def _look_at_budget(self) -> str | None:
        """Why the budget lets nothing be asked; None if it does, if there is no budget, or if there is nothing to
        ask."""
        if self._options.finish:
            return None
        if self._recipe.budget is None:
            self._store.delete(BUDGET_KEY)  # a later budget counts what this run adds from zero
            return None
        return why_no_money(self._recipe, self._recipe.budget, begin_budget(self._store))

    def _preflight(self, prompts: Sequence[Prompt]) -> None:
        if self._recipe.checks:
            # Most runs need not wait for what this imports.
            from stillhouse.gen.checks.preflight import check_references

            check_references(self._recipe, prompts)
        check_budget(self._recipe, prompts)

    def _planner(self) -> Planner:
        if self._options.finish:
            return FinishPlanner(self._store)
        if self._options.retry is not None:
            return RetryPlanner(self._store, self._recipe, kinds=self._options.retry)
        return SourcePlanner(
            self._store,
            self._recipe,
            limit=self._options.limit,
            preflight=self._preflight,
            has_money=self._no_money is None,
            arrivals=self._arrivals,
        )

    @contextmanager
    def _crew(self, planning: Planning) -> Iterator["Crew"]:
        """Ray, the simulators, and a crew that works on the open generations."""
        # Ray takes a second to import, and a finished run does not need it.
        from stillhouse.cluster.runtime import cpus, this_node

        with ExitStack() as stack:
            recipe = self._recipe.with_absolute_paths()  # a running cluster's processes are in other folders
            teachers = []
            for teacher in recipe.teachers:
                if teacher.api == "simulator":
                    # As in `_preflight`, imported only where it is needed.
                    from stillhouse.gen import simulator

                    process = simulator.start(teacher.simulator or SimulatorSettings())
                    stack.callback(process.stop)
                    teacher = teacher.model_copy(update={"endpoints": (process.url,)})
                teachers.append(teacher)
            recipe = recipe.model_copy(update={"teachers": tuple(teachers)})
            if not self._is_joined:
                self._join(stack)
            self._display.step("starting workers")
            from stillhouse.cluster.crew import Crew

            simulated = any(teacher.api == "simulator" for teacher in recipe.teachers)
            node = this_node() if simulated else None

            available = usable_cpus() if self._address is None else cpus()  # a Ray started here claims at least four
            yield Crew(
                recipe,
                opened=planning.opened,
                known=planning.known,
                workers=worker_count(recipe, cpus=available),
                node=node,
                finish=self._options.finish,
                follow=self._arrivals is not None,
            )


def _place_notes(store: Store) -> list[str]:
    """A warning if the dataset will not last where it is."""
    if not (store.is_local and _UNPACKED.search(store.url)):
        return []
    return [
        f"{store.url} is in Ray's copy of the job's folder, which Ray deletes after the job, and the next job may have "
        "another: give dataset.path as an absolute path or an s3:// URL, or use `stillhouse submit`"
    ]


def worker_count(recipe: Recipe, *, cpus: int) -> int:
    """Number of workers: the recipe's, or enough for the requests in flight, leaving one of these CPUs free for
    everything else."""
    if recipe.run.workers != "auto":
        return recipe.run.workers
    declared = [teacher.limits.in_flight for teacher in recipe.teachers]
    wanted = math.ceil(sum(slots or SLOTS_PER_WORKER for slots in declared) / SLOTS_PER_WORKER)
    return max(1, min(wanted, cpus - 1))
