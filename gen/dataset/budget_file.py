"""The budget's ledger as stored: one object, replaced only by compare-and-set."""

from collections.abc import Iterator

import orjson

from stillhouse.gen.dataset.budget import NO_ONE, BudgetDocument, Holding
from stillhouse.gen.dataset.damage import newer
from stillhouse.gen.dataset.layout import BUDGET_KEY, JOURNAL_PREFIX, ChunkId, sealed_chunks
from stillhouse.gen.dataset.shard_meta import read_metas
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.teachers.expense import NOTHING, UNLIMITED, Expense


class BudgetFile:
    """Loads and stores the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._etag: str | None = None

    def load(self) -> BudgetDocument | None:
        """The ledger as it is now; None if there is none.

        Raises:
            DatasetError: it is damaged, or a newer version wrote it.
        """
        found = self._store.get_with_etag(BUDGET_KEY)
        self._etag = None if found is None else found[1]
        return None if found is None else _parsed(found[0], origin=f"{self._store.url}/{BUDGET_KEY}")

    def swap(self, body: bytes) -> bool:
        """Replace the ledger that was loaded or stored last; False if another has been stored since."""
        etag = self._store.swap(BUDGET_KEY, body, etag=self._etag)
        if etag is None:
            return False
        self._etag = etag
        return True


def begin_budget(store: Store) -> BudgetDocument:
    """The ledger of a dataset, created if it has none; only for the run that has the dataset to itself.

    Raises:
        DatasetError: the ledger, or a shard that must be read, is damaged.
    """
    file = BudgetFile(store)
    if (document := file.load()) is not None:
        return document
    document = begun_by(store)
    file.swap(document.model_dump_json().encode())
    return document


def begun_by(store: Store) -> BudgetDocument:
    """The ledger of a dataset that had no budget so far: what its shards cost, and which journals are not counted yet.

    Raises:
        DatasetError: a shard is damaged.
    """
    spent = sum((meta.counts.cost for _, meta in read_metas(store, sealed_chunks(store))), NOTHING)
    begun = set(_with_journals(store))
    if not begun:
        return BudgetDocument(spent=spent)
    earlier = Holding(granted=Expense(UNLIMITED, UNLIMITED, UNLIMITED), chunks=begun, gone=True)
    return BudgetDocument(spent=spent, chunks=dict.fromkeys(begun, NOTHING), workers={NO_ONE: earlier})


def _with_journals(store: Store) -> Iterator[str]:
    """Chunks that are not sealed and have journals in the store, or on a local dataset's disk."""
    for stat in store.list(JOURNAL_PREFIX):
        chunk = ChunkId.parse(stat.key.removeprefix(JOURNAL_PREFIX).partition("/")[0])
        if store.stat(chunk.data_key) is None:
            yield str(chunk)


def read_budget(store: ReadableStore) -> BudgetDocument | None:
    """The ledger of a dataset; None if it has none.

    Raises:
        DatasetError: it is damaged, or a newer version wrote it.
    """
    stored = store.get(BUDGET_KEY)
    return None if stored is None else _parsed(stored, origin=f"{store.url}/{BUDGET_KEY}")


def _parsed(stored: bytes, *, origin: str) -> BudgetDocument:
    try:
        document = orjson.loads(stored)
        version = document["version"]
        if type(version) is int and version > 1:
            raise newer(origin)
        return BudgetDocument.model_validate(document)
    except (ValueError, KeyError, TypeError):
        raise DatasetError(
            f"{origin}: is damaged; restore it, or delete it: spending is then counted from the shards and the "
            "journals, which may lack requests whose answers were lost"
        ) from None
