"""A read-only view of a dataset: its identity, generations, shards and last recipe.

A reader shows one moment: each part is read when it is first needed, and only once.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import pyarrow as pa

from stillhouse.gen.dataset.binding import Binding, read_binding
from stillhouse.gen.dataset.generations import Generation, read_generations
from stillhouse.gen.dataset.last_run import read_last_run
from stillhouse.gen.dataset.layout import RECIPE_KEY, ChunkId, sealed_chunks
from stillhouse.gen.dataset.run_lock import is_running, read_holder
from stillhouse.gen.dataset.shard_meta import ShardMeta, read_metas
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.lock import Holder
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.recipe import Recipe


class DatasetReader:
    """Reads the dataset at a store's root, even if it is unfinished or damaged.

    All methods raise StoreAway and StoreRefused as the store does, and DatasetError if the requested part is damaged.
    """

    def __init__(self, store: ReadableStore) -> None:
        self.store = store

    @property
    def url(self) -> str:
        """The dataset's URL."""
        return self.store.url

    @cached_property
    def bound(self) -> Binding:
        """The identity that it is bound to.

        Raises:
            DatasetError: there is no dataset, or the file is damaged.
        """
        bound = read_binding(self.store)
        if bound is None:
            raise self.absent()
        return bound

    def absent(self) -> DatasetError:
        """The error for a location without a dataset."""
        return DatasetError(
            f"{self.url}: not a Stillhouse dataset (it holds no {RECIPE_KEY}); check the path, or run its recipe first"
        )

    @cached_property
    def shards(self) -> tuple[ChunkId, ...]:
        """The chunks that have a shard, in order."""
        return tuple(sorted(set(sealed_chunks(self.store))))

    @cached_property
    def generations(self) -> tuple[Generation, ...]:
        """All generations, in order."""
        return tuple(read_generations(self.store, sealed=self.shards))

    @property
    def kept(self) -> list[pa.Field]:
        """The dataset's `keep` columns; empty before anything is planned."""
        return self.generations[0].plan.kept_fields if self.generations else []

    def metas(self) -> Iterator[tuple[ChunkId, ShardMeta]]:
        """The metadata of each shard, in order; read from the shards' footers on each call."""
        return read_metas(self.store, self.shards)

    @cached_property
    def is_running(self) -> bool:
        """True if a run seems to be working on it."""
        return is_running(self.store)

    @cached_property
    def last_holder(self) -> Holder | None:
        """The run that worked on it last, or does now; None if unknown."""
        return read_holder(self.store)

    def last_run(self, *, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of the last run, with the `KEY=VALUE` overrides applied.

        Raises:
            DatasetError: there is none.
            RecipeError: it is damaged, or an override is wrong.
        """
        if read_binding(self.store) is None:
            raise self.absent()
        return read_last_run(self.store, overrides=overrides)
