"""Very long texts and bytes, as Arrow arrays and as hashes. Converting one at once would hold the event loop."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from stillhouse.gen.teachers.in_pieces import PIECE_BYTES

Value: TypeAlias = str | bytes | None

_OFFSETS: Mapping[pa.DataType, type[np.signedinteger]] = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}
"""The types of long values, each with the type of its offsets."""


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The same as `pa.array`."""
    offsets = _OFFSETS.get(kind)
    if offsets is None or all(value is None or len(value) <= PIECE_BYTES for value in values):
        return pa.array(values, kind)
    sizes = [sum(map(len, pieces_of(value))) for value in values]
    data = pa.allocate_buffer(sum(sizes))
    into, at = memoryview(np.frombuffer(data, np.uint8)), 0  # type: ignore[arg-type] # a buffer, as at run time
    for value in values:
        for piece in pieces_of(value):
            into[at : at + len(piece)] = piece
            at += len(piece)
    ends = np.cumsum([0, *sizes], dtype=offsets)
    valid = pa.array([value is not None for value in values], pa.bool_())
    return pa.Array.from_buffers(kind, len(values), [valid.buffers()[1], pa.py_buffer(ends), data])


def digest_of(*texts: str) -> bytes:
    """16 bytes, the same as of one text that they are parts of."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        for at in range(0, len(text), PIECE_BYTES):
            digest.update(text[at : at + PIECE_BYTES].encode("utf-8", "surrogatepass"))
    return digest.digest()


def pieces_of(value: Value) -> Iterator[bytes]:
    """The value as bytes, texts in UTF-8, some at a time."""
    for at in range(0, 0 if value is None else len(value), PIECE_BYTES):
        piece = value[at : at + PIECE_BYTES]  # type: ignore[index] # None has no pieces
        yield piece if isinstance(piece, bytes) else piece.encode()
