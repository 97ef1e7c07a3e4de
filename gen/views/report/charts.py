"""Plots as inline SVG: Vega-Lite specs, drawn without a browser and without a network.

Every colour is a variable of the page's style sheet, so one drawing serves light, dark and paper. Labels are our own or
cleaned text, and the renderer escapes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert
from markupsafe import Markup

from stillhouse.gen.views.report.histogram import Histogram
from stillhouse.gen.views.report.shown import shown
from stillhouse.gen.views.report.timeline import Timeline

WIDTH = 330
"""Size of a plot in pixels without its axis: a phone can show it unscaled."""
HEIGHT = 150
_LABEL_CHARS = 24
_LABELS_WIDTH = 115
_BARS_WIDTH = WIDTH + 34 - _LABELS_WIDTH
_INK, _SOFT, _LINE, _ACCENT, _LIMIT = (f"var(--{name})" for name in ("ink", "soft", "line", "accent", "limit"))
_CONFIG = {
    "aria": False,  # the page that contains a plot describes it in words
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _SOFT,
        "titleColor": _SOFT,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "domainColor": _LINE,
        "tickColor": _LINE,
        "gridColor": _LINE,
        "labelOverlap": "greedy",
    },
    "axisY": {"minExtent": 34},
    "text": {"color": _INK, "fontSize": 11},
    "bar": {"color": _ACCENT},
    "area": {"color": _ACCENT, "line": {"color": _ACCENT, "strokeWidth": 1.5}, "fillOpacity": 0.25},
    "rule": {"color": _LIMIT},
}


def _drawn(layers: Sequence[Mapping[str, Any]], *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """The SVG of these layers."""
    spec = {"config": _CONFIG, "width": width, "height": height, "layer": layers}
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return Markup(svg)  # noqa: S704 - the renderer's own markup, in which every text is escaped


def _axis(title: str | None, **more: Any) -> dict[str, Any]:
    return {"title": title, "grid": False, **more}


_COUNTS = _axis(None, grid=True, tickCount=4, labelExpr="format(datum.value, '~s')", domain=False, ticks=False)


def _values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"values": rows}


_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def over_time(timeline: Timeline, *, value: str, limit: float | None) -> Markup:
    """A rate over time as an area, with the limit it should stay below, and the pauses."""
    unit, name = next(((u, n) for u, n in _UNITS if timeline.working_s >= 3 * u), _UNITS[-1])
    rows = []
    for point in timeline.points():
        rows.append({"x": point.at_s / unit, "y": getattr(point, value)})
        rows.append({"x": (point.at_s + point.length_s) / unit, "y": getattr(point, value)})
    x = {"field": "x", "type": "quantitative", "axis": _axis(f"{name} of work", tickCount=6), "scale": {"nice": False}}
    y = {"field": "y", "type": "quantitative", "axis": _COUNTS, "stack": None}
    layers: list[dict[str, Any]] = [
        {"data": _values(rows), "mark": {"type": "area", "interpolate": "linear"}, "encoding": {"x": x, "y": y}}
    ]
    if limit is not None:
        layers += _limit(limit)
    if pauses := [{"x": pause.at_s / unit, "t": f"paused {_time(pause.length_s)}"} for pause in timeline.pauses()]:
        layers += _pauses(pauses)
    return _drawn(layers)


def _limit(limit: float) -> list[dict[str, Any]]:
    data = _values([{"y": limit, "t": f"limit {limit:,.0f}"}])
    y = {"field": "y", "type": "quantitative"}
    text = {"type": "text", "align": "left", "baseline": "bottom", "dx": 3, "dy": -3, "color": _LIMIT}
    return [
        {"data": data, "mark": {"type": "rule", "strokeDash": [5, 3]}, "encoding": {"y": y}},
        {"data": data, "mark": text, "encoding": {"x": {"value": 0}, "y": y, "text": {"field": "t"}}},
    ]


def _pauses(pauses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    x = {"field": "x", "type": "quantitative"}
    text = {"type": "text", "align": "left", "baseline": "top", "dx": 3, "dy": -12, "color": _SOFT}
    return [
        {"data": _values(pauses), "mark": {"type": "rule", "color": _SOFT, "strokeDash": [2, 3]}, "encoding": {"x": x}},
        {"data": _values(pauses), "mark": text, "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "t"}}},
    ]


def distribution(histogram: Histogram, *, title: str) -> Markup:
    """Bars over a logarithmic axis."""
    rows = [{"from": start, "to": stop, "count": count} for start, stop, count in histogram.bars()]
    scale = {"type": "log", "nice": False}
    x = {"field": "from", "type": "quantitative", "scale": scale, "axis": _axis(title, format="~g", tickCount=6)}
    encoding = {
        "x": x,
        "x2": {"field": "to"},
        "y": {"field": "count", "type": "quantitative", "axis": _COUNTS},
        "y2": {"datum": 0},
    }
    mark = {"type": "rect", "color": _ACCENT, "stroke": "var(--card)", "strokeWidth": 1}
    return _drawn([{"data": _values(rows), "mark": mark, "encoding": encoding}])


def bars(counts: Mapping[str, int]) -> Markup:
    """One horizontal bar per name with its number, longest first."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        {
            "name": shown(name.replace("_", " "), most=_LABEL_CHARS),
            "count": count,
            "text": f"{count:,} ({count / total:.1%})",
        }
        for name, count in ordered
    ]
    y = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "axis": _axis(None, domain=False, ticks=False, labelPadding=8),
    }
    # Room at the right for the number of the longest bar.
    scale = {"domain": [0, max(counts.values()) * 1.75]}
    x = {"field": "count", "type": "quantitative", "axis": None, "scale": scale}
    data = _values(rows)
    text = {"type": "text", "align": "left", "dx": 5}
    layers = [
        {"data": data, "mark": {"type": "bar", "height": 14}, "encoding": {"x": x, "y": y}},
        {"data": data, "mark": text, "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
    ]
    return _drawn(layers, width=_BARS_WIDTH, height=26 * len(rows))


def _time(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:,.0f} s"
