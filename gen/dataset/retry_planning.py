"""Plans a dataset's Failures to be asked again, as a separate generation.

What such a generation asks follows from its plan and the shards before it, which never change: a run that finds the
plan without its index, or with part of it, writes the same rest as the first run would have. Memory grows only with the
Failures.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.dataset.chunk import Retried
from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.dataset.index import PartInfo, read_chunk_rows, read_part
from stillhouse.gen.dataset.indexer import AskedAgain, write_again
from stillhouse.gen.dataset.layout import ChunkId, sealed_chunks
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.plans import Plan, PlannedFile, RetryPlan, SourcePlan, upstream_of
from stillhouse.gen.dataset.prompt_outcomes import read_outcomes
from stillhouse.gen.dataset.series import Series, SeriesKey, read_series
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe

_READERS = 16

_Failure: TypeAlias = tuple[SeriesKey, int, str]
"""(series, sample, kind)."""


@dataclass(slots=True)
class _Failed:
    """A series with samples that are Failures."""

    chunks: tuple[ChunkId, ...]
    """The chunks that hold its samples, in order; the first is of a generation of source rows."""
    kinds: dict[int, str] = field(default_factory=dict)
    """By sample."""
    need: int | None = None
    """Accepted answers that it lacks; None if all samples are wanted."""


def retry_plan(store: Store, recipe: Recipe, plans: Sequence[Plan], *, kinds: Sequence[str]) -> RetryPlan | None:
    """A generation of the unresolved Failures in `plans`, all of which are sealed; None if there are none.

    Raises:
        SourceError: a source file with such a prompt is gone or changed.
        DatasetError: a shard, a side file or the index is missing or damaged.
    """
    failures = _failures(store, plans, kinds)
    # Not by url: a file may have moved, and another file may have its old url.
    files = dict.fromkeys(planned.content for planned, _ in _index_rows(store, plans, failures))
    there = PlannedFiles(recipe)
    for file in files:
        there.locate(file)
    if not failures:
        return None
    return RetryPlan(
        generation=len(plans),
        files=tuple(files),
        samples=max(plan.samples for plan in plans),
        accept=max(plan.accept for plan in plans),
        kinds=tuple(kinds),
        templates_system=plans[0].templates_system,
        kept=plans[0].kept,
        upstream=upstream_of(plans),
    )


def unpaid_plan(store: Store, recipe: Recipe, plans: Sequence[Plan]) -> RetryPlan | None:
    """A generation of what there was no money for; raises as `retry_plan` does."""
    if next(iter(store.list("failed/")), None) is None:  # nearly always true, and cheaper than reading every shard
        return None
    return retry_plan(store, recipe, plans, kinds=("budget",))


def retry_parts(
    store: Store, plan: RetryPlan, earlier: Sequence[Plan], *, done: Sequence[PartInfo], prompts_per_shard: int
) -> Iterator[PartInfo]:
    """Write the parts of a retry generation's index that are not `done`, yielding each once it is stored.

    Raises:
        DatasetError: see `retry_plan`; or a different index is there.
    """
    series = read_series(store)
    failures = _failures(store, earlier, plan.kinds)
    numbers = {file: number for number, file in enumerate(plan.files)}
    prompts = (
        AskedAgain(numbers[file.content], row, failed.kinds, failed.chunks, failed.need, teacher=series.in_index(key))
        for file, row in _index_rows(store, earlier, failures)
        for key in series.keys(row["key"])
        if (failed := failures.get(key))
    )
    return write_again(store, plan, prompts, done=done, prompts_per_shard=prompts_per_shard)


def _failures(store: Store, plans: Sequence[Plan], kinds: Collection[str]) -> dict[SeriesKey, _Failed]:
    """By series: what failed in these generations and has not been asked again since."""
    series = read_series(store)
    found: dict[SeriesKey, _Failed] = {}
    for generation, chunks in itertools.groupby(sorted(sealed_chunks(store)), key=lambda chunk: chunk.generation):
        if generation == len(plans):
            break
        with ThreadPoolExecutor(_READERS) as pool:
            for chunk, failures in pool.map(lambda chunk: (chunk, _read_failures(store, chunk, kinds, series)), chunks):
                plan = plans[generation]
                asked = {} if isinstance(plan, SourcePlan) else _asked_again(store, plan, chunk, series)
                for key, retried in asked.items():
                    _drop(found, key, retried, (*retried.earlier, chunk))
                for key, sample, kind in failures:
                    places = (*asked[key].earlier, chunk) if key in asked else (chunk,)
                    found.setdefault(key, _Failed(places)).kinds[sample] = kind
    accept = max((plan.accept for plan in plans), default=0)
    return _short(store, found, series, accept=accept) if accept else found


def _short(
    store: Store, found: Mapping[SeriesKey, _Failed], series: Series, *, accept: int
) -> dict[SeriesKey, _Failed]:
    """The series with fewer accepted answers than wanted, and how many they lack."""
    by_chunk: defaultdict[ChunkId, list[SeriesKey]] = defaultdict(list)
    for key, failed in found.items():
        failed.need = accept
        for chunk in failed.chunks:
            by_chunk[chunk].append(key)

    def accepted(chunk: ChunkId) -> list[tuple[_Failed, int]]:
        outcomes = read_outcomes(store, chunk, series)
        return [(found[key], len(outcomes[key].accepted)) for key in by_chunk[chunk] if key in outcomes]

    with ThreadPoolExecutor(_READERS) as pool:
        for counts in pool.map(accepted, sorted(by_chunk)):
            for failed, count in counts:
                assert failed.need is not None
                failed.need -= count
    return {key: failed for key, failed in found.items() if failed.need is not None and failed.need > 0}


def _drop(found: dict[SeriesKey, _Failed], key: SeriesKey, retried: Retried, chunks: tuple[ChunkId, ...]) -> None:
    """Remove what was asked again."""
    if (failed := found.get(key)) is not None:
        failed.chunks = chunks
        for sample in retried.kinds:
            failed.kinds.pop(sample, None)
        if not failed.kinds:
            del found[key]


def _read_failures(store: Store, chunk: ChunkId, kinds: Collection[str], series: Series) -> list[_Failure]:
    """The Failures of these kinds that a shard lists."""
    meta = read_meta(store, chunk)
    if not meta.counts.failed.keys() & set(kinds):
        return []
    key = meta.side["failed"].key
    with reporting_damage(store, key), store.open(key) as file:
        table = pq.read_table(file, columns=["prompt_key", "teacher", "sample", "kind"])
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [
        (series.key(bytes.fromhex(key), teacher), sample, kind) for key, teacher, sample, kind in rows if kind in kinds
    ]


def _asked_again(store: Store, plan: Plan, chunk: ChunkId, series: Series) -> dict[SeriesKey, Retried]:
    """What a chunk of a retry generation asked, by series."""
    rows = read_chunk_rows(store, chunk, part=plan.part_of(chunk.number)).to_pylist()
    return {series.indexed(row["key"], row["teacher"]): Retried.of(row) for row in rows}


def _index_rows(
    store: Store, plans: Sequence[Plan], failures: Mapping[SeriesKey, _Failed]
) -> Iterator[tuple[PlannedFile, dict[str, Any]]]:
    """Rows of the index that first named the prompts of these series, each with its source file, in source order."""
    parts: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    for key, failed in failures.items():
        first = failed.chunks[0]
        parts[first.generation, plans[first.generation].part_of(first.number)].add(key.prompt)
    for (generation, number), keys in sorted(parts.items()):
        table = read_part(store, generation, number)
        asked = pc.equal(table["fate"].cast(pa.string()), "ask")
        wanted = pc.is_in(table["key"], value_set=pa.array(sorted(keys), pa.binary(16)))
        for row in table.filter(pc.and_(asked, wanted)).to_pylist():
            yield plans[generation].files[row["file"]], row
