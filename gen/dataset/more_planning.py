"""Plans additional samples for prompts planned earlier, as a generation `more`.

Like a retry generation, it follows from its plan and the generations before it, which never change: a run that finds
the plan with only part of its index writes the same rest as the first run would have. Memory holds one part of each
index at a time, and what retry generations asked.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.compute as pc

from stillhouse.gen.dataset.index import PartInfo, read_part, read_part_info
from stillhouse.gen.dataset.indexer import AskedAgain, write_again
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.plans import NOT_NEEDED, MorePlan, Plan, PlannedFile, RetryPlan, SourcePlan, upstream_of
from stillhouse.gen.dataset.prompt_outcomes import Outcomes, read_outcomes
from stillhouse.gen.dataset.series import SeriesKey, read_series
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore

_CHUNKS_IN_MEMORY = 16
"""Generations are in order, so that each chunk of each is read once."""


def more_plan(plans: Sequence[Plan], *, samples: int, accept: int = 0) -> MorePlan | None:
    """A generation of the samples that `plans` still lack to reach these numbers per prompt; None if they lack none.

    All of `plans` must be sealed: equal answers are kept once across generations, so earlier ones must be known.
    """
    files: dict[PlannedFile, None] = {}  # not by url: a file may have moved, and another file may have its old url
    for plan in _lacking(plans, samples=samples, accept=accept):
        files |= dict.fromkeys(file.content for file in plan.files)
    if not files:
        return None
    return MorePlan(
        generation=len(plans),
        files=tuple(files),
        samples=samples,
        accept=accept,
        templates_system=plans[0].templates_system,
        kept=plans[0].kept,
        upstream=upstream_of(plans),
    )


def more_parts(
    store: Store, plan: MorePlan, earlier: Sequence[Plan], *, done: Sequence[PartInfo], prompts_per_shard: int
) -> Iterator[PartInfo]:
    """Write the parts of the generation's index that are not `done`, yielding each once stored.

    Raises:
        DatasetError: an index is missing or damaged, or a different one is there.
    """
    prompts = _until_accepted(store, plan, earlier) if plan.accept else _all_samples(store, plan, earlier)
    return write_again(store, plan, prompts, done=done, prompts_per_shard=prompts_per_shard)


@dataclass(frozen=True, slots=True)
class _Lacking:
    """A series that lacks samples."""

    file: int
    """Index of its file in the plan."""
    row: Mapping[str, Any]
    """The prompt's row in the index of its source generation."""
    key: SeriesKey
    teacher: int | None
    """See `AskedAgain`."""
    planned: int
    """The most samples planned for it so far."""
    places: Sequence[tuple[ChunkId, Sequence[int]]]
    """Each chunk that has samples of it, in order, with those samples."""

    def asked_again(self, samples: Mapping[int, str | None], *, need: int | None = None) -> AskedAgain:
        return AskedAgain(self.file, self.row, samples, [chunk for chunk, _ in self.places], need, teacher=self.teacher)


def _all_samples(store: ReadableStore, plan: MorePlan, earlier: Sequence[Plan]) -> Iterator[AskedAgain]:
    """Every series that lacks samples, in source order."""
    for lacking in _series(store, plan, earlier):
        yield lacking.asked_again(dict.fromkeys(range(lacking.planned, plan.samples)))


def _until_accepted(store: ReadableStore, plan: MorePlan, earlier: Sequence[Plan]) -> Iterator[AskedAgain]:
    """Every series with fewer accepted answers than wanted, in source order."""
    series = read_series(store)

    @lru_cache(maxsize=_CHUNKS_IN_MEMORY)
    def outcomes(chunk: ChunkId) -> Mapping[SeriesKey, Outcomes]:
        return read_outcomes(store, chunk, series)

    for lacking in _series(store, plan, earlier):
        untouched: dict[int, str | None] = {}
        accepted = 0
        for chunk, samples in lacking.places:
            found = outcomes(chunk).get(lacking.key, Outcomes())
            accepted += len(found.accepted)
            for sample in samples:
                if sample in found.seen:
                    untouched.pop(sample, None)
                else:
                    untouched[sample] = NOT_NEEDED
        fresh = range(lacking.planned, plan.samples)
        candidates = untouched | dict.fromkeys(fresh)
        if accepted >= plan.accept or not candidates:
            yield AskedAgain(lacking.file, lacking.row, {}, (), passed_over=len(fresh))
        else:
            yield lacking.asked_again(candidates, need=plan.accept - accepted)


def _series(store: ReadableStore, plan: MorePlan, earlier: Sequence[Plan]) -> Iterator[_Lacking]:
    """Every series of the generations that lack samples, in source order."""
    series = read_series(store)
    numbers = {file: number for number, file in enumerate(plan.files)}
    retried = _retried(store, earlier)
    rows = {each.generation: _asked(store, each.generation) for each in earlier if isinstance(each, MorePlan)}
    ahead: dict[int, tuple[ChunkId, dict[str, Any]] | None] = {each: next(rows[each], None) for each in rows}
    planned = _planned(earlier)
    for source in _lacking(earlier, samples=plan.samples, accept=plan.accept):
        known = planned[source.generation]
        for chunk, row in _asked(store, source.generation):
            for key in series.keys(row["key"]):
                places: list[tuple[ChunkId, Sequence[int]]] = [(chunk, range(source.samples))]
                places += retried.get(key, ())
                for generation in known.added:
                    # All generations have the same order, so only one row of each index is in memory.
                    there = ahead[generation]
                    if there is not None and series.indexed(there[1]["key"], there[1]["teacher"]) == key:
                        places.append((there[0], _again(there[1])))
                        ahead[generation] = next(rows[generation], None)
                    elif not plan.accept:
                        raise DatasetError(
                            f"{store.url}: the index of generation {generation} contradicts earlier ones"
                        )
                file = numbers[source.files[row["file"]].content]
                yield _Lacking(file, row, key, series.in_index(key), known.samples, sorted(places, key=_chunk_of))


def _chunk_of(place: tuple[ChunkId, Sequence[int]]) -> ChunkId:
    return place[0]


def _again(row: Mapping[str, Any]) -> list[int]:
    return [again["sample"] for again in row["again"]]


@dataclass(slots=True)
class _Planned:
    """What is planned for a generation of source rows, including later generations."""

    samples: int
    accept: int
    added: list[int]
    """Generations that added samples."""


def _planned(plans: Sequence[Plan]) -> dict[int, _Planned]:
    """By generation of source rows."""
    found: dict[int, _Planned] = {}
    for plan in plans:
        match plan:
            case SourcePlan():
                found[plan.generation] = _Planned(plan.samples, plan.accept, [])
            case MorePlan():
                for known in found.values():
                    if known.samples < plan.samples or known.accept < plan.accept:
                        known.samples, known.accept = plan.samples, plan.accept
                        known.added.append(plan.generation)
            case RetryPlan():
                pass
            case _:
                assert_never(plan)
    return found


def _lacking(plans: Sequence[Plan], *, samples: int, accept: int) -> list[SourcePlan]:
    planned = _planned(plans)
    return [
        plan
        for plan in plans
        if isinstance(plan, SourcePlan)
        and (planned[plan.generation].samples < samples or planned[plan.generation].accept < accept)
    ]


def _asked(store: ReadableStore, generation: int) -> Iterator[tuple[ChunkId, dict[str, Any]]]:
    """Prompts in a generation's index, in order, each with its chunk."""
    part = 0
    while read_part_info(store, generation, part) is not None:
        table = read_part(store, generation, part)
        for batch in table.filter(pc.equal(table["fate"].cast(pa.string()), "ask")).to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                yield ChunkId(generation, row["chunk"]), row
        part += 1


def _retried(store: ReadableStore, plans: Sequence[Plan]) -> dict[SeriesKey, list[tuple[ChunkId, Sequence[int]]]]:
    """By series: chunks of retry generations that asked it, each with the samples it asked."""
    series = read_series(store)
    found: defaultdict[SeriesKey, list[tuple[ChunkId, Sequence[int]]]] = defaultdict(list)
    for plan in plans:
        if isinstance(plan, RetryPlan):
            for chunk, row in _asked(store, plan.generation):
                found[series.indexed(row["key"], row["teacher"])].append((chunk, _again(row)))
    return found
