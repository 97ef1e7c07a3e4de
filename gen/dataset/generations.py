"""Progress of a dataset's generations, from one listing each of `data/`, the plans and the index."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stillhouse.gen.dataset.damage import damaged
from stillhouse.gen.dataset.index import PartInfo, read_part_info
from stillhouse.gen.dataset.layout import ChunkId, plan_key, sealed_chunks
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
    """Reads generations repeatedly; plans and index parts never change, so each is read only once."""

    def __init__(self, store: ReadableStore) -> None:
        self._store = store
        self._plans: list[Plan] = []
        self._parts: dict[tuple[int, int], PartInfo] = {}

    def read(self, *, sealed: Iterable[ChunkId] | None = None) -> list[Generation]:
        """The generations now; see `read_generations`."""
        self._plans = read_plans(self._store, known=self._plans)
        shards = Counter(chunk.generation for chunk in (sealed_chunks(self._store) if sealed is None else sealed))
        matches = (_INDEX.fullmatch(stat.key) for stat in self._store.list("_stillhouse/index-"))
        there = {(int(match[1]), int(match[2])) for match in matches if match}
        names = {plan.generation: _from_zero(plan.generation, there) for plan in self._plans}
        self._take(
            [(g, number) for g, numbers in names.items() for number in numbers if (g, number) not in self._parts]
        )
        return [
            Generation(
                plan,
                tuple(self._parts[plan.generation, number] for number in names[plan.generation]),
                shards[plan.generation],
            )
            for plan in self._plans
        ]

    def _take(self, names: Sequence[tuple[int, int]]) -> None:
        with ThreadPoolExecutor(_READERS) as pool:
            infos = pool.map(lambda name: read_part_info(self._store, *name), names)
            found = {name: info for name, info in zip(names, infos, strict=True) if info is not None}
        for (generation, _), info in found.items():
            plan = self._plans[generation]
            if isinstance(plan, SourcePlan) and len(info.ends) != len(plan.files):
                origin = f"{self._store.url}/{plan_key(generation)}"
                raise damaged(origin, f"it names {len(plan.files)} files, and its index was made from {len(info.ends)}")
        self._parts |= found


def _from_zero(generation: int, there: set[tuple[int, int]]) -> range:
    """Numbers of a generation's index parts, up to the first missing one."""
    count = 0
    while (generation, count) in there:
        count += 1
    return range(count)
