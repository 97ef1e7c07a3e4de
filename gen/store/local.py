"""A local folder as a store: a key appears complete and synced to disk, or not at all.

Files are written to `<root>/_stillhouse/tmp`, synced, and then linked (new) or renamed (replaced) to their name.
`os.link` fails if the name exists: that is the conditional write. Compare-and-set holds a flock on
`<root>/_stillhouse/lock`; it can't be combined with `put` on the same key.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO
from uuid import uuid4

from stillhouse.gen.errors import StillhouseError, StoreAway, StoreRefused
from stillhouse.gen.store.lock import FileLock, Lock
from stillhouse.gen.store.readable import Stat

_SCRATCH = "_stillhouse/tmp"
_LOCK = "_stillhouse/lock"
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_ADVICE = {
    errno.ENOSPC: "the disk is full: free space",
    errno.EDQUOT: "the quota is used up: free space or raise it",
    errno.EFBIG: "the limit on file sizes is reached: raise it (ulimit -f) or free space",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EIO: "the disk reports an input/output error: check it",
    errno.ESTALE: "the network file system lost the folder: mount it again",
    errno.EMFILE: "this process has too many files open: raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too many files open: raise its limit",
}
"""Errors that pass once someone acts; for these the run pauses. All others are refused."""


class LocalStore:
    """Objects as files below `root`, which is created when something is first written."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = str(root)

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`. The seal is not kept: a local write knows its own outcome."""
        path = self._path(key)
        with self._errors("write", key), self._staged(body) as staged:
            try:
                _install(staged, path, os.link)
            except FileExistsError:
                if path.is_dir():
                    raise StoreRefused(f"{path}: expected a file or nothing, found a folder: move it away") from None
                return False
            return True

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        path = self._path(key)
        with self._errors("write", key), self._staged(body) as staged:
            _install(staged, path, os.replace)

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """See `Store`."""
        path = self._path(key)
        with self._errors("write", key), self._swap_lock(), self._staged(body) as staged:
            now = _stat(path)
            if (None if now is None else _etag(now)) != etag:
                return None
            if now is not None:
                _make_younger(staged, than=now)
            new = _etag(staged.stat())
            try:
                _install(staged, path, os.link if now is None else os.replace)
            except FileExistsError:
                return None
            return new

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        found = self.get_with_etag(key)
        return None if found is None else found[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """See `Store`."""
        with self._errors("read", key):
            try:
                with self._path(key).open("rb") as file:
                    return file.read(), _etag(os.fstat(file.fileno()))
            except _ABSENT:
                return None

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        with self._errors("read", key):
            found = _stat(self._path(key))
        return None if found is None else Stat(key, found.st_size, _etag(found))

    def seal_of(self, key: str) -> str | None:
        """See `Store`: always None here."""
        return None

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        path = self._path(key)
        with self._errors("read", key):
            try:
                return path.open("rb")
            except _ABSENT:
                pass
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`. Symlinked files are listed, symlinked folders are not entered."""
        for key, entry in self._walk(prefix.rpartition("/")[0], prefix):
            with self._errors("read", key):
                stat = _stat(entry)
            if stat is not None:
                yield Stat(key, stat.st_size, _etag(stat))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `ReadableStore`: the folder's entries, without a call per file."""
        for key, entry in self._walk(prefix.rpartition("/")[0], prefix):
            with self._errors("read", key):
                is_file = entry.is_file(follow_symlinks=False) or (entry.is_symlink() and _stat(entry) is not None)
            if is_file:
                yield key

    def delete(self, key: str) -> None:
        """See `Store`. Also removes folders that this leaves empty."""
        path = self._path(key)
        with self._errors("delete", key):
            with suppress(*_ABSENT):
                path.unlink()
            for folder in path.parents:
                if folder == self._root or not _removed(folder):
                    return

    def leftovers(self) -> Sequence[str]:
        """See `ReadableStore`."""
        folder = self._root / _SCRATCH
        return sorted(f"{_SCRATCH}/{path.name}" for path in folder.iterdir()) if folder.is_dir() else []

    def run_lock(self, key: str) -> Lock:
        """See `Store`."""
        return FileLock(self._path(key))

    def is_locked(self, key: str) -> bool:
        """See `ReadableStore`."""
        with self._errors("read", key):
            return FileLock(self._path(key)).is_held()

    def scratch(self) -> Path:
        """See `Store`: on the dataset's file system, so that a link is enough to store a file."""
        folder = self._root / _SCRATCH
        with self._errors("make", _SCRATCH):
            _make_folders(folder)
        return folder

    def probe(self) -> None:
        """See `Store`. Tested in the nearest existing folder, so that no folder is created."""
        scratch = self._root / _SCRATCH
        with self._errors("write", _SCRATCH):
            # a link that leads nowhere is in the way, too
            nearest = next(folder for folder in (scratch, *scratch.parents) if folder.exists() or folder.is_symlink())
            _must_be_writable(nearest)
            for folder in (self._root / "_stillhouse", self._root / "data"):
                if folder.exists():
                    _must_be_writable(folder)
            first = nearest / f".stillhouse-probe-{uuid4().hex}"
            second = first.with_suffix(".link")
            try:
                first.write_bytes(b"probe")
                _must_link(first, second)
                _must_lock(first)
            finally:
                for path in (first, second):
                    with suppress(OSError):
                        path.unlink()

    def _path(self, key: str) -> Path:
        if "\0" in key or any(segment in {"", ".", ".."} for segment in key.split("/")):
            raise StoreRefused(f"expected a key like 'data/part.parquet' below {self._root}, got {key!r}")
        return self._root / key

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        base = f"{folder}/" if folder else ""
        with self._errors("list", folder):
            try:
                with os.scandir(self._root / folder) as entries:
                    # A folder sorts as its keys do, by its name with a trailing slash.
                    found = sorted(
                        (os.fsencode(e.name) + b"/" * e.is_dir(follow_symlinks=False), e)
                        for e in entries
                        if f"{base}{e.name}".startswith(prefix)
                    )
            except _ABSENT:
                return
        for _, entry in found:
            key = f"{base}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if key != _SCRATCH:
                    yield from self._walk(key, prefix)
            elif key != _LOCK:
                yield key, entry

    @contextmanager
    def _staged(self, body: bytes | Path) -> Iterator[Path]:
        """The body as a synced file in the scratch folder, removed afterwards."""
        staged = self.scratch() / f"{os.getpid()}-{uuid4().hex}"
        try:
            if isinstance(body, bytes):
                staged.write_bytes(body)
            else:
                _link_or_copy(body, staged)
            _sync(staged)
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _swap_lock(self) -> Iterator[None]:
        path = self._root / _LOCK
        _make_folders(path.parent)
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _translated(error, f"could not {action} {self._root / key}") from error


def _must_be_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code))


def _translated(error: OSError, what: str) -> StillhouseError:
    advice = _ADVICE.get(error.errno or 0)
    if advice is not None:
        return StoreAway(f"{what}: {advice}, then run the same command again")
    match error:
        case PermissionError():
            advice = "give this user access to the folder, or use another path"
        case NotADirectoryError():
            advice = "a file is where a folder should be: move it away, or use another path"
        case _:
            advice = "use another path"
    return StoreRefused(f"{what}: {error.strerror or error}; {advice}")


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _stat(path: Path | os.DirEntry[str]) -> os.stat_result | None:
    try:
        found = path.stat()
    except _ABSENT:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link that leads to itself leads nowhere, like one to a missing file
            return None
        raise
    return found if S_ISREG(found.st_mode) else None


def _make_younger(path: Path, *, than: os.stat_result) -> None:
    """Two writes within one tick of the file system's clock would otherwise have the same etag."""
    mtime_ns = max(path.stat().st_mtime_ns, than.st_mtime_ns + 1)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def _install(staged: Path, path: Path, move: Callable[[Path, Path], None]) -> None:
    """Give the staged file its name, durably."""
    for tries_left in reversed(range(32)):
        try:
            _make_folders(path.parent)
            move(staged, path)
        except FileNotFoundError:  # a concurrent `delete` removed the folder because it was empty
            if tries_left == 0:
                raise
        else:
            break
    with suppress(FileNotFoundError):  # already deleted again, with its folder
        _sync(path.parent)


def _link_or_copy(source: Path, staged: Path) -> None:
    try:
        os.link(source, staged)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, staged)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path) -> None:
    """Create the folder and its missing parents, durably."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError as error:
            if not S_ISDIR(path.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
        else:
            _sync(path.parent)


def _removed(folder: Path) -> bool:
    """True if the folder was empty and is gone."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _must_link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StoreRefused(
            f"the file system of {source.parent} has no hard links ({error.strerror}), which keep a shard from "
            "being written twice: use a file system that has them (ext4, xfs, btrfs, NFS), or an s3:// path"
        ) from error


def _must_lock(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreRefused(
            f"the file system of {path.parent} has no file locks ({error.strerror}), which keep two runs apart: "
            "mount it with locking, or use an s3:// path"
        ) from error
