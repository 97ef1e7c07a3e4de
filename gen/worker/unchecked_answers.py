"""The answers that no check could judge, as earlier shards keep them: a retry judges them instead of asking again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import Series, SeriesKey
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.assigner import ONLINE

_FAILED = ["record_id", "prompt_key", "sample", "teacher", "kind", "failed_at"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unchecked_answers(store: Store, chunk: Chunk, *, places: Mapping[str, int]) -> dict[int, Frame]:
    """The ANSWERED frames of a retry chunk's samples whose answers were not judged, by ordinal.

    An answer whose bytes are not kept is left out: its sample is asked again.

    Args:
        store: the dataset's store.
        chunk: the retried chunk.
        places: by name, the positions of the recipe's teachers.

    Raises:
        DatasetError: an earlier shard, or a file beside it, is missing or damaged.
    """
    wanted: defaultdict[ChunkId, dict[tuple[SeriesKey, int], int]] = defaultdict(dict)
    for number, retried in chunk.retried.items():
        for sample, kind in retried.kinds.items():
            if kind == "unchecked":
                for earlier in retried.earlier:
                    wanted[earlier][chunk.key_of(number), sample] = number * chunk.samples + sample
    found: dict[int, Frame] = {}
    for earlier, ordinals in sorted(wanted.items()):  # the last one counts
        found.update(_answers(store, earlier, ordinals, places, series=chunk.series))
    return found


def _answers(
    store: Store,
    chunk: ChunkId,
    ordinals: Mapping[tuple[SeriesKey, int], int],
    places: Mapping[str, int],
    *,
    series: Series,
) -> Iterator[tuple[int, Frame]]:
    meta = read_meta(store, chunk)
    side, asked_online = meta.side, set(meta.asked_online)
    if "failed" not in side or "raw" not in side:
        return
    failed = {}
    for row in _rows(store, side["failed"].key, columns=_FAILED, name="kind", values=["unchecked"]):
        sample = series.key(bytes.fromhex(row["prompt_key"]), row["teacher"]), row["sample"]
        if sample in ordinals:
            failed[row["record_id"]] = row, ordinals[sample]
    for raw in _rows(store, side["raw"].key, columns=None, name="record_id", values=list(failed)):
        row, ordinal = failed[raw["record_id"]]
        at = (row["failed_at"] - _EPOCH).total_seconds()
        latency_s = (raw["received_at"] - row["failed_at"]).total_seconds()
        place = places.get(row["teacher"])
        if place is not None and raw["record_id"] in asked_online:
            place += ONLINE
        yield (
            ordinal,
            Frame(Kind.ANSWERED, ordinal, at, latency_s, raw["status"], raw["endpoint"], raw["body"], (), place),
        )


def _rows(
    store: Store, key: str, *, columns: list[str] | None, name: str, values: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows whose column of this name has one of the values."""
    try:
        with store.open(key) as file:
            for batch in pq.ParquetFile(file).iter_batches(256, columns=columns):
                column = batch[name].cast(pa.string())
                yield from batch.filter(pc.is_in(column, value_set=pa.array(values, pa.string()))).to_pylist()
    except (pa.ArrowException, OSError):
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged; `stillhouse verify` says what can be done"
        ) from None
