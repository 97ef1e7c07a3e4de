"""What a chunk's sealed files say of its samples: what later generations under `ask.accept` rest on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import Series, SeriesKey
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore


@dataclass(slots=True)
class Outcomes:
    """The samples of one series in one chunk; those it asked for that stand in none of these were not needed."""

    accepted: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    @property
    def seen(self) -> Collection[int]:
        """All that were asked."""
        return self.accepted | self.rejected | self.failed


def read_outcomes(store: ReadableStore, chunk: ChunkId, series: Series) -> Mapping[SeriesKey, Outcomes]:
    """By series; one none of whose samples were asked is not in it.

    Raises:
        DatasetError: the shard or a file beside it is missing or damaged.
    """
    meta = read_meta(store, chunk)
    keys = {"accepted": chunk.data_key} | {
        kind: meta.side[kind].key for kind in ("rejected", "failed") if kind in meta.side
    }
    found: dict[SeriesKey, Outcomes] = {}
    for kind, key in keys.items():
        for prompt, sample, teacher in _samples_in(store, key):
            getattr(found.setdefault(series.key(prompt, teacher), Outcomes()), kind).add(sample)
    return found


def _samples_in(store: ReadableStore, key: str) -> list[tuple[bytes, int, str]]:
    """(prompt key, sample, teacher) of each row that is one of a sample: duplicate prompts and bad rows have none."""
    try:
        with store.open(key) as file:
            table = pq.read_table(file, columns=["prompt_key", "sample", "teacher"])
    except (pa.ArrowException, OSError):
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged; `stillhouse verify` says what can be done"
        ) from None
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [(bytes.fromhex(key), sample, teacher) for key, sample, teacher in rows if sample is not None]
