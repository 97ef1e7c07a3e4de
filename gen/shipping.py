"""Journals on their way between a node's disk and the store, so that a lost node costs at most what it had not shipped.

A dataset on a local disk needs no shipping: its journals are written where the next owner looks for them.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pyarrow as pa

from gen.dataset import ChunkId
from gen.journal import MAGIC, Frame, JournalFile, frames, is_dead, leftovers
from gen.store import Store
from schemas.recipe import RunSettings


def journal_root(store: Store, settings: RunSettings) -> Path:
    """This node's folder for the dataset's journals: the same for every run, outside Ray's session folder."""
    if store.is_local:
        return Path(store.url) / "_stillhouse" / "journal"
    base = (
        Path(settings.journal_dir) if settings.journal_dir else platformdirs.user_state_path("stillhouse") / "journal"
    )
    return base / hashlib.sha256(store.url.encode()).hexdigest()[:16]


class Shipper:
    """Ships one live journal, segment by segment."""

    def __init__(self, store: Store, chunk: ChunkId, journal: JournalFile) -> None:
        self._store = store
        self._prefix = f"{chunk.journal_prefix}{journal.path.stem}"
        self._journal = journal
        self._shipped = len(MAGIC)
        self._segments = 0

    @property
    def behind_bytes(self) -> int:
        """What is not shipped."""
        return 0 if self._store.is_local else self._journal.size - self._shipped

    def ship(self) -> None:
        """Ship what is new; on a local dataset, have the disk hold it.

        Raises:
            StoreAway: it is not shipped; the next call tries again.
        """
        if self._store.is_local:
            self._journal.sync()
            return
        data = self._journal.tail(self._shipped)
        if data:
            self._store.put(f"{self._prefix}-{self._segments:06d}.zst", _pack(MAGIC + data))
            self._shipped += len(data)
            self._segments += 1


def recovered(store: Store, chunk: ChunkId, folder: Path, *, mine: Path | None = None) -> Iterator[Frame]:
    """The frames that earlier owners left, on this node and in the store, oldest file first."""
    for path in leftovers(folder):
        if path != mine:
            yield from frames(path.read_bytes(), origin=str(path))
    if not store.is_local:
        for stat in store.list(chunk.journal_prefix):
            data = store.get(stat.key)
            if data is not None:
                yield from frames(_unpack(data), origin=f"{store.url}/{stat.key}")


def sweep(store: Store, root: Path) -> list[ChunkId]:
    """Ship what dead workers left on this node, and drop what belongs to sealed chunks; the chunks shipped."""
    shipped = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        generation, _, number = folder.name.partition("-")
        if not (generation.isdigit() and number.isdigit()):
            continue
        chunk = ChunkId(int(generation), int(number))
        for path in leftovers(folder):
            if not is_dead(path):
                continue
            if store.stat(chunk.data_key) is not None:
                path.unlink(missing_ok=True)
            elif not store.is_local:
                store.put(f"{chunk.journal_prefix}{path.stem}-left.zst", _pack(path.read_bytes()))
                path.unlink(missing_ok=True)
                shipped.append(chunk)
        if not leftovers(folder):
            _remove_empty(folder)
    return shipped


def forget(store: Store, chunk: ChunkId, folder: Path) -> None:
    """Remove what is left of a sealed chunk's journals, here and in the store."""
    for path in leftovers(folder):
        path.unlink(missing_ok=True)
    _remove_empty(folder)
    if not store.is_local:
        for stat in list(store.list(chunk.journal_prefix)):
            store.delete(stat.key)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # not empty: a live journal is in it


def _pack(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def _unpack(data: bytes) -> bytes:
    """The segment; empty when it is damaged, for what it held is then asked again."""
    try:
        return bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())
    except (OSError, pa.ArrowException):
        return b""
