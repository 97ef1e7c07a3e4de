"""The results as a table for people (Markdown, as scripts/README.md shows it) and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: there is no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmark.contestants import AIOHTTP, HTTPX
from benchmark.results import Result, Verdict
from benchmark.scenarios import FIGURES, SCENARIOS, Figure

_COLUMNS: tuple[Figure, ...] = ("cpu_us", "asking_s", "wall_s", "requests_s", "first_s", "worker_mb", "workers_mb")
_EXTRA: tuple[Figure, ...] = ("growth", "share", "refused", "refused_share", "recovered_s")
_PLOTTED: tuple[Figure, ...] = ("cpu_us", "asking_s")
_COLOURS = {HTTPX.title: "C1", AIOHTTP.title: "C2"}
_TITLES = {scenario.name: scenario.title for scenario in SCENARIOS}


def table(results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    """All figures, then the bars."""
    columns = [*_COLUMNS, *(name for name in _EXTRA if any(name in result.figures for result in results))]
    head = ["", "prompts", *(FIGURES[name] for name in columns)]
    lines = [_row(head), _row(["---"] * len(head))]
    shown = ""
    for result in results:
        if result.scenario != shown:
            shown = result.scenario
            lines.append(_row([f"**{shown}**: {_TITLES[shown]}", *[""] * (len(head) - 1)]))
        cells = [_number(result.figures.get(name)) for name in columns]
        lines.append(_row([result.contestant, f"{result.prompts:,}", *cells]))
    return "\n".join([*lines, "", *map(_bar, verdicts)])


def _bar(verdict: Verdict) -> str:
    value = "none" if verdict.value is None else f"{verdict.value:.3g}"
    against = f" against {verdict.against}" if verdict.against else ""
    said = f"{verdict.scenario}: {FIGURES[verdict.figure]}, {verdict.contestant}{against}: {value}"
    side = "at least" if verdict.at_least else "at most"
    return f"{said} (bar: {side} {verdict.bound:g}): {'met' if verdict.met else 'NOT MET'}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def plot(results: Sequence[Result], path: Path, *, subtitle: str) -> None:
    """A row of panels a scenario, a panel a figure, a bar a contestant."""
    names = list(dict.fromkeys(result.scenario for result in results))
    height = 1.0 + 0.5 * len(names) + 0.25 * len(results)
    figure, rows = plt.subplots(len(names), len(_PLOTTED), figsize=(12, height), layout="constrained", squeeze=False)
    for name, row in zip(names, rows, strict=True):
        shown = [result for result in results if result.scenario == name]
        for panel, plotted in zip(row, _PLOTTED, strict=True):
            _draw(panel, shown, plotted)
        row[0].set_title(f"{name}: {_TITLES[name]}", fontsize=9, loc="left")
        row[1].set_yticklabels([])
    for panel, plotted in zip(rows[-1], _PLOTTED, strict=True):
        panel.set_xlabel(FIGURES[plotted], fontsize=9)
    figure.suptitle("\n".join(wrap(subtitle, 160)), fontsize=7)
    figure.savefig(path)
    plt.close(figure)


def _draw(panel: Axes, results: Sequence[Result], name: Figure) -> None:
    for place, result in enumerate(results):
        value = result.figures.get(name)
        bars = panel.barh(place, value or 0, color=_COLOURS.get(result.contestant, "C0"))
        panel.bar_label(bars, [_number(value)], padding=3, fontsize=8)
    panel.set_yticks(range(len(results)), [result.contestant for result in results])
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)
