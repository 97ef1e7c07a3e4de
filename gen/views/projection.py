"""Projects what the rest of a dataset needs from its answers so far: tokens, money, time, each with a range.

The range contains the final figure with 90 % probability, provided that the rest is like what was answered. Answers to
one prompt are alike, so the estimate is based on prompts, not on answers: s/m * sqrt(1/k + 1/K) is the relative error
for K future prompts, estimated from k prompts whose totals have mean m and standard deviation s (W. Cochran, Sampling
Techniques, 6.4). It is applied on the log scale, because costs are skewed and never below zero. For log-normal lengths
that vary by a factor of 1.6 to 2.7, the simulated range contained the true value in 81 to 89 of 100 cases, and most of
the others were more expensive.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.gen.views.workload import Need, shares_of, slowest_account
from stillhouse.schemas.price import Price
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

LEAST_PROMPTS = 10
"""With fewer answered prompts, a range would be too wide to be useful."""
MOST_ANSWERS = 100_000
"""Answers of the latest shards that are read; more would not narrow the range."""
_PROBABILITY = 0.9
_COLUMNS = (
    "teacher",
    "prompt_key",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "cost_usd",
    "asked_at",
    "latency_s",
)


class Range(BaseModel):
    """A figure that is uncertain."""

    model_config = ConfigDict(frozen=True)

    low: float
    likely: float
    high: float

    def plus(self, known: float) -> "Range":
        """The figure with a certain amount added."""
        return Range(low=self.low + known, likely=self.likely + known, high=self.high + known)


class Projection(BaseModel):
    """What the remaining samples need."""

    model_config = ConfigDict(frozen=True)

    answers: int
    """Number of answers that this is based on, including rejected ones."""
    prompts: int
    """Number of prompts that these answers belong to."""
    input_tokens: Range
    output_tokens: Range
    usd: Range | None
    """At the recipe's prices; null if one is not set."""
    whole_usd: Range | None
    """Including the cost of the sealed shards."""
    checks_usd: float | None = None
    """Cost of judges' verdicts, at the mean of the sealed shards; null if they cost nothing."""
    seconds: Range | None
    """At the declared limits and the latency seen so far; null if neither decides it."""
    bound_by: str
    """What decides `seconds`, or why there is none."""


def project(dataset: DatasetReader, recipe: Recipe, *, left: int) -> Projection | str:
    """What asking `left` samples needs, judged by the answers in the latest shards; or why that can't be estimated.

    Raises:
        DatasetError: a shard or a file beside it is damaged.
    """
    seen = _see(dataset, recipe)
    shares = [share for share in shares_of(recipe) if share.share]
    for teacher in shares:
        found = seen.teachers.get(teacher.name)
        if found is None or found.prompts < LEAST_PROMPTS:
            several = f" by {teacher.name}" if len(recipe.answering) > 1 else ""
            return f"fewer than {LEAST_PROMPTS} prompts are answered{several} with token counts"
    parts = {share.name: _Part(seen.teachers[share.name], left * share.share, seen) for share in shares}
    seconds, bound_by = _seconds(recipe, parts)
    usd = None
    if all(teacher.price is not None for teacher in recipe.teachers if teacher.name in parts):
        usd = _sum(part.total("usd") for part in parts.values())
    return Projection(
        answers=sum(found.answers for found in seen.teachers.values()),
        prompts=sum(found.prompts for found in seen.teachers.values()),
        input_tokens=_sum(part.total("input") for part in parts.values()),
        output_tokens=_sum(part.total("output") for part in parts.values()),
        usd=usd,
        whole_usd=None if usd is None else usd.plus(seen.spent_usd),
        checks_usd=left * seen.checks_usd / seen.settled if seen.checks_usd else None,
        seconds=seconds,
        bound_by=bound_by,
    )


@dataclass(frozen=True, slots=True)
class _Figure:
    """A quantity of one answer, such as its tokens."""

    mean: float
    spread: float
    """Standard deviation of a prompt's total, relative to the mean of such totals."""


@dataclass(frozen=True, slots=True)
class _Teacher:
    """The answers of one teacher, summarised."""

    answers: int
    prompts: int
    figures: Mapping[str, _Figure]
    """input, output (tokens), usd and latency (seconds), each for one answer."""
    peak: int
    """The most requests that were in flight at once."""


@dataclass(slots=True)
class _Seen:
    """The part of the dataset that was read."""

    teachers: dict[str, _Teacher] = field(default_factory=dict)
    settled: int = 0
    failed: int = 0
    """Samples in the shards that were read."""
    checks_usd: float = 0.0
    """Cost of judges' verdicts in the shards that were read."""
    spent_usd: float = 0.0
    """Cost of judges' verdicts in all sealed shards."""
    used: dict[str, int] = field(default_factory=lambda: {"input": 0, "output": 0})
    wasted: dict[str, int] = field(default_factory=lambda: {"input": 0, "output": 0})
    """Tokens of answers, and of unusable replies."""

    @property
    def answered(self) -> float:
        """The share of samples that get an answer."""
        return 1 - self.failed / self.settled if self.settled else 1.0

    def with_waste(self, name: str) -> float:
        """What is billed for each token of an answer."""
        used = self.used.get(name, 0)
        return 1 + self.wasted[name] / used if used else 1.0


class _Part:
    """One teacher's part of the rest."""

    def __init__(self, found: _Teacher, samples: float, seen: _Seen) -> None:
        self._found = found
        self._seen = seen
        self.samples = samples
        self.answers = samples * seen.answered
        self.peak = found.peak

    def total(self, name: str) -> tuple[float, float]:
        """(the likely total, the relative error that the range spans to each side, in standard deviations)."""
        figure = self._found.figures[name]
        per_prompt = self._found.answers / self._found.prompts
        ahead = max(1.0, self.answers / per_prompt)
        error = figure.spread * math.sqrt(1 / self._found.prompts + 1 / ahead)
        waste = self._seen.with_waste("output" if name == "usd" else name) if name != "latency" else 1.0
        return self.answers * figure.mean * waste, _t(self._found.prompts - 1) * error


def _sum(totals: Iterator[tuple[float, float]]) -> Range:
    """The sum of independent totals."""
    parts = list(totals)
    likely = sum(total for total, _ in parts)
    if not likely:
        return Range(low=0, likely=0, high=0)
    factor = math.exp(math.sqrt(sum((total * error) ** 2 for total, error in parts)) / likely)
    return Range(low=likely / factor, likely=likely, high=likely * factor)


def _seconds(recipe: Recipe, parts: Mapping[str, _Part]) -> tuple[Range | None, str]:
    """How long it takes at the limits, if all figures of one kind are low, likely or high."""
    if any(teacher.mode != "online" for teacher in recipe.teachers):
        return None, "the providers decide how long their batches take"
    found: list[float] = []
    name = ""
    for end in (-1, 0, 1):
        needs = {}
        for teacher, part in parts.items():
            figures = {each: part.total(each) for each in ("input", "output", "latency")}
            value = {each: total * math.exp(end * error) for each, (total, error) in figures.items()}
            needs[teacher] = Need(part.samples, value["input"], value["output"], value["latency"], part.peak)
        seconds, bound_by = slowest_account(recipe, needs)
        if seconds is None:
            return None, bound_by
        found.append(seconds)
        name = bound_by if end == 0 else name
    return Range(low=found[0], likely=found[1], high=found[2]), name


def _t(freedom: int) -> float:
    """The quantile of Student's t with 5 % above it (Abramowitz and Stegun 26.7.5; 1 % off at 4 degrees)."""
    z = NormalDist().inv_cdf((1 + _PROBABILITY) / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _see(dataset: DatasetReader, recipe: Recipe) -> _Seen:
    seen = _Seen()
    keys: list[str] = []
    read = 0
    for chunk, meta in reversed(list(dataset.metas())):
        seen.spent_usd += (meta.counts.usd or 0.0) + (meta.counts.checks_usd or 0.0)
        if read >= MOST_ANSWERS:
            continue
        failed = sum(meta.counts.failed.values())
        rejected = sum(meta.counts.rejected.values())
        read += meta.counts.records + rejected
        seen.settled += meta.counts.records + rejected + failed
        seen.failed += failed
        seen.checks_usd += meta.counts.checks_usd or 0.0
        seen.used["input"] += meta.counts.input_tokens
        seen.used["output"] += meta.counts.output_tokens
        seen.wasted["input"] += meta.counts.wasted_input_tokens
        seen.wasted["output"] += meta.counts.wasted_output_tokens
        keys.append(chunk.data_key)
        if side := meta.side.get("rejected"):
            keys.append(side.key)
    tables = [_answers_in(dataset.store, key) for key in keys]
    if tables:
        answers = pa.concat_tables(tables)
        for teacher in recipe.answering:
            mine = answers.filter(pc.equal(answers["teacher"], teacher.name))
            if len(mine):
                seen.teachers[teacher.name] = _measured(mine, teacher)
    return seen


def _answers_in(store: ReadableStore, key: str) -> pa.Table:
    """The answers of a file that report their usage; rows of duplicate prompts are skipped, because they were never
    asked.
    """
    with open_parquet(store, key) as file:
        table = file.read(columns=list(_COLUMNS))
    table = table.set_column(0, "teacher", pc.cast(table["teacher"], pa.string()))
    wanted = [pc.is_valid(table[name]) for name in ("asked_at", "input_tokens", "output_tokens")]
    return table.filter(pc.and_(pc.and_(wanted[0], wanted[1]), wanted[2])).cast(_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("teacher", pa.string()),
        ("prompt_key", pa.string()),
        *((name, pa.int64()) for name in ("input_tokens", "cached_tokens", "output_tokens")),
        ("cost_usd", pa.float64()),
        ("asked_at", pa.timestamp("us", tz="UTC")),
        ("latency_s", pa.float32()),
    ]
)


def _measured(answers: pa.Table, teacher: Teacher) -> _Teacher:
    prices = teacher.price or Price(input=0, output=0)
    cached = pc.fill_null(answers["cached_tokens"], 0)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    fresh = pc.max_element_wise(pc.subtract(answers["input_tokens"], cached), 0)
    usd = pc.add(
        pc.add(pc.multiply(fresh, prices.input / 1e6), pc.multiply(cached, cached_price / 1e6)),
        pc.multiply(answers["output_tokens"], prices.output / 1e6),
    )
    if teacher.mode == "batch-then-online":  # some were asked at one price, some at another
        usd = pc.coalesce(answers["cost_usd"], usd)
    columns = {
        "input": answers["input_tokens"],
        "output": answers["output_tokens"],
        "usd": usd,
        "latency": pc.cast(answers["latency_s"], pa.float64()),
    }
    by_prompt = pa.table({"key": answers["prompt_key"], **columns}).group_by("key")
    totals = by_prompt.aggregate([([], "count_all"), *((name, "sum") for name in columns)])
    counts = totals["count_all"].to_pylist()
    figures = {name: _figure(totals[f"{name}_sum"].to_pylist(), counts) for name in columns}
    return _Teacher(len(answers), len(totals), figures, _peak(answers))


def _figure(totals: Sequence[float], counts: Sequence[int]) -> _Figure:
    """The ratio estimator: prompts may have had different numbers of answers."""
    prompts, answers = len(totals), sum(counts)
    mean = sum(totals) / answers
    if not mean or prompts < 2:
        return _Figure(mean, 0.0)
    squares = sum((total - mean * count) ** 2 for total, count in zip(totals, counts, strict=True))
    return _Figure(mean, math.sqrt(squares / (prompts - 1)) / (mean * answers / prompts))


def _peak(answers: pa.Table) -> int:
    starts = pc.cast(answers["asked_at"], pa.int64()).to_pylist()
    waits = answers["latency_s"].to_pylist()
    events = [(start, 1) for start in starts]
    events += [(start + round(wait * 1e6), -1) for start, wait in zip(starts, waits, strict=True)]
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most
