"""A node's folder of journals: one folder per chunk, in which each of its owners wrote one file."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.file import is_dead, leftovers


def dead_journals(root: Path) -> Iterator[tuple[ChunkId, Path]]:
    """The files of writers that are gone, each with its chunk; a folder that is empty afterwards is removed."""
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if (chunk := _chunk_of(folder.name)) is not None:
            yield from ((chunk, path) for path in filter(is_dead, leftovers(folder)))
            if not leftovers(folder):
                _remove_empty(folder)


@contextmanager
def opened_leftovers(folder: Path, *, mine: Path | None) -> Iterator[dict[str, BinaryIO]]:
    """A chunk's journals except `mine`, open for reading within the block, by their names' stems, in order.

    Raises:
        StoreAway: one of them can't be read.
    """
    with ExitStack() as stack:
        found = {}
        for path in leftovers(folder):
            if path != mine and (file := opened(path)) is not None:
                found[path.stem] = stack.enter_context(file)
        yield found


def opened(path: Path) -> BinaryIO | None:
    """The journal file, or None if it is gone.

    Raises:
        StoreAway: it can't be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreAway(f"{path}: the journal can't be read ({error.strerror}); fix that, then run again") from error


def remove_folder(folder: Path) -> None:
    """Remove a chunk's journals, unless a writer begins one meanwhile."""
    for path in leftovers(folder):
        path.unlink(missing_ok=True)
    _remove_empty(folder)


def _chunk_of(name: str) -> ChunkId | None:
    generation, _, number = name.partition("-")
    return ChunkId(int(generation), int(number)) if generation.isdigit() and number.isdigit() else None


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # not empty: a live journal is in it
