"""Parked chunks: everything still open in one is in batches, so no worker has to hold it.

A parked chunk's object `_stillhouse/batches/<chunk>-parked.json` names its open batches. It holds for as long as these
are the chunk's open intents: creating another batch, or collecting one, makes it outdated. It also names batches that
were given up as never created, to be cancelled if a listing shows them late.
"""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from stillhouse.gen.dataset.batch_intents import PREFIX, open_intents, who_of
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore

_READERS = 16
_NAME = re.compile(rf"{PREFIX}(\d{{3,}}-\d{{6,}})-parked\.json")


class OpenBatch(BaseModel):
    """An intent whose batch is at the provider."""

    model_config = ConfigDict(frozen=True)

    place: int
    """The teacher's position in the recipe."""
    stage: int = 0
    """The number of the check whose judge is asked; 0: the teacher answers."""
    n: int
    at: float
    """When it was decided, in UTC seconds since 1970."""
    url: str
    """The endpoint at which it was created."""
    ids: tuple[str, ...]
    """The provider's id of its batch; several if each of these may be its batch."""
    missing: str = ""
    """The intent's id if its batch was given up as never created, and is nothing to wait for."""

    @property
    def who(self) -> str:
        """See `batch_intents`."""
        return who_of(self.place, stage=self.stage)


class Parked(BaseModel):
    """A parked chunk."""

    model_config = ConfigDict(frozen=True)

    batches: tuple[OpenBatch, ...] = ()
    settled: int = 0
    """Samples of the chunk that need not be asked any more."""


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """The chunks with open batches, as found in a store."""

    parked: dict[ChunkId, Parked]
    begun: set[ChunkId]
    """All chunks with open batches, parked or not."""


def store_parked(store: Store, chunk: ChunkId, parked: Parked) -> None:
    """Record that everything open in the chunk is in these batches; its journal is in the store."""
    store.put(_key(chunk), parked.model_dump_json().encode())


def stored_batches(store: ReadableStore) -> StoredBatches:
    """The chunks with open batches. Raises StoreAway."""
    keys = [stat.key for stat in store.list(PREFIX)]
    still_open: defaultdict[ChunkId, set[tuple[str, int]]] = defaultdict(set)
    for chunk, who, n in open_intents(keys):
        still_open[chunk].add((who, n))
    noted = [ChunkId.parse(match[1]) for key in keys if (match := _NAME.fullmatch(key))]
    noted = [chunk for chunk in noted if chunk in still_open]
    with ThreadPoolExecutor(_READERS) as pool:
        found = zip(noted, pool.map(lambda chunk: _read(store, chunk), noted), strict=True)
        parked = {chunk: each for chunk, each in found if _awaited(each) == still_open[chunk]}
    return StoredBatches(parked, set(still_open))


def _awaited(parked: Parked) -> set[tuple[str, int]]:
    return {(each.who, each.n) for each in parked.batches if not each.missing}


def _read(store: ReadableStore, chunk: ChunkId) -> Parked:
    """The parked chunk's batches; empty if the object is damaged, because it only saves work."""
    try:
        return Parked.model_validate_json(store.get(_key(chunk)) or b"{}")
    except ValidationError:
        return Parked()


def _key(chunk: ChunkId) -> str:
    return f"{PREFIX}{chunk}-parked.json"
