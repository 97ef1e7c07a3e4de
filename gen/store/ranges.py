"""A file over ranged reads, which are what an object store offers; pyarrow and gzip need a file."""

import errno
import os
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_AHEAD_BYTES = 2 << 20


def buffered(read_range: Callable[[int, int], bytes], *, size: int) -> BufferedReader:
    """A seekable file of `size` bytes; `read_range(start, stop)` fetches at least 2 MiB per call, or up to the end."""
    return BufferedReader(_Ranges(read_range, size), buffer_size=_READ_AHEAD_BYTES)


class _Ranges(RawIOBase):
    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise OSError(errno.EINVAL, f"seek to {position}")
        self._position = position
        return position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        if stop <= self._position:
            return 0
        found = self._read_range(self._position, stop)
        view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def readall(self) -> bytes:
        # Python's default would ask for 8 KiB at a time.
        start, self._position = self._position, max(self._position, self._size)
        return self._read_range(start, self._size) if start < self._size else b""
