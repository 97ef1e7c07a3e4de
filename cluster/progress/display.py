"""What the user sees of a run, all on stderr: a line every few seconds, or on a terminal a live table (`screen.py`)."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from stillhouse.cluster.progress.pace import Pace, unsealed
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.dataset.budget_words import used_words, uses_of
from stillhouse.gen.inert import inert
from stillhouse.schemas.recipe import Recipe

LINE_EVERY_S = 5.0


class Display(Protocol):
    """Shows a run's stats, about once a second."""

    def note(self, text: str) -> None:
        """Print a line for something unexpected."""
        ...

    def step(self, text: str) -> None:
        """Print a line about what is being done."""
        ...

    def update(self, stats: QueueStats) -> None:
        """Show the run's progress."""
        ...


class Quiet:
    """Shows nothing but notes."""

    def note(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        """Nothing."""

    def update(self, stats: QueueStats) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The progress at one moment, as text: name to value."""

    dataset: dict[str, str]
    """Counts of the whole dataset, over all runs."""
    call: dict[str, str]
    """Counts of this run alone."""

    def as_line(self) -> str:
        """All counts on one line."""
        return f"dataset: {_joined(self.dataset)}; this call: {_joined(self.call)}"


def _joined(figures: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in figures.items())


class Shown(BaseModel):
    """What a panel shows of one moment; a job's log contains it for the panels of its followers."""

    model_config = ConfigDict(frozen=True)

    figures: Figures
    answered: int
    """Samples that no longer need to be asked."""
    total: int
    """Samples known so far."""


class Progress:
    """Turns stats into words."""

    def __init__(self, recipe: Recipe) -> None:
        self._pace = Pace(recipe)
        self._several = len(recipe.accounts) > 1
        self._checks = [check.name for check in recipe.all_checks]
        self._budget = recipe.budget
        self._batched = any(each.mode != "online" for each in recipe.teachers)
        self._priced = any(t.price is not None for t in recipe.teachers)

    def shown(self, stats: QueueStats) -> Shown:
        """Everything that a display shows."""
        answered, total = self.answered(stats)
        return Shown(figures=self.figures(stats), answered=answered, total=total)

    def figures(self, stats: QueueStats) -> Figures:
        """The dataset's progress, and what this run did."""
        self._pace.add(stats, now=time.monotonic())
        more, closed = "" if stats.planned else "+", stats.closed
        rows, duplicates, bad = closed.rows + stats.rows, closed.duplicates + stats.duplicates, closed.bad + stats.bad
        sealed, chunks = closed.chunks + stats.sealed, closed.chunks + stats.chunks
        answered, total = self.answered(stats)
        samples = f"{answered:,} of {total:,}{more} settled, {answered - unsealed(stats):,} sealed"
        dataset = {"prompts": f"{rows:,}{more} ({duplicates:,} duplicate, {bad:,} bad)", "samples": samples}
        call = {}
        if stats.again:
            call = {"asked again": f"{stats.asks:,}{more} prompts, samples {dataset.pop('samples')}"}
        parked = f", {stats.parked:,} with batches at the provider" if stats.parked else ""
        return Figures(dataset | {"shards": f"{sealed:,} of {chunks:,}{more}{parked}"}, call | self._call(stats))

    def _call(self, stats: QueueStats) -> dict[str, str]:
        total = stats.total
        figures = {
            "records": f"{stats.counts.records:,} (rejected {sum(stats.counts.rejected.values()):,}, "
            f"failed {sum(stats.counts.failed.values()):,})",
            "requests": f"{total.requests:,} ({self._pace.requests_per_s:,.0f}/s, {total.in_flight:,} in flight, "
            f"{total.retries:,} retries)",
            "tokens": f"{total.input_tokens:,} in, {total.output_tokens:,} out ({self._pace.tokens_per_s:,.0f}/s)",
        }
        if accepted := ", ".join(self._accepted(stats)):
            figures["accepted"] = accepted
        if self._priced or total.usd:  # a price may have been looked up since
            figures["spend"] = f"${total.usd:,.2f}"
        if self._batched:
            expired = f" ({total.batches_expired:,} with expired requests)" if total.batches_expired else ""
            figures["batches"] = (
                f"{sum(stats.open_batches.values()):,} open, {total.batches:,} created, "
                f"{total.batches_ended:,} ended{expired}"
            )
        if self._budget is not None and stats.budget is not None:
            figures["budget"] = used_words(uses_of(self._budget, stats.budget.spent))
        if used := self._pace.limits_used(stats):
            figures["limits used"] = ", ".join(
                f"{f'{inert(account)} ' if self._several else ''}{_LIMITS[name]} {share:.0%}"
                for (account, name), share in used.items()
            )
        if total.troubles:
            kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(total.troubles.items()))
            figures["troubles"] = f"{kinds} (last: {inert(stats.last_trouble)[:120]})"
        if (left_s := self._pace.time_left_s(stats)) is not None:
            figures["time left"] = duration(left_s)
        return figures

    def _accepted(self, stats: QueueStats) -> Iterator[str]:
        """Each check's acceptance rate, by teacher if there are several."""
        for check in self._checks:
            counts = {
                name: (tally.accepted.get(check, 0), tally.rejected.get(check, 0))
                for name, tally in stats.teachers.items()
            }
            judged = {name: accepted + rejected for name, (accepted, rejected) in counts.items() if accepted + rejected}
            if not judged:
                continue
            shares = [f"{inert(name)} {counts[name][0] / judged[name]:.0%}" for name in judged]
            total = sum(accepted for accepted, _ in counts.values()) / sum(judged.values())
            by_teacher = f" ({', '.join(shares)})" if len(shares) > 1 else ""
            yield f"{check} {total:.0%} of {sum(judged.values()):,}{by_teacher}"

    def answered(self, stats: QueueStats) -> tuple[int, int]:
        """Samples that no longer need to be asked, of those known so far: the dataset's, or all that are asked again.

        The dataset already counts the samples of generations that ask again.
        """
        before = 0 if stats.again else stats.closed.samples
        return before + stats.samples - stats.samples_left + unsealed(stats), before + stats.samples


_LIMITS = {"requests": "requests", "input": "input", "output": "output", "total": "tokens", "in_flight": "in flight"}


class Lines:
    """Prints a line every few seconds."""

    def __init__(self, recipe: Recipe) -> None:
        self._progress = Progress(recipe)
        self._next = 0.0

    def note(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)

    step = note

    def update(self, stats: QueueStats) -> None:
        """Print a line, if it is time for one."""
        shown = self._progress.shown(stats)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            self.say(shown)

    def say(self, shown: Shown) -> None:
        """Print the line."""
        self.note(shown.figures.as_line())


def is_progress(line: str) -> bool:
    """True for a line of figures that `Lines` printed."""
    return line.startswith("dataset: ") and "; this call: " in line


def duration(seconds: float) -> str:
    """The time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
