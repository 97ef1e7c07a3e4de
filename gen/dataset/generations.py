"""How far a dataset's generations are: one listing of `data/`, one of the plans and one of the index say it."""

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stillhouse.gen.dataset.index import PartInfo, read_part_info
from stillhouse.gen.dataset.layout import ChunkId, sealed_chunks
from stillhouse.gen.dataset.plans import Plan, read_plans
from stillhouse.gen.store.readable import ReadableStore

_READERS = 32
_INDEX = re.compile(r"_stillhouse/index-(\d{3,})-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as it is stored."""

    plan: Plan
    parts: tuple[PartInfo, ...]
    """The parts that its index has so far."""
    sealed: int
    """Chunks that have their shard."""

    @property
    def chunks(self) -> int:
        """Chunks known so far."""
        return sum(len(part.asks) for part in self.parts)

    @property
    def is_indexed(self) -> bool:
        """True if its index is complete."""
        return bool(self.parts) and self.parts[-1].last

    @property
    def is_sealed(self) -> bool:
        """True if every chunk has its shard."""
        return self.is_indexed and self.sealed >= self.chunks


def read_generations(store: ReadableStore, *, sealed: Iterable[ChunkId] | None = None) -> list[Generation]:
    """All generations, in order; `sealed`: the chunks that have a shard, where they were listed already.

    Raises:
        DatasetError: a plan or a part of an index is damaged.
    """
    plans = read_plans(store)
    shards = Counter(chunk.generation for chunk in (sealed_chunks(store) if sealed is None else sealed))
    matches = (_INDEX.fullmatch(stat.key) for stat in store.list("_stillhouse/index-"))
    there = {(int(match[1]), int(match[2])) for match in matches if match}
    names = [(plan.generation, number) for plan in plans for number in _from_zero(plan.generation, there)]
    with ThreadPoolExecutor(_READERS) as pool:
        infos = dict(zip(names, pool.map(lambda name: read_part_info(store, *name), names), strict=True))
    found = []
    for plan in plans:
        parts = (infos[plan.generation, number] for number in _from_zero(plan.generation, there))
        found.append(Generation(plan, tuple(part for part in parts if part is not None), shards[plan.generation]))
    return found


def _from_zero(generation: int, there: set[tuple[int, int]]) -> range:
    """The numbers of a generation's parts up to the first that is missing."""
    count = 0
    while (generation, count) in there:
        count += 1
    return range(count)
