"""Writes the index: one reader reads the sources once, in order."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.dataset.index import META, ROW_GROUP_ROWS, End, PartInfo, read_part_info
from stillhouse.gen.dataset.layout import ChunkId, index_key
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.plans import MorePlan, Plan, RetryPlan, SourcePlan
from stillhouse.gen.dataset.row_fates import Asked, Fate, Judge, is_full
from stillhouse.gen.dataset.series import Series
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.source.files import read_rows
from stillhouse.gen.source.formats.row import Position, Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.store.base import Store
from stillhouse.schemas.arrow import INDEX
from stillhouse.schemas.recipe import Recipe

_Structs: TypeAlias = list[dict[str, Any]] | None


@dataclass(slots=True)
class Draft:
    """An index part under construction, column by column."""

    first_chunk: int
    chunks: int
    """Chunks in a full part."""
    columns: tuple[list[Any], ...] = field(default_factory=lambda: tuple([] for _ in INDEX.names))
    asks: list[int] = field(default_factory=lambda: [0])
    series: int = 1
    """Series per prompt, in a generation of source rows."""
    rows_in_chunk: int = 0
    passed_over: int = 0

    def add(
        self,
        file: int,
        at: Position,
        fate: Fate,
        *,
        again: _Structs = None,
        earlier: _Structs = None,
        need: int | None = None,
        teacher: int | None = None,
    ) -> None:
        """Append a row to the last chunk."""
        chunk = self.first_chunk + len(self.asks) - 1
        values = (file, at.row, at.line, at.offset, chunk, *fate[:4], again, earlier, need, teacher)
        for column, value in zip(self.columns, values, strict=True):
            column.append(value)
        self.rows_in_chunk += 1
        self.asks[-1] += fate.fate == "ask"

    def is_full(self, *, prompts_per_shard: int) -> bool:
        """True if the next row begins a new part. If it only begins a new chunk, start that chunk."""
        if not is_full(asks=self.asks[-1], rows=self.rows_in_chunk, prompts_per_shard=prompts_per_shard):
            return False
        if len(self.asks) == self.chunks:
            return True
        self.asks.append(0)
        self.rows_in_chunk = 0
        return False

    def next(self) -> "Draft":
        """The next part."""
        return Draft(first_chunk=self.first_chunk + self.chunks, chunks=self.chunks, series=self.series)

    def write(self, store: Store, plan: Plan, *, last: bool, ends: Sequence[End]) -> PartInfo:
        """Store it as a part of the plan's index.

        Raises:
            DatasetError: a different part is there.
        """
        fates = self.columns[INDEX.get_field_index("fate")]
        info = PartInfo(
            first_chunk=self.first_chunk,
            asks=tuple(self.asks),
            samples=self._samples(plan),
            rows=len(fates) if isinstance(plan, SourcePlan) else 0,
            duplicates=fates.count("duplicate"),
            bad=fates.count("bad"),
            passed_over=self.passed_over,
            last=last,
            ends=tuple(ends),
        )
        arrays = [pa.array(v, f.type) for v, f in zip(self.columns, INDEX, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=INDEX.with_metadata({META: info.model_dump_json()}))
        if table["teacher"].null_count == len(table):
            table = table.drop_columns("teacher")
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd", write_page_checksum=True)
        number = plan.part_of(self.first_chunk)
        key = index_key(plan.generation, number)
        if not store.put_new(key, sink.getvalue()):
            # An earlier run wrote it just before it died; from the same sources, it must be identical.
            stored = read_part_info(store, plan.generation, number)
            if stored is None or stored.asks != info.asks or stored.rows != info.rows:
                raise DatasetError(f"{store.url}/{key}: another run wrote a different index; only one run at a time")
        return info

    def _samples(self, plan: Plan) -> tuple[int, ...]:
        """Number of samples that each chunk asks."""
        if isinstance(plan, SourcePlan):
            return tuple(asks * self.series * plan.samples for asks in self.asks)
        counts = [0] * len(self.asks)
        chunks, again = (self.columns[INDEX.get_field_index(name)] for name in ("chunk", "again"))
        for chunk, samples in zip(chunks, again, strict=True):
            counts[chunk - self.first_chunk] += len(samples)
        return tuple(counts)


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """A series of a prompt of an earlier generation, some of whose samples are asked."""

    file: int
    """Index of its file in the plan."""
    row: Mapping[str, Any]
    """The prompt's row in the index of its source generation."""
    samples: Mapping[int, str | None]
    """Samples to ask, each with the kind of its Failure, or NOT_NEEDED; None if it was not planned before."""
    earlier: Sequence[ChunkId]
    """Chunks that hold its samples so far, in order."""
    need: int | None = None
    """Accepted answers that it lacks; None if all samples are asked."""
    passed_over: int = 0
    """Samples that it does not need, if none is asked."""
    teacher: int | None = None
    """Under `route: each`, its teacher's position in the recipe."""


def write_again(
    store: Store,
    plan: RetryPlan | MorePlan,
    prompts: Iterable[AskedAgain],
    *,
    done: Sequence[PartInfo],
    prompts_per_shard: int,
) -> Iterator[PartInfo]:
    """Write the missing index parts of a retry or `more` plan, yielding each once stored.

    Raises:
        DatasetError: a different part is there.
    """
    ends = [None] * len(plan.files)
    draft = Draft(first_chunk=0, chunks=plan.chunks_per_part)
    for prompt in prompts:
        if not prompt.samples:
            draft.passed_over += prompt.passed_over
            continue
        if draft.is_full(prompts_per_shard=prompts_per_shard):
            if plan.part_of(draft.first_chunk) >= len(done):
                yield draft.write(store, plan, last=False, ends=ends)
            draft = draft.next()
        row = prompt.row
        draft.add(
            prompt.file,
            Position(row["row"], row["offset"], row["line"]),
            Fate("ask", row["key"], row["prompt_id"]),
            again=[{"sample": sample, "kind": prompt.samples[sample]} for sample in sorted(prompt.samples)],
            earlier=[{"generation": chunk.generation, "chunk": chunk.number} for chunk in prompt.earlier],
            need=prompt.need,
            teacher=prompt.teacher,
        )
    yield draft.write(store, plan, last=True, ends=ends)


class Indexer:
    """Reads a generation's sources, drops exact duplicates, and writes the index part by part."""

    def __init__(self, store: Store, recipe: Recipe, plan: SourcePlan, *, asked: Asked | None = None) -> None:
        """`asked`: the prompts asked so far; the generation's are added."""
        self._store = store
        self._recipe = recipe
        self._plan = plan
        self._files = PlannedFiles(recipe)
        self._maker = PromptMaker.of(recipe, kept=plan.kept_fields, templates_system=plan.templates_system)
        self._judge = Judge(self._maker, has_ids=recipe.source.id is not None, asked=asked)
        self._ends: list[End] = [(file.row, file.offset, file.line) for file in plan.files]

    def remember(self, parts: Sequence[pa.Table]) -> None:
        """Add the keys of index parts written before, by this generation or earlier ones; see `index.read_asked`."""
        table = pa.concat_tables(parts)
        asked = table.filter(pc.equal(table["fate"].cast(pa.string()), "ask"))
        ids = asked["prompt_id"].to_pylist() if self._recipe.source.id else [None] * len(asked)
        self._judge.remember(asked["key"].to_pylist(), ids)

    def parts(self, done: list[PartInfo]) -> Iterator[PartInfo]:
        """Write the missing parts, yielding each once stored.

        Raises:
            SourceError: a source file can't be read, or is not what the plan recorded.
        """
        if done and done[-1].last:
            return
        if done:
            self._ends = list(done[-1].ends)
        chunks = self._plan.chunks_per_part
        series = Series.of(self._recipe.identity()).per_prompt
        part = Draft(first_chunk=len(done) * chunks, chunks=chunks, series=series)
        prompts_per_shard = self._recipe.prompts_per_shard
        for file, row in self._source_rows(before=sum(info.rows for info in done)):
            if part.is_full(prompts_per_shard=prompts_per_shard):
                self._ends[file] = (row.at.row, row.at.offset, row.at.line)
                yield part.write(self._store, self._plan, last=False, ends=self._ends)
                part = part.next()
            part.add(file, row.at, self._judge.fate(row))
        yield part.write(self._store, self._plan, last=True, ends=self._ends)

    def cut_off(self, done: Sequence[PartInfo]) -> PartInfo:
        """End the index behind these parts, with one that has no rows, because the source can't be read any further.

        Raises:
            DatasetError: the next part is there.
        """
        chunks = self._plan.chunks_per_part
        part = Draft(first_chunk=len(done) * chunks, chunks=chunks)
        return part.write(self._store, self._plan, last=True, ends=done[-1].ends if done else self._ends)

    def _source_rows(self, *, before: int) -> Iterator[tuple[int, Row]]:
        """(file, row) from where the last part ended, up to the plan's limit; sets `_ends` to true."""
        left = self._plan.limit - before if self._plan.limit is not None else None
        for number, planned in enumerate(self._plan.files):
            end = self._ends[number]
            if end is None:
                continue
            file = self._files.locate(planned)
            start = Position(*end)
            for row in read_rows(file, columns=self._maker.columns, start=start, source=self._recipe.source):
                if left == 0:
                    self._ends[number] = (row.at.row, row.at.offset, row.at.line)
                    return
                yield number, row
                left = left - 1 if left is not None else None
            self._ends[number] = None
