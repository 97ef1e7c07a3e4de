"""GenerationReader: later looks find what was written since, and ask the store for nothing that is complete."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from builders import index, questions, recipe_of, write_source

from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.generations import GenerationReader, read_generations
from stillhouse.gen.dataset.index import PartInfo
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, index_key, open_dataset, plan_key
from stillhouse.gen.dataset.plans import SourcePlan, store_plan
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.local import LocalStore
from stillhouse.gen.store.readable import Stat
from stillhouse.schemas.recipe import Recipe


class CountedStore(LocalStore):
    """Records what is read of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._calls: list[tuple[str, str]] = []

    def calls(self) -> Sequence[tuple[str, str]]:
        """(call, its key or prefix) since the last time."""
        calls, self._calls = self._calls, []
        return calls

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        self._calls.append(("get", key))
        return super().get(key)

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        self._calls.append(("open", key))
        return super().open(key)

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        self._calls.append(("stat", key))
        return super().stat(key)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`."""
        self._calls.append(("list", prefix))
        return super().list(prefix)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Store`."""
        self._calls.append(("keys", prefix))
        return super().keys(prefix)


def add_generation(root: Path, recipe: Recipe, number: int) -> None:
    """Plan and index a new file of two prompts."""
    write_source(root, questions(2, start=2 * number), name=f"{number:03d}.jsonl")
    made = index(recipe)
    assert made is not None
    assert made[0].generation == number


def seal(store: Store, chunk: ChunkId) -> None:
    """Give the chunk a shard."""
    store.put(chunk.data_key, b"")


@pytest.mark.parametrize("behind", [1, 12])
def test_polling_reads_only_the_next_plan_and_unsealed_chunks(tmp_path: Path, behind: int) -> None:
    """However many generations are behind it."""
    recipe = recipe_of(tmp_path)
    for number in range(behind):
        add_generation(tmp_path, recipe, number)
        seal(open_dataset(recipe), ChunkId(number, 0))
    store = CountedStore(tmp_path / "out")
    reader = GenerationReader(store)
    assert [each.is_sealed for each in reader.read()] == [True] * behind
    store.calls()
    assert len(reader.read()) == behind
    assert store.calls() == [("get", plan_key(behind))]

    add_generation(tmp_path, recipe, behind)
    assert not reader.read()[behind].is_sealed
    plans = [("get", plan_key(behind)), ("get", plan_key(behind + 1))]
    part = [("keys", f"_stillhouse/index-{behind:03d}-"), ("open", index_key(behind, 0))]
    shards = ("keys", f"data/part-{behind:03d}-")
    assert store.calls() == [*plans, *part, shards]
    assert not reader.read()[behind].is_sealed
    assert store.calls() == [plans[1], shards]
    seal(store, ChunkId(behind, 0))
    assert reader.read()[behind].is_sealed
    assert store.calls() == [plans[1], shards]
    assert reader.read() == read_generations(store)


def growing(root: Path, recipe: Recipe, store: Store) -> Iterator[None]:
    """A dataset to which other processes add plans, index parts and shards, after each of which it yields."""
    unsealed: list[ChunkId] = []
    for number in range(3):
        write_source(root, questions(3, start=3 * number), name=f"{number}.jsonl")
        plan = next_plan(recipe, read_generations(store))
        assert plan is not None
        plan = plan.model_copy(update={"chunks_per_part": 1})
        store_plan(store, plan)
        yield
        for part in parts_of(store, recipe, plan):
            yield
            unsealed.append(ChunkId(number, part.first_chunk))
            if len(unsealed) > 3:  # so that several generations are open
                seal(store, unsealed.pop(0))
                yield
    while unsealed:
        seal(store, unsealed.pop())
        yield


def parts_of(store: Store, recipe: Recipe, plan: SourcePlan) -> Iterator[PartInfo]:
    """Write the plan's index part by part."""
    return Indexer(store, recipe, plan).parts([])


@pytest.mark.parametrize("every", [1, 2, 5])
def test_polling_finds_what_a_fresh_reader_finds(tmp_path: Path, every: int) -> None:
    """After each thing that another process writes, or after several."""
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 1})
    store = open_dataset(recipe)
    recipe = bind(store, recipe)
    reader = GenerationReader(store)
    assert reader.read() == []
    for number, _ in enumerate(growing(tmp_path, recipe, store)):
        if number % every == 0:
            assert reader.read() == read_generations(store)
    assert [(each.chunks, each.is_sealed) for each in reader.read()] == [(3, True)] * 3
