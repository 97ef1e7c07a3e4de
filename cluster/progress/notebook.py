"""A run's progress in a notebook: one output that is redrawn, with the notes below it."""

import html
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from stillhouse.cluster.progress.display import Progress
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.inert import inert
from stillhouse.schemas.recipe import Recipe

DRAW_EVERY_S = 1.0
"""Time between drawings: the kernel queues each one until the browser has received it."""
MOST_NOTES = 20


def in_notebook() -> bool:
    """True in a kernel whose output a person sees: Jupyter, VS Code, Colab. IPython in a terminal does not count."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has loaded it
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Notebook:
    """A table in the cell's output."""

    def __init__(self, recipe: Recipe) -> None:
        self._progress = Progress(recipe)
        self._title = f"stillhouse · {recipe.name} → {inert(recipe.dataset.path)}"
        self._notes: list[str] = []
        self._figures: dict[str, str] = {}
        self._answered = (0, 0)
        self._next = 0.0
        self._handle: Any = None

    def note(self, text: str) -> None:
        """Print one line below the table."""
        self._notes.append(text)
        self._draw()

    step = note

    def update(self, stats: QueueStats) -> None:
        """Redraw, if it is time, and at the end."""
        figures = self._progress.figures(stats)
        self._figures = figures.dataset | {f"this call: {name}": value for name, value in figures.call.items()}
        self._answered = self._progress.answered(stats)
        if stats.finished or time.monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        self._next = time.monotonic() + DRAW_EVERY_S
        panel = _Panel(self._title, dict(self._figures), self._answered, tuple(self._notes[-MOST_NOTES:]))
        if self._handle is None:
            shown: Any = import_module("IPython.display")
            self._handle = shown.display(panel, display_id=True)
        else:
            self._handle.update(panel)


@dataclass(frozen=True, slots=True)
class _Panel:
    """The run at one moment, in the two forms that a notebook keeps."""

    title: str
    figures: dict[str, str]
    answered: tuple[int, int]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        width = max(map(len, self.figures), default=0)
        lines = [f"  {name:<{width}}  {value}" for name, value in self.figures.items()]
        return "\n".join((self.title, *lines, *self.notes))

    def _repr_html_(self) -> str:
        answered, total = self.answered
        rows = "".join(
            f"<tr><td style='text-align:left;opacity:.7'>{html.escape(name)}</td>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.figures.items()
        )
        bar = f"<progress value='{answered}' max='{max(1, total)}'></progress> " if total else ""
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<div><b>{html.escape(self.title)}</b><br>{bar}<table>{rows}</table>{notes}</div>"
