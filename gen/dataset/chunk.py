"""A chunk's prompts, read again from the sources as the index recorded them.

Every prompt must have the key that the index recorded; a source that has changed is refused, never asked.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from stillhouse.gen.dataset.binding import Binding, read_binding
from stillhouse.gen.dataset.image_reader import ImageReader, Origin
from stillhouse.gen.dataset.index import read_chunk_rows
from stillhouse.gen.dataset.layout import RECIPE_KEY, ChunkId, plan_key
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.plans import Plan, read_plan
from stillhouse.gen.dataset.series import ONE_SERIES, Series, SeriesKey
from stillhouse.gen.dataset.stored_teacher import StoredTeacher
from stillhouse.gen.errors import DatasetError, SourceError
from stillhouse.gen.source.files import SourceFile, read_rows
from stillhouse.gen.source.formats.row import Position, Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import Columns
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A source row whose prompt is asked under another id."""

    prompt: Prompt
    duplicate_of: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A source row that doesn't make a prompt."""

    file: str
    line: int
    prompt_id: str | None
    """The row's id; None if it has no readable one."""
    message: str


@dataclass(frozen=True, slots=True)
class Retried:
    """The samples that a generation asks of a series of an earlier generation's prompt."""

    kinds: Mapping[int, str | None]
    """The samples to ask, each with the kind of Failure it was, or None if it is new; no others are asked."""
    earlier: tuple[ChunkId, ...]
    """The chunks that hold the series' samples so far, in order."""
    need: int | None = None
    """Accepted answers that the series lacks; None if all samples are asked."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Parse an index row of a generation that asks prompts again."""
        return cls(
            {again["sample"]: again["kind"] for again in entry["again"]},
            tuple(ChunkId(place["generation"], place["chunk"]) for place in entry["earlier"]),
            entry["need"],
        )


@dataclass(frozen=True, slots=True)
class ChunkImages:
    """Where the images of a chunk's prompts are."""

    reader: ImageReader
    origins: dict[bytes, Origin] = field(default_factory=dict)
    """Origins of the images, by prompt key."""

    def at_hand(self, prompt: Prompt) -> tuple[SentImage, ...] | None:
        """The prompt's images, if they can be had without reading."""
        return self.reader.at_hand(self.origins[prompt.key], prompt.images)

    def read(self, prompt: Prompt) -> tuple[SentImage, ...]:
        """The prompt's images; see `ImageReader.read`."""
        return self.reader.read(self.origins[prompt.key], prompt.images)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The contents of one chunk, in source order."""

    id: ChunkId
    prompts: list[Prompt]
    """Prompts to ask."""
    duplicates: list[Duplicate]
    bad: list[BadRow]
    kept: list[pa.Field]
    """The kept columns' types."""
    samples: int
    """The maximum number of answers per series, as its generation was planned."""
    columns: Columns
    """The columns of its dataset, without the kept ones."""
    retried: dict[int, Retried] = field(default_factory=dict)
    """By number of the series; empty in a generation of source rows."""
    accept: int = 0
    """Accepted answers wanted per series, as its generation was planned; 0 if all samples are asked."""
    series: Series = ONE_SERIES
    """How series are numbered: prompt x series per prompt + teacher; a sample's ordinal is series x samples +
    sample."""
    upstream: tuple[StoredTeacher, ...] = ()
    """Teachers of the datasets that its source comes from."""
    images: ChunkImages | None = None
    """None if the recipe's prompts have no images."""

    @property
    def series_count(self) -> int:
        """Number of series of its prompts, including those that a later generation does not ask."""
        return len(self.prompts) * self.series.per_prompt

    @property
    def asked(self) -> Sequence[int]:
        """The numbers of the series that it asks, in order."""
        return sorted(self.retried) if self.retried else range(self.series_count)

    def add_retried(self, entry: Mapping[str, Any]) -> None:
        """Add a series of the last prompt, from a row of the index."""
        number = (len(self.prompts) - 1) * self.series.per_prompt + (entry["teacher"] or 0)
        self.retried[number] = Retried.of(entry)

    def prompt_of(self, number: int) -> Prompt:
        """The prompt of the series with this number."""
        return self.prompts[number // self.series.per_prompt]

    def key_of(self, number: int) -> SeriesKey:
        """The key of the series with this number."""
        return SeriesKey(self.prompt_of(number).key, number % self.series.per_prompt)

    def need(self, number: int) -> int:
        """Under `ask.accept`: the accepted answers that this series lacked before the chunk."""
        if not self.retried:
            return self.accept
        retried = self.retried.get(number)
        return 0 if retried is None else self.accept if retried.need is None else retried.need

    def samples_of(self, number: int) -> Sequence[int]:
        """The samples of this series that may be asked, in order."""
        if not self.retried:
            return range(self.samples)
        return sorted(self.retried[number].kinds) if number in self.retried else ()


class ChunkReader:
    """Reads chunks of one dataset, best in order, so that a compressed source is decompressed only once."""

    def __init__(self, store: ReadableStore, recipe: Recipe) -> None:
        self._store = store
        self._recipe = recipe
        self._files = PlannedFiles(recipe)
        self._bound: Binding | None = None
        self._plans: dict[int, tuple[Plan, PromptMaker]] = {}
        self._images = ImageReader(recipe.source) if recipe.source.images else None
        self._rows: tuple[str, Iterator[Row], int] | None = None
        """(url, its rows, number of the next row)."""

    def read(self, chunk: ChunkId) -> Chunk:
        """Read the chunk.

        Raises:
            SourceError: a source file is gone, or its rows are not the planned ones.
            DatasetError: its plan, its index or the dataset's binding is gone or damaged.
        """
        plan, maker = self._planned(chunk.generation)
        index = read_chunk_rows(self._store, chunk, part=plan.part_of(chunk.number))
        bound = self._binding()
        read = Chunk(
            chunk,
            [],
            [],
            [],
            plan.kept_fields,
            samples=plan.samples,
            columns=bound.columns,
            accept=plan.accept,
            series=Series.of(bound.identity),
            upstream=plan.upstream,
            images=ChunkImages(self._images) if self._images is not None else None,
        )
        located: dict[int, SourceFile] = {}
        for entry in _entries(index):
            if entry["teacher"] and read.prompts and read.prompts[-1].key == entry["key"]:
                read.add_retried(entry)
                continue
            number = entry["file"]
            if entry["fate"] == "bad":
                read.bad.append(BadRow(plan.files[number].url, entry["line"], entry["prompt_id"], entry["detail"]))
                continue
            if (file := located.get(number)) is None:
                file = located[number] = self._files.locate(plan.files[number])
            prompt = self._prompt(file, maker, entry)
            if entry["fate"] == "ask":
                if read.images is not None:
                    read.images.origins[prompt.key] = Origin(file, _position(entry))
                read.prompts.append(prompt)
                if entry["again"] is not None:
                    read.add_retried(entry)
            else:
                read.duplicates.append(Duplicate(prompt, entry["detail"]))
        return read

    def _planned(self, generation: int) -> tuple[Plan, PromptMaker]:
        """A generation's plan, read with its first chunk: it may be newer than this reader."""
        if generation not in self._plans:
            plan = read_plan(self._store, generation)
            if plan is None:
                raise DatasetError(f"{self._store.url}/{plan_key(generation)}: is gone; restore it")
            plan = plan.with_samples(self._binding().first_samples)
            maker = PromptMaker.of(self._recipe, kept=plan.kept_fields, templates_system=plan.templates_system)
            self._plans[generation] = plan, maker
        return self._plans[generation]

    def _binding(self) -> Binding:
        if self._bound is None:
            self._bound = read_binding(self._store)
        if self._bound is None:
            raise DatasetError(f"{self._store.url}: holds no {RECIPE_KEY}; restore it")
        return self._bound

    def _prompt(self, file: SourceFile, maker: PromptMaker, entry: dict[str, Any]) -> Prompt:
        row = self._row(file, _position(entry), columns=maker.columns)
        prompt = maker.remake(row.values) if row is not None and row.values is not None else "no such row"
        if isinstance(prompt, str) or prompt.key != entry["key"]:
            self._rows = None
            reason = f" ({prompt})" if isinstance(prompt, str) else ""
            raise SourceError(
                f"{file.url}:{entry['line']}: is not the planned prompt{reason}: the file has changed; restore it, "
                "or use another dataset.path"
            )
        return prompt

    def _row(self, file: SourceFile, at: Position, *, columns: Collection[str]) -> Row | None:
        """The row at a position, from the open reader if it is not far ahead."""
        if self._rows is None or self._rows[0] != file.url or not 0 <= at.row - self._rows[2] <= 10_000:
            rows = read_rows(file, columns=columns, start=at, source=self._recipe.source)
        else:
            rows = self._rows[1]
        self._rows = None  # also if reading fails
        for row in rows:
            if row.at.row >= at.row:
                self._rows = (file.url, rows, row.at.row + 1)
                return row if row.at.row == at.row else None
        return None


def _entries(index: pa.Table) -> Iterator[dict[str, Any]]:
    """Its rows, few at a time: as Python objects, those of a large chunk take more memory than its prompts."""
    fates = index["fate"].cast(pa.string())  # a dictionary's values are slow to turn into Python's
    index = index.set_column(index.schema.get_field_index("fate"), "fate", fates)
    for some in index.to_batches(max_chunksize=1_000):
        yield from some.to_pylist()


def _position(entry: Mapping[str, Any]) -> Position:
    return Position(entry["row"], entry["offset"], entry["line"])
