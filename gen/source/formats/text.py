"""The lines of a text file, plain or compressed, from any offset; memory is bounded whatever the file contains."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, Literal, Protocol, TypeAlias

import pyarrow as pa

from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, FormatError

Codec: TypeAlias = Literal["gzip", "zstd"]

BOM = b"\xef\xbb\xbf"

_BLOCK_BYTES = 2**20

_HEAD_BYTES = 16
_NO_TEXT = (
    (rb"\x1f\x8b", "gzip data: make its name end with .gz"),
    (rb"\x28\xb5\x2f\xfd", "Zstandard data: make its name end with .zst"),
    (
        rb"PK\x03\x04|\xfd7zXZ\x00|BZh\d1AY&SY",
        "a zip, xz or bzip2 archive: unpack it, or compress it with gzip or zstd",
    ),
    (rb"PAR[1E].{0,3}[\x00-\x08\x0e-\x1f]", "a Parquet file: make its name end with .parquet"),
    (rb"ARROW1\x00", "an Arrow file: make its name end with .arrow"),
    (rb"\xff\xfe|\xfe\xff|[\x20-\x7e]\x00|\x00[\x20-\x7e\x00]", "UTF-16 or UTF-32 text: write it as UTF-8"),
)
"""How files that are not UTF-8 text begin, and what to do: otherwise each of their lines would be a bad row."""


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line over MAX_ROW_BYTES, which is not kept."""

    size: int
    """Length in bytes, without its newline."""
    quotes: int
    """Number of `"` in it: an odd number opens or closes a quoted field of a CSV."""

    def __len__(self) -> int:
        return self.size


Line: TypeAlias = bytes | Overlong
"""A line without its newline; `len` works for both types."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def open_lines(file: BinaryIO, *, codec: Codec | None, offset: int = 0) -> tuple[int, Iterator[list[Line]]]:
    """The first line's offset, after a byte order mark, and the lines from there on, a block at a time.

    `offset` counts decompressed bytes. An unfinished last line is a line; reading raises OSError if compressed data is
    corrupt or cut off.

    Raises:
        FormatError: the file is of another kind, or ends before `offset`.
    """
    offset, stream, head = _opened(file, codec=codec, offset=offset)
    return offset, _lines(stream, head)


def open_blocks(file: BinaryIO, *, codec: Codec | None, offset: int = 0) -> tuple[int, Iterator[bytes]]:
    """Like `open_lines`, but yields blocks of text: the first block's offset, and the blocks."""
    offset, stream, head = _opened(file, codec=codec, offset=offset)
    return offset, chain([head] if head else [], iter(lambda: stream.read(_BLOCK_BYTES), b""))


def _opened(file: BinaryIO, *, codec: Codec | None, offset: int) -> tuple[int, _Readable, bytes]:
    file.seek(0 if codec else offset)
    stream: _Readable = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec) if codec else file
    if codec and offset:
        _discard(stream, offset)
        # Up to where a block ends in a reading from the start: the same rows of damaged data can then be read.
        return offset, stream, stream.read(_BLOCK_BYTES - (offset - _HEAD_BYTES) % _BLOCK_BYTES)
    head = b"" if offset else stream.read(_HEAD_BYTES)
    for pattern, advice in _NO_TEXT:
        if re.match(pattern, head, re.DOTALL):
            raise FormatError(f"expected lines of UTF-8 text, got {advice}")
    if head.startswith(BOM):
        return len(BOM), stream, head.removeprefix(BOM)
    return offset, stream, head


def _discard(stream: _Readable, size: int) -> None:
    while size:
        block = stream.read(min(size, _BLOCK_BYTES))
        if not block:
            raise FormatError("it ends before the row to resume from")
        size -= len(block)


def _lines(stream: _Readable, head: bytes) -> Iterator[list[Line]]:
    pending: Line = b""
    for block in chain([head], iter(lambda: stream.read(_BLOCK_BYTES), b"")):
        end, newline, rest = block.partition(b"\n")
        pending = _longer(pending, end)
        if newline:
            *lines, last = rest.split(b"\n")
            yield [pending, *lines]
            pending = last
    if pending:
        yield [pending]


def _longer(line: Line, more: bytes) -> Line:
    size = len(line) + len(more)
    if isinstance(line, bytes):
        return line + more if size <= MAX_ROW_BYTES else Overlong(size, line.count(b'"') + more.count(b'"'))
    return Overlong(size, line.quotes + more.count(b'"'))
