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
    """A store that can be written, too; `StoreAway` is also a disk that is full or read-only."""

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """Create `key` unless it exists. True: this call created it; False: someone else's object is there.

        `seal` names the writer; on S3 it is kept in the object's metadata, and a retry that finds its own seal has won.
        A file given as `body` may become the object itself: it may be deleted afterwards, never written to.
        """

    def put(self, key: str, body: bytes | Path) -> None:
        """Write or replace `key`, atomically. For a file as `body` see `put_new`."""

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """Write only while the key's etag is `etag` (None: only while it is absent). The new etag; None when lost.

        On S3, `probe` first: it finds out whether the store compares by itself.
        """

    def delete(self, key: str) -> None:
        """Remove the object; where there is none, nothing happens."""

    def run_lock(self, key: str) -> Lock:
        """The lock of that key, which a run holds as long as it lasts."""

    def scratch(self) -> Path:
        """A local folder for files that are about to be put."""

    def probe(self) -> None:
        """Try what the promises rest on: access, and conditional writes. Leaves nothing behind.

        Raises `StoreRefused` when the store ignores conditional writes or can't be written to.
        """
