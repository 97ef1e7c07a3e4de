"""Plans additional samples for prompts planned earlier, as a generation `more`.

Like a retry generation it follows from its plan and the generations before it, which never change: whoever finds the
plan with a part of its index writes the rest as the first would have. Memory holds one part of each index at a time,
and what retry generations asked.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stillhouse.gen.dataset.index import PartInfo, read_part, read_part_info
from stillhouse.gen.dataset.indexer import AskedAgain, write_again
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.plans import Plan, PlannedFile
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore


def more_plan(plans: Sequence[Plan], *, samples: int) -> Plan | None:
    """A generation of the samples that `plans` still lack to reach this number per prompt; None if they lack none.

    All of `plans` must be sealed: equal answers are kept once across generations, so earlier ones must be known.
    """
    files: dict[PlannedFile, None] = {}  # not by url: a file may have moved, and another be where it was
    for plan in _lacking(plans, samples=samples):
        files |= dict.fromkeys(file.content for file in plan.files)
    if not files:
        return None
    return Plan(
        generation=len(plans),
        files=tuple(files),
        samples=samples,
        more=True,
        templates_system=plans[0].templates_system,
        kept=plans[0].kept,
    )


def more_parts(
    store: Store, plan: Plan, earlier: Sequence[Plan], *, done: Sequence[PartInfo], prompts_per_shard: int
) -> Iterator[PartInfo]:
    """Write the parts of the generation's index that are not `done`, yielding each once stored.

    Raises:
        DatasetError: an index is missing or damaged, or another one is there.
    """
    return write_again(store, plan, _prompts(store, plan, earlier), done=done, prompts_per_shard=prompts_per_shard)


def _prompts(store: ReadableStore, plan: Plan, earlier: Sequence[Plan]) -> Iterator[AskedAgain]:
    """Every prompt that lacks samples, in source order."""
    numbers = {file: number for number, file in enumerate(plan.files)}
    retried = _retried(store, earlier)
    rows = {each.generation: _asked(store, each.generation) for each in earlier if each.more}
    planned = _planned(earlier)
    for source in _lacking(earlier, samples=plan.samples):
        first, added = planned[source.generation]
        for chunk, row in _asked(store, source.generation):
            places = [chunk, *retried.get(row["key"], ())]
            for generation in added:
                # Same generations and same order, so only one row of each index is in memory.
                place, same = next(rows[generation])
                if same["key"] != row["key"]:
                    raise DatasetError(f"{store.url}: the index of generation {generation} contradicts earlier ones")
                places.append(place)
            wanted = dict.fromkeys(range(first, plan.samples))
            yield AskedAgain(numbers[source.files[row["file"]].content], row, wanted, sorted(places))


def _planned(plans: Sequence[Plan]) -> dict[int, tuple[int, list[int]]]:
    """Per generation of source rows: its samples per prompt, and the generations that added some."""
    found: dict[int, tuple[int, list[int]]] = {}
    for plan in plans:
        if plan.is_source:
            found[plan.generation] = plan.samples, []
        elif plan.more:
            for generation, (samples, added) in found.items():
                if samples < plan.samples:
                    found[generation] = plan.samples, [*added, plan.generation]
    return found


def _lacking(plans: Sequence[Plan], *, samples: int) -> list[Plan]:
    planned = _planned(plans)
    return [plan for plan in plans if plan.is_source and planned[plan.generation][0] < samples]


def _asked(store: ReadableStore, generation: int) -> Iterator[tuple[ChunkId, dict[str, Any]]]:
    """Prompts in a generation's index, in order, each with its chunk."""
    part = 0
    while read_part_info(store, generation, part) is not None:
        table = read_part(store, generation, part)
        for batch in table.filter(pc.equal(table["fate"].cast(pa.string()), "ask")).to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                yield ChunkId(generation, row["chunk"]), row
        part += 1


def _retried(store: ReadableStore, plans: Sequence[Plan]) -> dict[bytes, list[ChunkId]]:
    """Per prompt key: chunks of retry generations that asked it."""
    found: defaultdict[bytes, list[ChunkId]] = defaultdict(list)
    for plan in plans:
        if plan.retry is not None:
            for chunk, row in _asked(store, plan.generation):
                found[row["key"]].append(chunk)
    return found
