"""The generations that a run works on. Writes the missing parts of their indexes, in order; holds no lock."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from stillhouse.cluster.progress.stats import Closed
from stillhouse.gen.dataset.generations import Generation, GenerationReader
from stillhouse.gen.dataset.index import PartInfo, read_asked
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.more_planning import more_parts
from stillhouse.gen.dataset.plans import MorePlan, Plan, RetryPlan, SourcePlan
from stillhouse.gen.dataset.retry_planning import retry_parts
from stillhouse.gen.dataset.row_fates import Asked
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe

_READERS = 16
_T = TypeVar("_T")


@dataclass(slots=True)
class OpenGeneration:
    """A generation that this run works on."""

    plan: Plan
    parts: list[PartInfo] = field(default_factory=list)
    """Parts of its index, as far as known."""

    @property
    def is_indexed(self) -> bool:
        """True if its index is complete."""
        return bool(self.parts) and self.parts[-1].last

    def chunks(self) -> Iterator[tuple[ChunkId, int, int]]:
        """(chunk, its prompts, its samples), as far as known."""
        return _chunks(self.plan, self.parts)


class OpenGenerations:
    """Generations that were open when the run began, and those planned since."""

    def __init__(self, store: Store, recipe: Recipe, *, remembers: bool) -> None:
        """`remembers`: keep the prompts of all indexed parts, because reading them again for each generation would take
        too long.
        """
        self._store = store
        self._recipe = recipe
        self._reader = GenerationReader(store)
        self._asked: Asked | None = {} if remembers else None
        self._asked_parts: set[tuple[int, int]] = set()
        """The parts of the index that are in it."""
        self._dataset: list[Generation] = []
        self.open: list[OpenGeneration] = []
        self.closed = Closed()
        """Totals of the generations that were not open when the run began."""

    @property
    def known(self) -> int:
        """Generations of the dataset."""
        return len(self._dataset)

    @property
    def are_indexed(self) -> bool:
        """True if everything that the open ones ask is known."""
        return all(opened.is_indexed for opened in self.open)

    @property
    def source_parts(self) -> list[PartInfo]:
        """Parts of the open ones' indexes that contain source rows."""
        return [part for opened in self.open if isinstance(opened.plan, SourcePlan) for part in opened.parts]

    @property
    def ask_again(self) -> bool:
        """True if all open ones ask prompts of earlier ones again."""
        return bool(self.open) and not any(isinstance(opened.plan, SourcePlan) for opened in self.open)

    def read(self, *, sealed: Iterable[ChunkId] | None = None) -> list[Generation]:
        """See `gen.dataset.generations.read_generations`."""
        return self._reader.read(sealed=sealed)

    def begin(self, dataset: Sequence[Generation], new: Sequence[Generation]) -> list[OpenGeneration]:
        """Work on new generations too; `dataset` lists all that there are now."""
        begun = [OpenGeneration(each.plan, list(each.parts)) for each in new]
        self.open += begun
        if not self._dataset:  # all later ones are new
            mine = {each.plan.generation for each in new}
            self.closed = _totals(each for each in dataset if each.plan.generation not in mine)
        self._dataset = list(dataset)
        return begun

    def missing_parts(self, opened: OpenGeneration) -> Iterator[PartInfo]:
        """Write the missing parts of a generation's index."""
        plan, done, per_shard = opened.plan, list(opened.parts), self._recipe.prompts_per_shard
        earlier = [each.plan for each in self._dataset[: plan.generation]]
        match plan:
            case RetryPlan():
                return retry_parts(self._store, plan, earlier, done=done, prompts_per_shard=per_shard)
            case MorePlan():
                return more_parts(self._store, plan, earlier, done=done, prompts_per_shard=per_shard)
            case SourcePlan():
                return self._missing_source_parts(plan, done)
            case _:
                assert_never(plan)

    def cut_off(self, opened: OpenGeneration) -> PartInfo:
        """End a generation's index where its source can't be read any further."""
        assert isinstance(opened.plan, SourcePlan), "no other generation reads sources"
        return Indexer(self._store, self._recipe, opened.plan).cut_off(opened.parts)

    def _missing_source_parts(self, plan: SourcePlan, done: list[PartInfo]) -> Iterator[PartInfo]:
        indexer = Indexer(self._store, self._recipe, plan, asked=self._asked)
        # Includes what this queue has indexed since, unless it keeps those prompts in memory.
        generations = self.read() if self._asked is None else self._dataset
        before = [each for each in generations[: plan.generation] if isinstance(each.plan, SourcePlan)]
        names = [(each.plan.generation, number) for each in before for number in range(len(each.parts))]
        # Leave out any part that a dying writer has stored since: it is written again, and must come out the same.
        names += [(plan.generation, number) for number in range(len(done))]
        if self._asked is not None:
            names = [name for name in names if name not in self._asked_parts]
            self._asked_parts.update(names)
        with ThreadPoolExecutor(_READERS) as pool:
            for some in _batched(names, _READERS):  # not all at once: a large dataset's index is larger than memory
                indexer.remember(list(pool.map(lambda name: read_asked(self._store, *name), some)))
        return indexer.parts(done)


def _batched(names: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The names, in batches of this size."""
    return (names[start : start + size] for start in range(0, len(names), size))


def _chunks(plan: Plan, parts: Iterable[PartInfo]) -> Iterator[tuple[ChunkId, int, int]]:
    for part in parts:
        for number, asks in enumerate(part.asks, part.first_chunk):
            yield ChunkId(plan.generation, number), asks, part.samples_in(number, each=plan.samples)


def _totals(generations: Iterable[Generation]) -> Closed:
    closed = Closed()
    for each in generations:
        if isinstance(each.plan, SourcePlan):
            closed.rows += sum(part.rows for part in each.parts)
            closed.duplicates += sum(part.duplicates for part in each.parts)
            closed.bad += sum(part.bad for part in each.parts)
        if not isinstance(each.plan, RetryPlan):
            closed.samples += sum(samples for _, _, samples in _chunks(each.plan, each.parts))
        closed.chunks += each.chunks
    return closed
