"""Fills the page's template with what was read of a dataset. Jinja escapes every text, and no script may run."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stillhouse.gen.dataset.budget_words import share_used, used_words
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.provenance import Survey, survey
from stillhouse.gen.views.report import charts
from stillhouse.gen.views.report.answers import Answers, read_answers
from stillhouse.gen.views.report.histogram import Histogram
from stillhouse.gen.views.report.samples import Samples, read_samples
from stillhouse.gen.views.report.shown import TEXT_CHARS, shown
from stillhouse.gen.views.report.timeline import Timeline
from stillhouse.schemas import __version__
from stillhouse.schemas.recipe_file import RecipeError


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and its description."""

    title: str
    svg: Markup
    words: str
    """What the drawing shows, for people who can't see it."""
    caption: str


def report(store: ReadableStore) -> str:
    """The HTML page of the dataset at the store's root, complete or not.

    Raises:
        DatasetError: there is none, or it is damaged.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    dataset = DatasetReader(store)
    surveyed = survey(dataset)
    if surveyed.summary.state != "done" and dataset.is_running:
        surveyed.summary.state = "running"
    answers = read_answers(store, surveyed.files)
    samples = read_samples(store, answers, columns=dataset.bound.columns)
    return _render(surveyed, answers, samples, limits=_limits(dataset))


def _render(surveyed: Survey, answers: Answers, samples: Samples, *, limits: Mapping[str, float]) -> str:
    environment = Environment(
        loader=PackageLoader("stillhouse.gen.views.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": _number, "shown": shown, "long": lambda text: shown(text, most=TEXT_CHARS)}
    budget = surveyed.summary.budget
    style = files("stillhouse.gen.views.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        version=__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        summary=surveyed.summary,
        provenance=surveyed.provenance,
        recipe=yaml.safe_dump(surveyed.provenance.identity, sort_keys=False, allow_unicode=True),
        shards=surveyed.shards,
        budget=used_words(budget),
        shortfall=", ".join(
            f"{reason} {count:,}" for reason, count in sorted(surveyed.summary.short_by_reason.items())
        ),
        budget_share=f"{share_used(budget):.0%}" if budget else "",
        answers=answers,
        span=_span(answers.timeline),
        throughput=_throughput(answers.timeline, limits) if answers.timeline.working_s >= SHORTEST_CURVE_S else [],
        seconds=answers.timeline.working_s,
        distributions=_distributions(answers),
        counts=_counts(surveyed, answers),
        samples=samples,
    )


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _span(timeline: Timeline) -> str:
    if (span := timeline.span) is None:
        return ""
    first, last = (datetime.fromtimestamp(at, UTC) for at in span)
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end} UTC"


SHORTEST_CURVE_S = 5
"""Shorter work has no meaningful rate: a curve of a few seconds only shows where the slots begin."""

_RATES = (
    ("Answers per minute", "answers_per_minute", "requests_per_minute", True),
    ("Output tokens per minute", "output_tokens_per_minute", "output_tokens_per_minute", True),
    ("Requests in flight", "in_flight", "in_flight", True),
    ("Input tokens per minute", "input_tokens_per_minute", "input_tokens_per_minute", False),
    ("Tokens per minute", "tokens_per_minute", "tokens_per_minute", False),
)
"""(title, points, limit, whether to draw it without a limit)."""


def _throughput(timeline: Timeline, limits: Mapping[str, float]) -> list[Plot]:
    plots = []
    for title, value, name, always in _RATES:
        limit = limits.get(name)
        if limit is None and not always:
            continue
        rates = [(getattr(point, value), point.length_s) for point in timeline.points()]
        mean = sum(rate * length for rate, length in rates) / sum(length for _, length in rates)
        most = max(rate for rate, _ in rates)
        caption = f"mean {_short(mean)}, at most {_short(most)}"
        caption += f"; limit {_short(limit)}, of which {mean / limit:.0%} used" if limit else "; no limit declared"
        svg = charts.over_time(timeline, value=value, limit=limit)
        plots.append(Plot(title, svg, f"{title} over time: {caption}", caption))
    return plots


def _distributions(answers: Answers) -> list[Plot]:
    drawn: list[tuple[str, str, Histogram]] = [
        ("Latency", "seconds", answers.latency),
        ("Output length", "tokens, reasoning included", answers.output),
        ("Reasoning length", "tokens", answers.reasoning),
        ("Input length", "tokens", answers.input),
    ]
    return [
        Plot(
            title,
            charts.distribution(histogram, title=unit),
            f"Histogram of {unit}",
            _quantiles(histogram, whole="tokens" in unit),
        )
        for title, unit, histogram in drawn
        if histogram.count
    ]


def _quantiles(histogram: Histogram, *, whole: bool) -> str:
    """The quantiles in words; `whole`: the numbers are integers."""
    names = (("median", 0.5), ("95th percentile", 0.95), ("99th percentile", 0.99))
    values = ((name, histogram.quantile(share)) for name, share in names)
    quantiles = ", ".join(f"{name} {_short(round(found) if whole else found)}" for name, found in values)
    return f"mean {_short(histogram.mean)}, {quantiles}"


def _counts(surveyed: Survey, answers: Answers) -> list[Plot]:
    summary = surveyed.summary
    drawn: list[tuple[str, Mapping[str, int], str]] = [
        ("Finish reasons", answers.finish, "of all answers, including rejected ones"),
        (
            "Rejections by reason",
            summary.rejected_by_reason,
            ("answers that are not in the dataset; they are in rejected/"),
        ),
        (
            "Failures by kind",
            summary.failed_by_kind,
            "; ".join(filter(None, ("given up on; stillhouse retry asks for them again", summary.late_words))),
        ),
    ]
    for check, teachers in summary.checks.items():
        of = {f"{what} ({name})": count for name, each in teachers.items() for what, count in each.model_dump().items()}
        drawn.append((f"Check {check}", {name: count for name, count in of.items() if count}, "by teacher"))
    return [Plot(title, charts.bars(counts), _words(counts), caption) for title, counts, caption in drawn if counts]


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{shown(name)} {count:,}" for name, count in counts.items())


def _short(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _limits(dataset: DatasetReader) -> dict[str, float]:
    """The limits of the last run's recipe; over several accounts their sum, if each has one."""
    try:
        recipe = dataset.last_run()
    except (DatasetError, RecipeError):  # nothing else on the page depends on it
        return {}
    stated = [limits.model_dump(exclude_none=True) for limits in recipe.accounts.values()]
    names = set.intersection(*map(set, stated))
    return {name: float(sum(limits[name] for limits in stated)) for name in names}
