"""Record ids of a whole dataset in some 30 bytes each (20, plus what lists keep free), to find duplicates."""

from array import array
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

ID_BYTES = 16


class SeenIds:
    """Ids by their first byte, each with its owner's number; searched one 256th at a time."""

    def __init__(self) -> None:
        self._ids = [bytearray() for _ in range(256)]
        self._owners = [array("I") for _ in range(256)]

    def add(self, ids: bytes | bytearray, *, owner: int) -> None:
        """Add an owner's ids, `ID_BYTES` each."""
        for at in range(0, len(ids), ID_BYTES):
            bucket = ids[at]
            self._ids[bucket] += ids[at : at + ID_BYTES]
            self._owners[bucket].append(owner)

    def duplicates(self) -> Counter[tuple[int, int]]:
        """(first owner, another owner) to the number of ids they share; the same owner twice if it has an id twice."""
        shared: Counter[tuple[int, int]] = Counter()
        for ids, owners in zip(self._ids, self._owners, strict=True):
            if not _all_different(ids):
                first: dict[bytes, int] = {}
                for number, owner in enumerate(owners):
                    own = bytes(ids[number * ID_BYTES : (number + 1) * ID_BYTES])
                    if own in first:
                        shared[first[own], owner] += 1
                    else:
                        first[own] = owner
        return shared


def _all_different(ids: bytearray) -> bool:
    count = len(ids) // ID_BYTES
    array_ = pa.FixedSizeBinaryArray.from_buffers(pa.binary(ID_BYTES), count, [None, pa.py_buffer(bytes(ids))])
    return bool(pc.count_distinct(array_).as_py() == count)
