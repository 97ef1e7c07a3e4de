"""A file that a command writes for its user: either complete or absent."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stillhouse.gen.errors import UsageError
from stillhouse.gen.store.base import Store


def output_path(given: str, *, option: str, store: Store) -> Path:
    """Where to write.

    Raises:
        UsageError: the path can't be used, or is inside the dataset.
    """
    try:
        path = Path(given).expanduser()
        if given and path.is_dir():
            raise UsageError(f"{option}: expected the path of a file, got the folder {given!r}")
        if not given or (store.is_local and path.resolve().is_relative_to(Path(store.url))):
            raise UsageError(
                f"{option}: expected a file outside the dataset, got {given!r}: everything in there belongs to the "
                "dataset"
            )
    # a name that is too long, a loop of links, an unknown user's folder
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{option}: expected the path of a file, got {given[:100]!r} ({why})") from None
    return path


def is_stream(path: Path) -> bool:
    """True if the name is that of a pipe or a device, which is written to and must not be replaced."""
    return path.exists() and not path.is_file()


@contextmanager
def written(path: Path, *, option: str) -> Iterator[BinaryIO]:
    """A file that takes its name once the block has succeeded, so a reader sees the old file or the complete new one.

    If the name is a link, the file that it points to is replaced. A stream is written to at once.

    Raises:
        UsageError: the file can't be written.
    """
    place = path.resolve()
    aside = None if is_stream(path) else place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with path.open("wb") if aside is None else aside.open("xb") as file:
            yield file
            kept(file)
        if aside is not None:
            aside.replace(place)
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror}); give another {option} FILE") from None
    finally:
        if aside is not None:
            with suppress(OSError):  # it was never there, and the reason is reported
                aside.unlink()


def kept(file: BinaryIO) -> None:
    """Flush what was written so far to disk, if it is on one.

    Raises:
        OSError: this failed.
    """
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fsync(file.fileno())
