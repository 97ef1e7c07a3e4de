"""The live table of a run on a terminal; apart from `display.py`, because nothing else needs rich."""

import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stillhouse.cluster.progress.display import Progress, Shown, duration
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.inert import inert
from stillhouse.schemas.recipe import Recipe


class Screen:
    """A live table; a context manager."""

    def __init__(self, recipe: Recipe) -> None:
        self._progress = Progress(recipe)
        self._title = f"stillhouse · {recipe.name} → {inert(recipe.dataset.path)}"
        self._started = time.monotonic()
        self._live = Live(console=Console(stderr=True), transient=False, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Print one line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    step = note

    def update(self, stats: QueueStats) -> None:
        """Redraw."""
        self.show(self._progress.shown(stats))

    def show(self, shown: Shown) -> None:
        """Redraw."""
        answered, total = shown.answered, shown.total
        bar = Table.grid(padding=(0, 1))
        share = f"{answered / total:.0%}" if total else ""
        bar.add_row(ProgressBar(total=max(1, total), completed=answered, width=40), share)
        gone = {"time gone": duration(time.monotonic() - self._started)}
        tables = _table("dataset", shown.figures.dataset), _table("this call", shown.figures.call | gone)
        self._live.update(Group(Text(self._title, style="bold"), bar, *tables))


def _table(title: str, figures: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=len("this call"))
    table.add_column(style="dim", no_wrap=True, min_width=len("limits used"))
    for number, (name, value) in enumerate(figures.items()):
        # A str would be parsed for markup.
        table.add_row("" if number else title, name, Text(value, style="yellow" if name == "troubles" else ""))
    return table
