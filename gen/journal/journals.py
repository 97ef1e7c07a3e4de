"""A dataset's journals on one node: on its disk and, if that is not enough, in the store."""

import hashlib
from pathlib import Path
from typing import Protocol

import platformdirs

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.local import LocalJournals
from stillhouse.gen.journal.recovered import Recovered
from stillhouse.gen.journal.shipping import ShippedJournals
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.run_settings import RunSettings


class LiveJournal(Protocol):
    """How one journal is made safe while its writer is alive."""

    @property
    def behind_bytes(self) -> int:
        """Bytes that would be lost with the node."""
        ...

    def ship(self) -> None:
        """Make new frames safe.

        Raises:
            StoreAway: this failed; the next call tries again.
        """
        ...

    def announce(self) -> None:
        """Make it known to the chunk's next owners, before anything is written: they can then tell if they lack it.

        Raises:
            StoreAway: this failed.
        """
        ...

    def end(self) -> None:
        """Ship nothing more, once the present shipment has ended: the chunk is sealed and its journals will be
        deleted."""
        ...


class Journals(Protocol):
    """All journals of a dataset on this node."""

    root: Path
    """The node's folder, with one folder per chunk."""

    def live(self, chunk: ChunkId, journal: JournalFile) -> LiveJournal:
        """Make this journal of the chunk safe."""
        ...

    def recovered(self, chunk: ChunkId, *, mine: Path | None = None) -> Recovered:
        """What earlier owners left, on this node and in the store, oldest journal first; some frames come twice.

        `mine`: a journal to leave out.

        Raises:
            DatasetError: a newer version wrote them.
            StoreAway: the disk or the store does not return them.
        """
        ...

    def sweep(self) -> None:
        """Ship what dead workers left on this node, and delete what belongs to sealed chunks."""
        ...

    def forget(self, chunk: ChunkId) -> None:
        """Remove what is left of a sealed chunk's journals, here and in the store."""
        ...


def journals_at(store: Store, root: Path) -> Journals:
    """The journals of the store's dataset, with this folder on this node."""
    return LocalJournals(store, root) if store.is_local else ShippedJournals(store, root)


def journal_root(store: ReadableStore, settings: RunSettings) -> Path:
    """This node's folder for the dataset's journals: the same for every run, outside Ray's session folder.

    For a dataset on an object store it depends on the URL and on the dataset: what an earlier one at this URL left on
    the node is in another folder, and so is what one of this URL at another endpoint did.

    Raises:
        DatasetError: the dataset's recipe is damaged or from a newer version.
        StoreAway: the store fails.
    """
    folder = journals_folder(store, settings)
    if store.is_local:
        return folder
    bound = read_binding(store)
    name = f"{store.url} {bound.journals}" if bound and bound.journals else store.url
    return folder / hashlib.sha256(name.encode()).hexdigest()[:16]


def journals_folder(store: ReadableStore, settings: RunSettings) -> Path:
    """Where this node's journals are: the dataset's own if it is on a local disk, else those of all datasets."""
    if store.is_local:
        return Path(store.url) / "_stillhouse" / "journal"
    if settings.journal_dir:
        return Path(settings.journal_dir).expanduser().absolute()
    return platformdirs.user_state_path("stillhouse") / "journal"
