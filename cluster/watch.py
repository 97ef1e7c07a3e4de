"""Watches a crew at work: shows its progress, plans more, and ends with what stopped it, if anything did."""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stillhouse.cluster.progress.display import Display
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.coordination.messages import End
from stillhouse.gen.coordination.silence import Silence
from stillhouse.gen.dataset.batch_rules import at_provider_line
from stillhouse.gen.dataset.budget_words import over_line, share_used, used_words, uses_of
from stillhouse.gen.dataset.planning import Planning
from stillhouse.gen.errors import AtProvider, BudgetSpent, Interrupted, Paused, StillhouseError, UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.source.arrivals import LOOK_S, Arrivals
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe

if TYPE_CHECKING:
    from stillhouse.cluster.crew import Crew

POLL_S = 0.5
STOP_GRACE_S = 30.0
"""How long the workers of a stopped run have to finish the requests in flight."""
ANNOUNCED = (0.8, 0.95)
"""Used shares of the budget at which the driver prints a note."""


class Watch:
    """Watches one run, which can be stopped before the crew exists."""

    def __init__(
        self, recipe: Recipe, store: Store, *, arrivals: Arrivals | None, no_wait: bool, display: Display
    ) -> None:
        self._budget = recipe.budget
        self._store = store
        self._arrivals = arrivals
        self._no_wait = no_wait
        self._display = display
        self.stats: QueueStats | None = None
        """The queue's last report."""
        self._stop = threading.Event()
        self._stop_reason: StillhouseError = Interrupted("stopped by a signal; the same command resumes")
        self._said: set[str] = set()
        self._announced = 0.0
        """The largest used share of the budget that was announced."""
        self._silence = Silence(
            give_up_after_s=recipe.run.give_up_after_s,
            is_chain=recipe.route == "fallback",
            judges=[teacher.name for teacher in recipe.teachers if teacher.role == "judge"],
        )

    def stop_by_signal(self) -> None:
        """The user asked the run to stop."""
        self._display.note("stopping: finishing requests in flight (again: stop at once)")
        self._stop.set()

    def stop_for(self, reason: StillhouseError) -> None:
        """Stop the run, which raises the first of these reasons."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    def say(self, notes: Sequence[str]) -> None:
        """Show each note once."""
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                self._display.note(inert(note))

    def until_end(self, crew: "Crew", planning: Planning) -> None:
        """Wait until every worker has ended; then raise what stopped them, if anything did."""
        stopped_at: float | None = None
        while crew.working:
            stats = crew.stats()
            if stats is not None:
                self._take_in(stats)
                self._plan_with(crew, planning, stats)
            crew.tend(self._display)
            for end in crew.ends:
                if end.kind not in ("done", "stopped"):
                    self.stop_for(_error_of(end))
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
        if self._stop.is_set() and (stats is None or not self._is_finished(stats, planning)):
            raise self._stop_reason
        if stats is not None and (why := self._why_over(stats)) is not None:
            raise BudgetSpent(why)

    def _is_finished(self, stats: QueueStats, planning: Planning) -> bool:
        """True if nothing is left to do; for a followed source, nothing of what it is known to contain."""
        if stats.finished:
            return True
        is_signal = isinstance(self._stop_reason, Interrupted)
        if not is_signal or not stats.all_sealed or not 0 < stats.known == planning.known:
            return False
        if self._arrivals is not None:
            return not self._arrivals.has_untaken
        # The last chunk was sealed after the signal, so nobody has looked for more to plan since.
        if planning.due(known=stats.known, last=stats.last, indexed=stats.planned, sealed=True) == "advance":
            planning.advance()
        return planning.is_over and planning.known == stats.known

    def _why_over(self, stats: QueueStats) -> str | None:
        """Why asking ended, if the budget ended it."""
        use = stats.budget
        if self._budget is None or use is None or use.unpayable is None:
            return None
        return over_line(self._budget, use.spent, use.unpayable)

    def _announce(self, stats: QueueStats) -> None:
        """Note once each time the budget passes one of the announced shares."""
        if self._budget is None or stats.budget is None:
            return
        uses = uses_of(self._budget, stats.budget.spent)
        reached = max((share for share in ANNOUNCED if share <= share_used(uses)), default=0.0)
        if reached > self._announced:
            self._announced = reached
            self._display.note(f"budget: over {100 * reached:.0f} % used: {used_words(uses)}")

    def _take_in(self, stats: QueueStats) -> None:
        self._display.update(stats)
        self.say(stats.notes)
        self.stats = stats
        self._announce(stats)
        if self._no_wait and stats.rests:
            self.stop_for(AtProvider(at_provider_line(self._store)))
        notes, given_up = self._silence.look(stats.teachers, now=time.monotonic())
        self.say(notes)
        if given_up is not None:
            self.stop_for(given_up)
        if stats.error is not None:
            self.stop_for(_ERRORS[stats.exit_code](stats.error))

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
            self.stop_for(error)
        else:
            if due == "tell":
                crew.planned(last=planning.is_over)


_ERRORS: dict[int, type[StillhouseError]] = {1: StillhouseError, 2: UsageError, 3: Paused}
"""The most important error, by exit code."""


def _error_of(end: End) -> StillhouseError:
    match end.kind:
        case "unusable":
            return UsageError(end.message)
        case "paused":
            return Paused(end.message)
        case _:
            return StillhouseError(end.message)
