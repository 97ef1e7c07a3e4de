"""The answers of a dataset, read column by column and file by file; memory does not grow with them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.gen.views.report.histogram import Histogram
from stillhouse.gen.views.report.timeline import Timeline

_READERS = 8
_WINDOW = 64
"""Files that are read ahead."""
_BATCH_ROWS = 65_536
_SOURCE = ("teacher", "model", "endpoint")
_NUMBERS = ("input_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "latency_s", "attempts")
_ANSWER = (*_SOURCE, *_NUMBERS, "finish_reason", "asked_at")
MOST_SOURCES = 50
"""Maximum number of teachers, models and endpoints listed individually; a response may name any model."""
EACH_KIND = 2
"""Examples kept of each reason and kind."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a stored file."""

    key: str
    row: int


@dataclass(slots=True)
class Source:
    """The answers of one model at one endpoint."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one file, and where the first of them is."""

    place: Place
    rows: pa.Table
    kind: str
    """data, rejected or failed."""


@dataclass(slots=True)
class Answers:
    """All answers, including rejected ones."""

    latency: Histogram = field(default_factory=Histogram)
    input: Histogram = field(default_factory=Histogram)
    output: Histogram = field(default_factory=Histogram)
    reasoning: Histogram = field(default_factory=Histogram)
    timeline: Timeline = field(default_factory=Timeline)
    finish: Counter[str] = field(default_factory=Counter)
    sources: dict[tuple[str, str, str], Source] = field(default_factory=dict)
    retried: int = 0
    """Answers that took more than one request."""
    records: list[tuple[str, int]] = field(default_factory=list)
    """(key, rows) of each shard with rows."""
    examples: dict[tuple[str, str], list[Place]] = field(default_factory=dict)
    """By (rejected or failed, reason or kind), the first ones."""

    @property
    def count(self) -> int:
        """Answers."""
        return sum(self.finish.values())

    def add_file(self, batches: list[Batch]) -> None:
        """Add a file."""
        for batch in batches:
            self._add(batch)
        if batches and batches[0].kind == "data":
            self.records.append((batches[0].place.key, sum(len(batch.rows) for batch in batches)))

    def _add(self, batch: Batch) -> None:
        if batch.kind == "data":
            self._add_answers(batch.rows)
            return
        reasons = batch.rows["reject_reason" if batch.kind == "rejected" else "kind"]
        self._remember(batch, reasons)
        if batch.kind == "rejected":
            # A duplicate prompt was never asked, and a refusal may come as an error without token counts.
            self._add_answers(batch.rows.filter(pc.is_valid(batch.rows["asked_at"])))

    def _add_answers(self, table: pa.Table) -> None:
        if not len(table):
            return
        self.timeline.add(table)
        self.latency.add(table["latency_s"])
        self.input.add(table["input_tokens"])
        self.output.add(table["output_tokens"])
        self.reasoning.add(table["reasoning_tokens"].filter(pc.greater(table["reasoning_tokens"], 0)))
        self.retried += pc.sum(pc.greater(table["attempts"], 1)).as_py() or 0
        for each in pc.value_counts(_texts(table["finish_reason"])).to_pylist():
            self.finish[each["values"] or "none"] += each["counts"]
        self._add_sources(table)

    def _add_sources(self, table: pa.Table) -> None:
        sums = ("input_tokens", "output_tokens", "cost_usd")
        columns = {name: _texts(table[name]) for name in _SOURCE} | {name: table[name] for name in sums}
        grouped = pa.table(columns).group_by(list(_SOURCE))
        found = grouped.aggregate([([], "count_all"), *((name, "sum") for name in sums)])
        for row in found.to_pylist():
            name = tuple(row[column] or "" for column in _SOURCE)
            if name not in self.sources and len(self.sources) >= MOST_SOURCES:
                name = ("others", "", "")
            source = self.sources.setdefault((name[0], name[1], name[2]), Source())
            source.answers += row["count_all"]
            source.input_tokens += row["input_tokens_sum"] or 0
            source.output_tokens += row["output_tokens_sum"] or 0
            if (usd := row["cost_usd_sum"]) is not None:
                source.usd = (source.usd or 0.0) + usd

    def _remember(self, batch: Batch, reasons: pa.ChunkedArray) -> None:
        texts = _texts(reasons)
        for reason in pc.unique(texts).to_pylist():
            places = self.examples.setdefault((batch.kind, reason), [])
            if len(places) < EACH_KIND:
                found = pc.indices_nonzero(pc.equal(texts, reason))[: EACH_KIND - len(places)].to_pylist()
                places += [Place(batch.place.key, batch.place.row + row) for row in found]


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


def read_answers(store: ReadableStore, files: Sequence[tuple[str, str]]) -> Answers:
    """Read every answer, rejection and Failure of these files, each (key, kind).

    Raises:
        DatasetError: a file is missing or damaged.
    """
    answers = Answers()
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _WINDOW):  # a pool reads ahead as far as it is allowed to
            window = files[start : start + _WINDOW]
            read = pool.map(lambda file: list(_batches(store, *file)), window)
            for (key, _), batches in zip(window, read, strict=True):
                with reporting_damage(store, key):
                    answers.add_file(batches)
    return answers


def _batches(store: ReadableStore, key: str, kind: str) -> Iterator[Batch]:
    columns = {"data": _ANSWER, "rejected": (*_ANSWER, "reject_reason"), "failed": ("kind",)}[kind]
    row = 0
    with open_parquet(store, key) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
            yield Batch(Place(key, row), pa.Table.from_batches([batch]), kind)
            row += len(batch)
