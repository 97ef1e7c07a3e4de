"""Progress of a dataset's generations: what is complete is read once, the rest from at most one listing each of `data/`
and the index."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from stillhouse.gen.dataset.damage import damaged
from stillhouse.gen.dataset.index import PartInfo, read_part_info
from stillhouse.gen.dataset.layout import ChunkId, plan_key, sealed_chunks, shared_prefix
from stillhouse.gen.dataset.plans import Plan, SourcePlan, read_plans
from stillhouse.gen.store.readable import ReadableStore

_READERS = 32
_INDEX = re.compile(r"_stillhouse/index-(\d{3,})-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation, as stored."""

    plan: Plan
    parts: tuple[PartInfo, ...]
    """Index parts written so far."""
    sealed: int
    """Chunks that have a shard."""

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
    """All generations, in order; `sealed`: the chunks that have a shard, if already listed.

    Raises:
        DatasetError: a plan or a part of an index is damaged.
    """
    return GenerationReader(store).read(sealed=sealed)


class GenerationReader:
    """Reads generations repeatedly. Plans and index parts never change, and shards stay: every look after the first
    asks only for the next plan and for what is missing in generations that are not sealed.
    """

    def __init__(self, store: ReadableStore) -> None:
        self._store = store
        self._known: list[Generation] = []

    def read(self, *, sealed: Iterable[ChunkId] | None = None) -> list[Generation]:
        """The generations now; see `read_generations`."""
        plans = read_plans(self._store, known=[each.plan for each in self._known])
        new = [Generation(plan, (), 0) for plan in plans[len(self._known) :]]
        self._known = self._with_shards(self._with_parts([*self._known, *new]), sealed)
        return list(self._known)

    def _with_parts(self, generations: Sequence[Generation]) -> list[Generation]:
        """The generations, with the index parts written since they were read."""
        growing = {each.plan.generation: each for each in generations if not each.is_indexed}
        there = self._parts_there(growing)
        names = [name for each in growing.values() for name in _in_a_row(each, there)]
        with ThreadPoolExecutor(_READERS) as pool:
            read = list(pool.map(lambda name: read_part_info(self._store, *name), names))
        fresh: defaultdict[int, list[PartInfo]] = defaultdict(list)
        for (generation, _), info in zip(names, read, strict=True):
            if info is None:  # removed, because the dataset is just being bound to another recipe
                break
            plan = growing[generation].plan
            if isinstance(plan, SourcePlan) and len(info.ends) != len(plan.files):
                origin = f"{self._store.url}/{plan_key(generation)}"
                raise damaged(origin, f"it names {len(plan.files)} files, and its index was made from {len(info.ends)}")
            fresh[generation].append(info)
        for generation, infos in fresh.items():
            growing[generation] = replace(growing[generation], parts=(*growing[generation].parts, *infos))
        return [growing.get(each.plan.generation, each) for each in generations]

    def _parts_there(self, generations: Collection[int]) -> set[tuple[int, int]]:
        """(generation, number) of the index parts of these generations that are stored."""
        if not generations:
            return set()
        keys = self._store.keys(shared_prefix("_stillhouse/index-", generations))
        matches = map(_INDEX.fullmatch, keys)
        return {(int(match[1]), int(match[2])) for match in matches if match}

    def _with_shards(self, generations: Sequence[Generation], sealed: Iterable[ChunkId] | None) -> list[Generation]:
        """The generations, with the shards that those that were not sealed have now."""
        unsealed = {each.plan.generation for each in generations if not each.is_sealed}
        chunks = sealed_chunks(self._store, generations=unsealed) if sealed is None else sealed
        shards = Counter(chunk.generation for chunk in chunks)
        return [
            replace(each, sealed=shards[each.plan.generation]) if each.plan.generation in unsealed else each
            for each in generations
        ]


def _in_a_row(generation: Generation, there: Collection[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of its index that follow those it has, up to the first missing one."""
    names = ((generation.plan.generation, number) for number in itertools.count(len(generation.parts)))
    return itertools.takewhile(lambda name: name in there, names)
