"""The journals of a dataset on a local disk: they are written where the next owner looks for them."""

from collections.abc import Iterator
from pathlib import Path

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.folders import dead_journals, opened_leftovers, remove_folder
from stillhouse.gen.journal.frames import Frame, frames
from stillhouse.gen.journal.recovered import Recovered
from stillhouse.gen.store.readable import ReadableStore


class SyncedJournal:
    """A live journal that is synced to disk, against loss of power."""

    behind_bytes = 0
    """See `LiveJournal`."""

    def __init__(self, journal: JournalFile) -> None:
        self._journal = journal

    def ship(self) -> None:
        """See `LiveJournal`."""
        self._journal.sync()

    def announce(self) -> None:
        """See `LiveJournal`: the next owners see the file."""

    def end(self) -> None:
        """See `LiveJournal`."""


class LocalJournals:
    """The journals of a dataset on a local disk; see `Journals`."""

    def __init__(self, store: ReadableStore, root: Path) -> None:
        self.root = root
        self._store = store

    def live(self, chunk: ChunkId, journal: JournalFile) -> SyncedJournal:
        """See `Journals`."""
        return SyncedJournal(journal)

    def recovered(self, chunk: ChunkId, *, mine: Path | None = None) -> Recovered:
        """See `Journals`. All journals are here, so nobody asks which are whole."""
        return Recovered(self._frames(chunk, mine))

    def _frames(self, chunk: ChunkId, mine: Path | None) -> Iterator[Frame]:
        with opened_leftovers(self.root / str(chunk), mine=mine) as here:
            for file in here.values():
                yield from frames(file, origin=file.name)

    def sweep(self) -> None:
        """See `Journals`."""
        for chunk, path in dead_journals(self.root):
            if self._store.stat(chunk.data_key) is not None:
                path.unlink(missing_ok=True)

    def forget(self, chunk: ChunkId) -> None:
        """See `Journals`."""
        remove_folder(self.root / str(chunk))
