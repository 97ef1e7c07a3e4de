"""Where datasets, journals and sources live: one interface over a local folder and an S3 bucket.

A key is created once. `put_new` is one conditional write, so of any number of writers of a key one wins and the others
know that they lost; nobody ever sees half an object. A write whose outcome is unknown is not a failed write: it is sent
again until the store tells, and what can't be told within the store's patience is `StoreAway`, never "not written".
"""

from pathlib import Path
from typing import Protocol

from stillhouse.gen.store.lock import Lock
from stillhouse.gen.store.readable import ReadableStore


class Store(ReadableStore, Protocol):
    """A writable store. `StoreAway` also covers a full or read-only disk."""

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """Create `key` unless it exists. True: this call created it; False: someone else's object exists.

        `seal` names the writer; on S3 it is kept in the object's metadata, and a retry that finds its own seal has won.
        A file given as `body` may become the object itself: it may be deleted afterwards, never written to.
        """

    def put(self, key: str, body: bytes | Path) -> None:
        """Write or replace `key`, atomically. For a file as `body` see `put_new`."""

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """Write only if the key's etag is `etag` (None: only if absent). The new etag, or None if another write won.

        On S3, `probe` first: it finds out whether the store compares by itself.
        """

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""

    def run_lock(self, key: str) -> Lock:
        """The lock on this key, which a run holds as long as it lasts."""

    def scratch(self) -> Path:
        """A local folder for files about to be uploaded."""

    def probe(self) -> None:
        """Test what the promises rely on: access and conditional writes. Leaves nothing behind.

        Raises `StoreRefused` when the store ignores conditional writes or can't be written to.
        """
