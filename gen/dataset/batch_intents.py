"""Intents of batches in the store: an intent is stored before its batch is created at the provider.

Each intent is up to five objects, each written once: `<chunk>-<who>-<n>.json` before its batch is created,
`….submitted.json` once the provider has named it, `….missing.json` when a listing first did not show it,
`….expired.json` if the provider did not get to all of it, and `….ended.json` once all it will ever say is safe in the
chunk's journal. The last one is what lets a later owner of the chunk pass it over; without it, and until the chunk is
sealed, the batch is looked at again. One that ended missing is still looked for before its samples are asked again.

`who` is the position of the teacher that answers, or `c` and the number of the check whose judge is asked: a judge's
position changes when a teacher is added to the recipe.
"""

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.gen.dataset.layout import ChunkId, sealed_chunks
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore

_READERS = 16
ID_KEY = "_stillhouse/id"
PREFIX = "_stillhouse/batches/"

_NAME = re.compile(rf"{PREFIX}(\d{{3,}}-\d{{6,}})-(c?\d+)-(\d+)(\.submitted|\.missing|\.ended|\.expired)?\.json")


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class StoredIntent(_Stored):
    """An intent as it was decided."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    at: float
    """UTC seconds since 1970."""
    url: str
    """The endpoint at which its batch is created."""
    account: str = ""
    """Changes with the key, see `account_mark`; empty: not known."""
    samples: tuple[tuple[int, int], ...]
    """Ordinals of the samples in the batch, as (first, count)."""
    collect_by: float | None = None
    """When the provider may have deleted its results, in UTC seconds since 1970; None if it keeps them."""

    def ordinals(self) -> Iterator[int]:
        """Ordinals of the samples in the batch."""
        return _unranged(self.samples)


_T = TypeVar("_T", bound=_Stored)


class _Submitted(_Stored):
    batch: str


class _Missing(_Stored):
    since: float


class _Expired(_Stored):
    samples: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class KnownIntent:
    """An intent with its current state in the store."""

    n: int
    stored: StoredIntent
    batch: str | None
    """The provider's id of its batch."""
    expired: tuple[int, ...]
    """Samples in the batch that the provider did not reach, as far as known."""
    has_ended: bool
    missing_since: float | None = None
    """When a listing first did not show its batch, in UTC seconds since 1970; None if none had to be read."""

    @property
    def was_given_up(self) -> bool:
        """True if its batch counts as never created; a listing may show it late."""
        return self.has_ended and self.batch is None and self.missing_since is not None


def dataset_id(store: Store) -> str:
    """The dataset's random id, created when it is first needed."""
    store.put_new(ID_KEY, secrets.token_hex(16).encode())
    found = store.get(ID_KEY)
    if found is None or not re.fullmatch(rb"[0-9a-f]{32}", found):
        raise DatasetError(f"{store.url}/{ID_KEY}: expected the dataset's id, 32 hex digits; restore it from a backup")
    return found.decode()


def who_of(place: int, *, stage: int = 0) -> str:
    """Who is asked: the teacher with this position or, with a `stage`, the judge of the check with this number."""
    return f"c{stage}" if stage else str(place)


def intent_id(dataset: str, chunk: ChunkId, *, who: str, n: int) -> str:
    """24 hex digits that no other intent of any dataset has."""
    return hashlib.sha256(f"{dataset} {chunk} {who} {n}".encode()).hexdigest()[:24]


class Intents:
    """The intents of one teacher, or of one judge for one check. Its methods block."""

    def __init__(self, store: Store, *, who: str, beside: Collection[str] = ()) -> None:
        """`who`: see the module; `beside`: the same teacher for its other checks."""
        self._store = store
        self._who = who
        self._all = {who, *beside}
        self._id: str | None = None

    def of(self, chunk: ChunkId) -> list[KnownIntent]:
        """The chunk's intents, in order. Raises DatasetError, StoreAway."""
        there = {stat.key for stat in self._store.list(f"{PREFIX}{chunk}-{self._who}-")}
        numbers = sorted(int(match[3]) for key in there if (match := _NAME.fullmatch(key)) and not match[4])
        return [self._known(chunk, n, there) for n in numbers]

    def _known(self, chunk: ChunkId, n: int, there: set[str]) -> KnownIntent:
        stored = _read(self._store, self._key(chunk, n), StoredIntent)
        submitted = self._key(chunk, n, ".submitted")
        batch = _read(self._store, submitted, _Submitted).batch if submitted in there else None
        key = self._key(chunk, n, ".expired")
        expired = tuple(_unranged(_read(self._store, key, _Expired).samples)) if key in there else ()
        key = self._key(chunk, n, ".missing")
        since = _read(self._store, key, _Missing).since if key in there else None
        return KnownIntent(n, stored, batch, expired, self._key(chunk, n, ".ended") in there, since)

    def name(self, chunk: ChunkId, n: int) -> str:
        """The id of intent n. Raises DatasetError, StoreAway."""
        self._id = self._id or dataset_id(self._store)
        return intent_id(self._id, chunk, who=self._who, n=n)

    def decide(
        self,
        chunk: ChunkId,
        n: int,
        ordinals: Sequence[int],
        *,
        at: float,
        url: str,
        secret: str = "",
        kept_days: float | None = None,
    ) -> StoredIntent | None:
        """Write intent n; None if somebody else did, who has the chunk then.

        `secret`: see `account_mark`; `kept_days`: see `BatchApi`.
        """
        collect_by = None if kept_days is None else at + 86400 * kept_days
        name = self.name(chunk, n)
        account, ranges = self.account_mark(secret), _ranged(ordinals)
        stored = StoredIntent(id=name, at=at, url=url, account=account, samples=ranges, collect_by=collect_by)
        body = stored.model_dump_json().encode()
        return stored if self._store.put_new(self._key(chunk, n), body, seal=secrets.token_hex(8)) else None

    def account_mark(self, secret: str) -> str:
        """Tells another key from this one, and is too short to confirm a guess. Raises DatasetError, StoreAway."""
        self._id = self._id or dataset_id(self._store)
        return hashlib.sha256(f"{self._id} {secret}".encode()).hexdigest()[:4]

    def submitted(self, chunk: ChunkId, n: int, batch: str) -> None:
        """The provider has the batch, under this id."""
        self._store.put_new(self._key(chunk, n, ".submitted"), _Submitted(batch=batch).model_dump_json().encode())

    def missing(self, chunk: ChunkId, n: int, *, since: float) -> float:
        """A listing does not show the batch; returns when one first did not. Raises DatasetError, StoreAway."""
        key = self._key(chunk, n, ".missing")
        self._store.put_new(key, _Missing(since=since).model_dump_json().encode())
        return _read(self._store, key, _Missing).since

    def expired(self, chunk: ChunkId, n: int, ordinals: Sequence[int]) -> None:
        """The provider did not reach these samples; stored before anybody acts on it."""
        body = _Expired(samples=_ranged(ordinals)).model_dump_json().encode()
        self._store.put_new(self._key(chunk, n, ".expired"), body)

    def ended(self, chunk: ChunkId, n: int) -> None:
        """All results of the batch are in the chunk's journal, and safe in the store."""
        self._store.put_new(self._key(chunk, n, ".ended"), b"{}")

    def count_open(self) -> int:
        """Intents of the teacher, in all chunks, that have not ended."""
        return count_batches(self._store, of=self._all).open

    def batches(self) -> set[str]:
        """The batches of all its intents whose ids are known."""
        keys = [stat.key for stat in self._store.list(PREFIX)]
        mine = [key for key in keys if (match := _NAME.fullmatch(key)) and match[2] in self._all and match[4]]
        return {_read(self._store, key, _Submitted).batch for key in mine if key.endswith(".submitted.json")}

    def _key(self, chunk: ChunkId, n: int, kind: str = "") -> str:
        return f"{PREFIX}{chunk}-{self._who}-{n}{kind}.json"


def created_elsewhere(stored: StoredIntent, *, urls: Collection[str], mark: str) -> str | None:
    """In words, where the intent's batch was created, if not at one of these URLs with the key of this mark."""
    if stored.url not in urls:
        return f"at {stored.url}"
    return "with another key" if stored.account and stored.account != mark else None


class BatchCounts(NamedTuple):
    """Numbers of batches."""

    open: int
    """Number of batches at the provider or not collected yet, including those that may not have been created."""
    ended: int
    expired: int
    """Ended batches with requests that the provider did not reach."""


def count_batches(store: ReadableStore, *, of: Collection[str] | None = None) -> BatchCounts:
    """Batches of these or, without `of`, of all, from a listing. Those of sealed chunks have ended."""
    keys = [stat.key for stat in store.list(PREFIX)]
    found = [match for key in keys if (match := _NAME.fullmatch(key)) and (of is None or match[2] in of)]
    still_open = sum(of is None or who in of for _, who, _ in _unsealed(store, keys))
    intents = sum(match[4] is None for match in found)
    return BatchCounts(still_open, intents - still_open, sum(match[4] == ".expired" for match in found))


def collect_by(store: ReadableStore) -> float | None:
    """When the first results of an open batch may be deleted, in UTC seconds since 1970; None if all are kept.

    Raises:
        DatasetError, StoreAway.
    """
    left = _unsealed(store, (stat.key for stat in store.list(PREFIX)))
    keys = [f"{PREFIX}{chunk}-{who}-{n}.json" for chunk, who, n in left]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda key: _read(store, key, StoredIntent).collect_by, keys)
        return min((each for each in found if each is not None), default=None)


def open_by_who(store: ReadableStore) -> Counter[str]:
    """Open batches by who is asked in them. Raises StoreAway."""
    return Counter(who for _, who, _ in _unsealed(store, (stat.key for stat in store.list(PREFIX))))


def day_of(moment: float | None) -> str | None:
    """The UTC day of a moment."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).date().isoformat()


def open_intents(keys: Iterable[str]) -> set[tuple[ChunkId, str, int]]:
    """(chunk, who, n) of the intents among these keys that have not ended; those of sealed chunks have."""
    found = {match.groups() for key in keys if (match := _NAME.fullmatch(key))}
    ended = {each[:3] for each in found if each[3] == ".ended"}
    left = {each[:3] for each in found if each[3] is None} - ended
    return {(ChunkId.parse(chunk), who, int(n)) for chunk, who, n in left}


def _unsealed(store: ReadableStore, keys: Iterable[str]) -> set[tuple[ChunkId, str, int]]:
    """The open intents among these keys, without those of sealed chunks."""
    left = open_intents(keys)
    sealed = set(sealed_chunks(store)) if left else set()
    return {each for each in left if each[0] not in sealed}


def _read(store: ReadableStore, key: str, kind: type[_T]) -> _T:
    found = store.get(key)
    try:
        return kind.model_validate_json(found or b"")
    except ValidationError:
        raise DatasetError(f"{store.url}/{key}: is damaged; restore it from a backup") from None


def _ranged(ordinals: Iterable[int]) -> tuple[tuple[int, int], ...]:
    ranges: list[list[int]] = []
    for ordinal in sorted(ordinals):
        if ranges and ranges[-1][0] + ranges[-1][1] == ordinal:
            ranges[-1][1] += 1
        else:
            ranges.append([ordinal, 1])
    return tuple((first, count) for first, count in ranges)


def _unranged(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    for first, count in ranges:
        yield from range(first, first + count)
