"""The driver: one run of a recipe, from the plan to the last seal. What it holds can be lost; what is stored suffices.

One crew of actors lives for the whole run and works on all open generations; new ones are planned as soon as they can
be (`gen.dataset.planning`). The driver replaces workers that die, and ends when everything is sealed, or when something
calls for a person.
"""

import math
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from stillhouse.cluster.progress.display import Display, Quiet
from stillhouse.cluster.progress.notebook import Notebook, in_notebook
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen import simulator
from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.coordination.messages import End
from stillhouse.gen.coordination.silence import Silence
from stillhouse.gen.dataset.batch_rules import at_provider_line, check_batches, check_none_open, check_still_batched
from stillhouse.gen.dataset.binding import bind, read_binding
from stillhouse.gen.dataset.budget_file import begin_budget
from stillhouse.gen.dataset.budget_rules import check_budget, why_no_money
from stillhouse.gen.dataset.budget_words import over_line, share_used, used_words, uses_of
from stillhouse.gen.dataset.card_file import kept_card
from stillhouse.gen.dataset.last_run import store_last_run
from stillhouse.gen.dataset.layout import BUDGET_KEY, open_dataset
from stillhouse.gen.dataset.planners import FinishPlanner, RetryPlanner, SourcePlanner
from stillhouse.gen.dataset.planning import Planner, Planning, first_planning
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.dataset.run_lock import run_lock
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.dataset.tidying import tidy
from stillhouse.gen.dataset.upstream import notes_on
from stillhouse.gen.errors import AtProvider, BudgetSpent, Interrupted, Paused, StillhouseError, UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.source.arrivals import LOOK_S, Arrivals
from stillhouse.gen.source.survey import passed_over_note
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.keys import has_secrets, resolve_all
from stillhouse.gen.teachers.prices import priced
from stillhouse.gen.teachers.protocols.answer_schema import schema_notes
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.result import RunResult
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.schemas.failure import FailureKind
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.terms_notes import terms_notes

if TYPE_CHECKING:
    from stillhouse.cluster.crew import Crew
from stillhouse.cluster.signals import signals

POLL_S = 0.5
STOP_GRACE_S = 30.0
"""How long the workers of a stopped run have to finish the requests in flight."""
ANNOUNCED = (0.8, 0.95)
"""Shares of the budget that are announced when they are used."""
SLOTS_PER_WORKER = 512
"""Requests in flight that one worker is given before `workers: auto` adds another."""


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
        address: a running Ray cluster's; by default one is started here, or joined inside a Ray job.
        limit: a pilot: plan at most the next so many source rows.
        follow: also ask the files that appear in the source, until a signal comes.
        display: who is shown the progress; by default a notebook, or nobody.

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
    driver = Driver(recipe, address=address, limit=limit, follow=follow, display=display)
    return RunResult.of(driver.run(), driver.store)


class Driver:
    """One run, one retry of the kinds of Failures in `retry`, or one that only seals what is open (`finish`).

    A run that follows its source (`follow`) ends by a signal, or by what stops any run.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        address: str | None,
        limit: int | None = None,
        retry: Sequence[FailureKind] | None = None,
        finish: bool = False,
        follow: bool = False,
        no_wait: bool = False,
        display: Display,
    ) -> None:
        """`no_wait`: end once nothing can be done until a batch at a provider ends."""
        self._finish = finish
        self._no_wait = no_wait
        self._arrivals = Arrivals(recipe.source, clock=SYSTEM) if follow else None
        self._recipe = recipe
        self._address = address or os.environ.get("RAY_ADDRESS")  # which a Ray job is given
        self._limit = limit
        self._retry = retry
        self._display = display
        self._store = open_dataset(recipe)
        self._stop = threading.Event()
        self._stop_reason: StillhouseError = Interrupted("stopped by a signal; the same command resumes")
        self._sent = (0, 0)
        """Requests and retries."""
        self._sealed = ShardCounts()
        self._started = time.monotonic()
        self._is_joined = False
        self._said: set[str] = set()
        self._no_money: str | None = None
        """Why nothing can be asked, where the budget is used up when the run begins."""
        self._announced = 0.0
        """The largest share of the budget that was announced to be used."""
        self._silence = Silence(
            give_up_after_s=recipe.run.give_up_after_s,
            is_chain=recipe.route == "fallback",
            judges=[teacher.name for teacher in recipe.teachers if teacher.role == "judge"],
        )

    def run(self) -> Summary:
        """See `run`."""
        with ExitStack() as stack:
            self._check_keys(stack)
            self._store.probe()
            lock = run_lock(self._store, run=secrets.token_hex(8), waiting=self._display.note, lost=self._lost)
            stack.enter_context(lock)
            begun = partial(why_begun, self._store, self._recipe.run, last=lock.last)
            self._recipe, notes = priced(bind(self._store, self._recipe, begun=begun))
            self._say([*notes, *schema_notes(self._recipe), *terms_notes(self._recipe)])
            check_budget(self._recipe)
            check_batches(self._recipe)
            check_still_batched(self._recipe, self._store)
            if self._finish:
                check_none_open(self._store)
            if self._retry is None and not self._finish:
                store_last_run(self._store, self._recipe)
                self._note_passed_over()
            self._no_money = self._look_at_budget()
            stack.enter_context(kept_card(self._store, self._card))
            planning = first_planning(self._store, self._planner, begun=begun)
            has_work = bool(planning.opened) or self._arrivals is not None
            if self._no_money is not None and (has_work or self.summary().failed_by_kind.get("budget")):
                raise BudgetSpent(self._no_money)
            if has_work:
                if self._arrivals is not None:
                    paths = ", ".join(self._recipe.source.paths)
                    self._display.step(f"following {inert(paths)} until this run is stopped")
                crew = stack.enter_context(self._crew(planning))
                stack.enter_context(signals(self._on_signal))
                lock.report_to(crew.hold)
                try:
                    self._watch(crew, planning)
                finally:
                    lock.report_to(None)
                    crew.dismiss()
            tidy(self._store)
            summary = self.summary()
            if (why := summary.why_useless()) is not None:
                raise StillhouseError(why)
            return summary

    def _check_keys(self, stack: ExitStack) -> None:
        """Resolve the keys before anything is written, where they will be used.

        Workers of a Ray started here see what this process sees. On a cluster a process of its resolves them, unless
        the dataset is there already: then the first worker does, before it leases.
        """
        if self._address is None:
            resolve_all(self._recipe)
        elif any(map(has_secrets, self._recipe.teachers)) and read_binding(self._store) is None:
            self._join(stack)
            from stillhouse.cluster.actors.key_check import check_keys

            check_keys(self._recipe, self._display)

    def _join(self, stack: ExitStack) -> None:
        """Have Ray until the stack ends."""
        from stillhouse.cluster.runtime import connected

        self._display.step("starting Ray" if self._address is None else f"joining Ray at {self._address}")
        stack.enter_context(connected(self._address))
        self._is_joined = True

    def summary(self, *, state: str | None = None) -> Summary:
        """The dataset's counts with this call's."""
        requests, retries = self._sent
        update = {
            "requests": requests,
            "retries": retries,
            "seconds": round(time.monotonic() - self._started, 3),
            "new_records": self._sealed.records,
            "new_rejected": sum(self._sealed.rejected.values()),
            "new_failed": sum(self._sealed.failed.values()),
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
        with suppress(StillhouseError):  # reported where the source is read, if it matters
            found = surveyed(self._recipe)
            for note in (passed_over_note(found.passed_over), *notes_on(found.files, self._recipe.source)):
                if note is not None:
                    self._display.note(f"source: {inert(note)}")

    def _card(self, stored: str) -> str:
        return card_of(self._store, self._recipe, stored=stored)

    def _lost(self, reason: Paused) -> None:
        self._stop_reason = reason
        self._stop.set()

    def _on_signal(self) -> None:
        self._display.note("stopping: finishing requests in flight (again: stop at once)")
        self._stop.set()

    def _look_at_budget(self) -> str | None:
        """Why the budget lets nothing be asked; None if it does, there is none, or nothing would be asked anyway."""
        if self._finish:
            return None
        if self._recipe.budget is None:
            self._store.delete(BUDGET_KEY)  # a later budget counts anew what this run adds
            return None
        return why_no_money(self._recipe, self._recipe.budget, begin_budget(self._store))

    def _preflight(self, prompts: Sequence[Prompt]) -> None:
        check_references(self._recipe, prompts)
        check_budget(self._recipe, prompts)

    def _planner(self) -> Planner:
        if self._finish:
            return FinishPlanner(self._store)
        if self._retry is not None:
            return RetryPlanner(self._store, self._recipe, kinds=self._retry)
        return SourcePlanner(
            self._store,
            self._recipe,
            limit=self._limit,
            preflight=self._preflight,
            has_money=self._no_money is None,
            arrivals=self._arrivals,
        )

    @contextmanager
    def _crew(self, planning: Planning) -> Iterator["Crew"]:
        """Ray, the simulators, and a crew that works on the open generations."""
        # Ray takes a second to import, and a finished run needs none.
        from stillhouse.cluster.runtime import cpus, this_node

        with ExitStack() as stack:
            recipe = self._recipe
            teachers = []
            for teacher in recipe.teachers:
                if teacher.api == "simulator":
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

            workers = _workers(recipe, cpus=cpus())
            yield Crew(
                recipe,
                opened=planning.opened,
                known=planning.known,
                workers=workers,
                node=node,
                finish=self._finish,
                follow=self._arrivals is not None,
            )

    def _watch(self, crew: "Crew", planning: Planning) -> None:
        """Until every worker has ended; then raise what stopped them, if anything did."""
        stopped_at: float | None = None
        while crew.working:
            stats = crew.stats()
            if stats is not None:
                self._take_in(stats)
                self._plan_with(crew, planning, stats)
            crew.tend(self._display)
            for end in crew.ends:
                if end.kind not in ("done", "stopped"):
                    self._stop_for(_error_of(end))
            if self._stop.is_set() and stopped_at is None:
                crew.stop()
                stopped_at = time.monotonic()
            if stopped_at is None:
                self._stop.wait(POLL_S if self._arrivals is None else LOOK_S)
            elif time.monotonic() - stopped_at > STOP_GRACE_S:
                break
            else:
                time.sleep(0.1)
        if (stats := crew.stats()) is not None:
            self._take_in(stats)
        if self._stop.is_set() and (stats is None or not self._is_finished(stats)):
            raise self._stop_reason
        if stats is not None and (why := self._why_over(stats)) is not None:
            raise BudgetSpent(why)

    def _is_finished(self, stats: QueueStats) -> bool:
        """True if nothing is left to do; of a source that is followed, of all that it was seen to have."""
        if self._arrivals is None:
            return stats.finished
        is_signal = isinstance(self._stop_reason, Interrupted)
        return is_signal and stats.known > 0 and stats.all_sealed and not self._arrivals.has_untaken

    def _why_over(self, stats: QueueStats) -> str | None:
        """Why asking ended, if the budget ended it."""
        budget, use = self._recipe.budget, stats.budget
        if budget is None or use is None or use.unpayable is None:
            return None
        return over_line(budget, use.spent, use.unpayable)

    def _announce(self, stats: QueueStats) -> None:
        """Note once each when much of the budget is used."""
        if self._recipe.budget is None or stats.budget is None:
            return
        uses = uses_of(self._recipe.budget, stats.budget.spent)
        reached = max((share for share in ANNOUNCED if share <= share_used(uses)), default=0.0)
        if reached > self._announced:
            self._announced = reached
            self._display.note(f"budget: over {100 * reached:.0f} % used: {used_words(uses)}")

    def _take_in(self, stats: QueueStats) -> None:
        self._display.update(stats)
        self._say(stats.notes)
        self._sent, self._sealed = (stats.total.requests, stats.total.retries), stats.counts
        self._announce(stats)
        if self._no_wait and stats.rests:
            self._stop_for(AtProvider(at_provider_line(self._store)))
        notes, given_up = self._silence.look(stats.teachers, now=time.monotonic())
        self._say(notes)
        if given_up is not None:
            self._stop_for(given_up)
        if stats.error is not None:
            self._stop_for(_ERRORS[stats.exit_code](stats.error))

    def _plan_with(self, crew: "Crew", planning: Planning, stats: QueueStats) -> None:
        """Continue planning once its condition is met, and notify the queue of new plans."""
        if self._why_over(stats) is not None:
            return
        try:
            arrived = self._arrivals is not None and not self._stop.is_set() and self._arrivals.look()
            due = planning.due(
                known=stats.known, last=stats.last, indexed=stats.planned, sealed=stats.all_sealed, arrived=arrived
            )
            if due == "advance" and not self._stop.is_set():
                planning.advance()
                due = "tell" if planning.known > stats.known else None
        except StillhouseError as error:
            self._stop_for(error)
        else:
            if due == "tell":
                crew.planned(last=planning.is_over)

    def _say(self, notes: Sequence[str]) -> None:
        """Show what workers report, each note once."""
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                self._display.note(inert(note))

    def _stop_for(self, reason: StillhouseError) -> None:
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()


def _workers(recipe: Recipe, *, cpus: int) -> int:
    """Number of workers: the recipe's, else by the requests that may be in flight, with one CPU left for the rest."""
    if recipe.run.workers != "auto":
        return recipe.run.workers
    declared = [teacher.limits.in_flight for teacher in recipe.teachers]
    wanted = math.ceil(sum(slots or SLOTS_PER_WORKER for slots in declared) / SLOTS_PER_WORKER)
    return max(1, min(wanted, cpus - 1))


_ERRORS: dict[int, type[StillhouseError]] = {1: StillhouseError, 2: UsageError, 3: Paused}
"""By exit code."""


def _error_of(end: End) -> StillhouseError:
    match end.kind:
        case "unusable":
            return UsageError(end.message)
        case "paused":
            return Paused(end.message)
        case _:
            return StillhouseError(end.message)
