"""The answers of a series that earlier chunks keep, which a sample that is asked again must not repeat.

Equal answers of one series are kept once over all generations, so a retry chunk is sealed against the contents of
earlier shards. Those are immutable, so every seal of the chunk finds the same.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.gen.worker.long_values import digest_of
from stillhouse.schemas.columns import VOTE_SHARE
from stillhouse.schemas.inline_reasoning import split_reasoning
from stillhouse.schemas.record import NOT_SELECTED

_READERS = 8
_BATCH_ROWS = 1024
_ANSWER = ("record_id", "prompt_key", "teacher", "completion", "tool_calls", "reasoning_source")
_COLUMNS = (*_ANSWER, "reject_reason", VOTE_SHARE)


def fingerprint(text: str | None, tool_calls: str | None) -> bytes:
    """16 bytes that are the same for equal answers, ignoring reasoning and the ids of tool calls."""
    calls = tool_calls_in(tool_calls)
    called = tool_calls if calls is None else "".join(f"{call.name}\0{call.arguments}\0" for call in calls)
    return digest_of(f"{called}\0", text or "")


@dataclass(slots=True)
class Kept:
    """The accepted answers of one series in earlier shards."""

    ids: dict[bytes, str] = field(default_factory=dict)
    """Record ids of the answers, also of those not selected, by fingerprint."""
    count: int = 0
    """Records."""
    text: str = ""
    """The first record's text, without its reasoning."""
    vote_share: float | None = None
    """The first record's share, if there are votes."""


def kept_answers(store: Store, chunk: Chunk, *, inline: bool, selects: bool = False) -> dict[SeriesKey, Kept]:
    """The accepted answers in earlier shards, for the chunk's series.

    Args:
        store: the dataset's store.
        chunk: a chunk of a generation that asks prompts again.
        inline: True if reasoning is inside the text.
        selects: True if accepted answers may be in rejected/, because others were selected.

    Raises:
        DatasetError: an earlier shard is missing or damaged.
    """
    keys: defaultdict[ChunkId, set[str]] = defaultdict(set)
    for number, retried in chunk.retried.items():
        for earlier in retried.earlier:
            keys[earlier].add(chunk.prompt_of(number).key.hex())
    kept: defaultdict[SeriesKey, Kept] = defaultdict(Kept)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda earlier: _rows(store, earlier, keys[earlier], selects=selects), sorted(keys))
        for is_record, row in itertools.chain.from_iterable(found):
            here = kept[chunk.series.key(bytes.fromhex(row["prompt_key"]), row["teacher"])]
            text = _text(row, inline=inline)
            here.ids.setdefault(fingerprint(text, row["tool_calls"]), row["record_id"])
            if is_record and not here.count:
                here.text, here.vote_share = text, row.get(VOTE_SHARE)
            here.count += is_record
    return kept


def _rows(
    store: Store, chunk: ChunkId, keys: Collection[str], *, selects: bool
) -> list[tuple[bool, Mapping[str, Any]]]:
    """(whether it is a record, its row) of the chunk's accepted answers to these prompts, records first."""
    side = read_meta(store, chunk).side if selects else {}
    files = [chunk.data_key] + ([side["rejected"].key] if "rejected" in side else [])
    wanted = pa.array(sorted(keys), pa.string())
    found = []
    for key in files:
        with reporting_damage(store, key), store.open(key) as opened:
            file = pq.ParquetFile(opened)
            names = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                for row in batch.filter(pc.is_in(batch["prompt_key"], value_set=wanted)).to_pylist():
                    if row.get("reject_reason", NOT_SELECTED) == NOT_SELECTED:
                        found.append((key == chunk.data_key, row))
    return found


def _text(row: Mapping[str, Any], *, inline: bool) -> str:
    """A record's text without its reasoning."""
    text: str = row["completion"][0]["content"] or ""
    return split_reasoning(text)[1] if inline and row["reasoning_source"] is not None else text
