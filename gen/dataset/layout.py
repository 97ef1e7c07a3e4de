"""The layout of a dataset and its state, which is derived from a listing and the index.

Names are built only from numbers and our own hex digits. Everything that a run needs to resume is read from the store;
nothing is remembered elsewhere.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from os.path import commonprefix

from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.recipe import Recipe

RECIPE_KEY = "_stillhouse/recipe.yaml"
LAST_RUN_KEY = "_stillhouse/last_run.yaml"
RUN_KEY = "_stillhouse/run.json"
BUDGET_KEY = "_stillhouse/budget.json"
JOURNAL_PREFIX = "_stillhouse/journal/"
_SHARD = re.compile(r"data/part-(\d{3,})-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class ChunkId:
    """A chunk: its generation and its number in it."""

    generation: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation:03d}-{self.number:06d}"

    @classmethod
    def parse(cls, name: str) -> "ChunkId":
        """The chunk with this name, in the form that `str` produces."""
        generation, _, number = name.partition("-")
        return cls(int(generation), int(number))

    @property
    def data_key(self) -> str:
        """Key of the chunk's shard, whose existence is the commit."""
        return f"data/part-{self}.parquet"

    @property
    def journal_prefix(self) -> str:
        """Prefix of the chunk's shipped journals."""
        return f"{JOURNAL_PREFIX}{self}/"

    def side_key(self, kind: str, seal: str) -> str:
        """A file beside its shard; kind is rejected, failed or raw."""
        folder = "_stillhouse/raw" if kind == "raw" else kind
        return f"{folder}/part-{self}-{seal}.parquet"


def plan_key(generation: int) -> str:
    """The key of a generation's plan."""
    return f"_stillhouse/plan-{generation:03d}.json"


def index_key(generation: int, part: int) -> str:
    """The key of a part of a generation's index."""
    return f"_stillhouse/index-{generation:03d}-{part:06d}.parquet"


def shared_prefix(start: str, generations: Collection[int]) -> str:
    """The longest prefix of all keys that consist of `start`, one of these generations and more."""
    return commonprefix([f"{start}{number:03d}-" for number in generations])  # noqa: RUF071 - of characters is meant


def open_dataset(recipe: Recipe, *, path: str | None = None, patience_s: float = 60.0) -> Store:
    """The store of the recipe's dataset; `patience_s` as for `open_store`."""
    where = recipe.dataset
    return open_store(
        path or where.path,
        endpoint_url=where.endpoint_url,
        region=where.region,
        path_style=where.path_style,
        encryption=where.encryption,
        patience_s=patience_s,
    )


def sealed_chunks(store: ReadableStore, *, generations: Collection[int] | None = None) -> Iterator[ChunkId]:
    """The chunks that have a shard, in the order of their names; `generations`: only those of these generations."""
    prefix = "data/"
    if generations is not None:
        if not generations:
            return
        prefix = shared_prefix("data/part-", generations)
    for key in store.keys(prefix):
        match = _SHARD.fullmatch(key)
        if match and (generations is None or int(match[1]) in generations):
            yield ChunkId(int(match[1]), int(match[2]))
