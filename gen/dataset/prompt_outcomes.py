"""Outcomes of a chunk's samples, read from its sealed files; later generations under `ask.accept` depend on them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import Series, SeriesKey
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.identity import has_selection
from stillhouse.schemas.record import NOT_SELECTED


@dataclass(slots=True)
class Outcomes:
    """The samples of one series in one chunk; samples that it planned but that are in none of these were not needed."""

    accepted: set[int] = field(default_factory=set)
    """Records, and under a selection also the accepted answers that were not selected."""
    rejected: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    @property
    def seen(self) -> Collection[int]:
        """All samples that were asked."""
        return self.accepted | self.rejected | self.failed


def read_outcomes(store: ReadableStore, chunk: ChunkId, series: Series) -> Mapping[SeriesKey, Outcomes]:
    """Outcomes by series; a series with no asked sample is missing.

    Raises:
        DatasetError: the shard or a file beside it is missing or damaged.
    """
    meta = read_meta(store, chunk)
    keys = {"accepted": chunk.data_key} | {
        kind: meta.side[kind].key for kind in ("rejected", "failed") if kind in meta.side
    }
    found: dict[SeriesKey, Outcomes] = {}
    selects = has_selection(meta.identity)
    for kind, key in keys.items():
        for prompt, sample, teacher, reason in _samples_in(store, key, reasons=selects and kind == "rejected"):
            outcomes = found.setdefault(series.key(prompt, teacher), Outcomes())
            getattr(outcomes, "accepted" if reason == NOT_SELECTED else kind).add(sample)
    return found


def _samples_in(store: ReadableStore, key: str, *, reasons: bool) -> Iterator[tuple[bytes, int, str, str | None]]:
    """(prompt key, sample, teacher, reject reason) of each row of a sample; duplicate prompts and bad rows have none.

    `reasons`: False if the file has none, or they don't matter.
    """
    columns = ["prompt_key", "sample", "teacher", *(["reject_reason"] if reasons else [])]
    try:
        with store.open(key) as file:
            table = pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError):
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged; `stillhouse verify` says what can be done"
        ) from None
    for prompt, sample, teacher, *reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if sample is not None:
            yield bytes.fromhex(prompt), sample, teacher, reason[0] if reason else None
