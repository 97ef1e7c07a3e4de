"""Slots for the processes that judge: a node runs at most one of them per CPU, whichever workers they serve.

A slot is a locked file in the node's temporary folder. The worker holds the lock, so it ends with the worker, and so
does the child. A worker without any slot shows this by another lock; others then give up slots they can spare.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from stillhouse.gen.process.cpus import usable_cpus

WAITING = "waiting"
"""The file that workers without any slot hold a shared lock on."""


class Slot:
    """One of the node's slots, until it is released."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)


class Slots:
    """The slots in one folder; without a folder, there is no limit."""

    def __init__(self, folder: Path | None, *, count: int) -> None:
        self._folder = folder
        self._count = count

    @classmethod
    def of_node(cls) -> Self:
        """The slots that all of this user's processes on the node share: one per CPU that this process may use."""
        folder = Path(tempfile.gettempdir()) / f"stillhouse-{os.getuid()}" / "check-slots"
        return cls(folder if _is_ours(folder) else None, count=usable_cpus())

    def take(self) -> Slot | None:
        """A free slot; None if there is none."""
        if self._folder is not None:
            for number in range(self._count):
                if (fd := self._locked(str(number), fcntl.LOCK_EX)) is not None:
                    return Slot(fd)
        return Slot(os.open(os.devnull, os.O_RDONLY)) if self._folder is None else None

    def are_wanted(self) -> bool:
        """True if somebody without a slot waits for one."""
        if self._folder is None:
            return False
        if (fd := self._locked(WAITING, fcntl.LOCK_EX)) is not None:
            os.close(fd)
        return fd is None and self._folder is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Show, for the length of the block, that somebody waits."""
        fd = self._locked(WAITING, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if fd is not None:
                os.close(fd)

    def _locked(self, name: str, how: int) -> int | None:
        """The file, locked; None if others hold the lock, or the folder was deleted."""
        if self._folder is None:
            return None
        try:
            fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            self._folder = None
            return None
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd


def _is_ours(folder: Path) -> bool:
    """Create the folder; False if it can't be created, or others can write to it."""
    with suppress(OSError):
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            stat = each.lstat()
            if not each.is_dir() or each.is_symlink() or stat.st_uid != os.getuid() or stat.st_mode & 0o022:
                return False
        return True
    return False
