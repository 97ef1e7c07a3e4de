"""What a person sees of a run: a live table on a terminal, a line every few seconds elsewhere. All of it on stderr."""

import sys
import time
from collections import deque
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.prompt_queue import QueueStats
from gen.inert import inert
from gen.limits import rates_of
from schemas.recipe import Recipe

LINE_EVERY_S = 5.0
_WINDOW_S = 10.0
"""Rates are over the last so many seconds."""


class Display(Protocol):
    """Shown the stats about once a second."""

    def note(self, text: str) -> None:
        """One line that stays: what goes against what was expected."""
        ...

    def step(self, text: str) -> None:
        """One line that stays: what is being done."""
        ...

    def update(self, stats: QueueStats) -> None:
        """How far the run is."""
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


class _Rates:
    """Requests and tokens a second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int, int]] = deque()

    def add(self, stats: QueueStats, *, settled: int) -> tuple[float, float, float]:
        """(requests, tokens, settled samples) a second."""
        now = time.monotonic()
        self._seen.append((now, stats.requests, stats.input_tokens + stats.output_tokens, settled))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        first = self._seen[0]
        span = max(1e-3, now - first[0])
        requests, tokens, samples = (b - a for a, b in zip(first[1:], self._seen[-1][1:], strict=True))
        return requests / span, tokens / span, samples / span


class Progress:
    """The figures of one moment, as words."""

    def __init__(self, recipe: Recipe) -> None:
        self._samples = recipe.ask.samples
        self._rates = _Rates()
        self._per_second = sum(rates_of(t.limits).get("requests", 0.0) for t in recipe.teachers)
        self._priced = any(t.price is not None for t in recipe.teachers)

    def figures(self, stats: QueueStats) -> dict[str, str]:
        """Name to value."""
        sealed = stats.counts.records + sum(stats.counts.rejected.values()) + sum(stats.counts.failed.values())
        settled = max(stats.answers, sealed)  # workers report their answers every few seconds, their seals at once
        per_s, tokens_per_s, settled_per_s = self._rates.add(stats, settled=settled)
        left = stats.prompts_left * self._samples
        total = stats.asks * self._samples
        more = "" if stats.planned else "+"
        rows = f"{stats.rows:,}{more} ({stats.duplicates:,} duplicate, {stats.bad:,} bad)"
        figures = {
            "prompts": f"{stats.asks:,}{more} asked again" if stats.again else rows,
            "samples": f"{total - left:,} of {total:,}{more} sealed",
            "records": f"{stats.counts.records:,} (rejected {sum(stats.counts.rejected.values()):,}, "
            f"failed {sum(stats.counts.failed.values()):,})",
            "shards": f"{stats.sealed:,} of {stats.chunks:,}",
            "requests": f"{stats.requests:,} ({per_s:,.0f}/s, {stats.in_flight:,} in flight, "
            f"{stats.retries:,} retries)",
            "tokens": f"{stats.input_tokens:,} in, {stats.output_tokens:,} out ({tokens_per_s:,.0f}/s)",
        }
        if self._priced:
            figures["spend"] = f"${stats.usd:,.2f}"
        if self._per_second:
            figures["limit used"] = f"{per_s / self._per_second:.0%} of {self._per_second * 60:,.0f} requests/min"
        if stats.troubles:
            kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(stats.troubles.items()))
            figures["troubles"] = f"{kinds} (last: {inert(stats.last_trouble)[:120]})"
        if stats.planned and settled_per_s > 0:
            figures["time left"] = _duration(max(0, left - (settled - sealed)) / settled_per_s)
        return figures


class Lines:
    """A line every few seconds."""

    def __init__(self, recipe: Recipe) -> None:
        self._progress = Progress(recipe)
        self._next = 0.0

    def note(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)

    step = note

    def update(self, stats: QueueStats) -> None:
        """A line, when it is time for one."""
        figures = self._progress.figures(stats)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            self.note("; ".join(f"{name} {value}" for name, value in figures.items()))


class Screen:
    """A live table; a context manager."""

    def __init__(self, recipe: Recipe) -> None:
        self._progress = Progress(recipe)
        self._name = recipe.name
        self._live = Live(console=Console(stderr=True), transient=False, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """One line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    step = note

    def update(self, stats: QueueStats) -> None:
        """Redraw."""
        table = Table(title=f"stillhouse · {self._name}", title_justify="left", show_header=False, box=None)
        table.add_row("", ProgressBar(total=max(1, stats.chunks), completed=stats.sealed, width=48))
        for name, value in self._progress.figures(stats).items():
            table.add_row(name, Text(value))  # a str would be read for markup
        self._live.update(table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
