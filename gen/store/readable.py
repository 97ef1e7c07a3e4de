"""The read-only half of a store: code that only reads a dataset takes this type, so that it can't write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Stat:
    """One object: its key relative to the store's root, its size in bytes, and a tag that changes with its content."""

    key: str
    size: int
    etag: str


class ReadableStore(Protocol):
    """Objects by key; keys are relative to the root and separated by '/'. Safe to share between threads.

    Every method raises `StoreAway` if the store does not answer (or its disk fails), and `StoreRefused` if the store
    will not serve us until a person changes something.
    """

    url: str
    """Canonical and without credentials: 's3://bucket/prefix', or an absolute local path."""
    is_local: bool

    def get(self, key: str) -> bytes | None:
        """The whole object, or None if there is none."""

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """The whole object, and the etag of exactly these bytes, for `Store.swap`."""

    def stat(self, key: str) -> Stat | None:
        """Size and etag, or None if there is no such object."""

    def seal_of(self, key: str) -> str | None:
        """The seal that the object was created with. Always None on a local disk: shards contain theirs."""

    def open(self, key: str) -> BinaryIO:
        """A seekable reader that fetches ranges as they are read.

        Raises `FileNotFoundError` if absent; its reads raise `SourceError` if an S3 object changes meanwhile.
        """

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, ordered by the keys' UTF-8 bytes. A missing folder is empty.

        SeaweedFS lists folder by folder: there, only the keys within a folder are in order.
        """

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that `list` gives: cheaper on a disk, where each size and etag takes a call."""

    def leftovers(self) -> Sequence[str]:
        """Keys of partial files left by processes that died; `list` skips them."""

    def is_locked(self, key: str) -> bool:
        """True if `Store.lock(key)` seems to be held now; checks without taking it."""
