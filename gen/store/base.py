"""Where datasets, journals and sources are stored: one interface for a local folder and an S3 bucket.

A key is created once. `put_new` is one conditional write: of several writers of a key one wins, the others know that
they lost, and nobody ever sees a partial object. A write whose outcome is unknown is not a failed write: it is sent
again until the store answers. If it does not answer in time, the result is `StoreAway`, never "not written".
"""

from pathlib import Path
from typing import Protocol

from stillhouse.gen.store.lock import Lock
from stillhouse.gen.store.readable import ReadableStore


class Store(ReadableStore, Protocol):
    """A writable store. `StoreAway` also covers a full or read-only disk."""

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """Create `key` unless it exists. True: this call created it; False: someone else's object exists.

        `seal` names the writer; on S3 it is stored in the object's metadata, and a retry that finds its own seal has
        won. A file given as `body` may become the object itself: it may be deleted afterwards, but never written to.
        """

    def put(self, key: str, body: bytes | Path) -> None:
        """Write or replace `key`, atomically. For a file as `body`, see `put_new`."""

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """Write only if the key's etag is `etag` (None: only if absent). The new etag, or None if another write won.

        On S3, call `probe` first: it finds out whether the store itself compares.
        """

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""

    def run_lock(self, key: str) -> Lock:
        """The lock on this key, which a run holds as long as it lasts."""

    def scratch(self) -> Path:
        """A local folder for files that will be uploaded."""

    def probe(self) -> None:
        """Test what the promises depend on: access and conditional writes. Leaves nothing behind.

        Raises `StoreRefused` if the store ignores conditional writes or can't be written to.
        """
