"""The answers that the earlier chunks of a series keep: what a sample that is asked again must not repeat.

Equal answers of one series are kept once over all generations, so a retry chunk is sealed against what the shards
before it hold. They are immutable, so every seal of the chunk finds the same.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.damage import damage_said
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.schemas.inline_reasoning import split_reasoning

_READERS = 8
_BATCH_ROWS = 1024
_COLUMNS = ["record_id", "prompt_key", "teacher", "completion", "tool_calls", "reasoning_source"]


def fingerprint(text: str | None, tool_calls: str | None) -> bytes:
    """16 bytes that are the same for equal answers, reasoning and the ids of tool calls aside."""
    calls = tool_calls_in(tool_calls)
    called = tool_calls if calls is None else "".join(f"{call.name}\0{call.arguments}\0" for call in calls)
    said = f"{called}\0{text or ''}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).digest()


def kept_answers(store: Store, chunk: Chunk, *, inline: bool) -> dict[SeriesKey, dict[bytes, str]]:
    """By series: the fingerprints of the answers kept so far, with their record ids. `inline`: dataset.reasoning.

    Raises:
        DatasetError: an earlier shard is missing or damaged.
    """
    keys: defaultdict[ChunkId, set[str]] = defaultdict(set)
    for number, retried in chunk.retried.items():
        for earlier in retried.earlier:
            keys[earlier].add(chunk.prompt_of(number).key.hex())
    kept: defaultdict[SeriesKey, dict[bytes, str]] = defaultdict(dict)
    with ThreadPoolExecutor(_READERS) as pool:
        for answers in pool.map(lambda earlier: _answers(store, earlier, keys[earlier], inline=inline), sorted(keys)):
            for key, teacher, answer, record_id in answers:
                kept[chunk.series.key(key, teacher)][answer] = record_id
    return kept


def _answers(
    store: Store, chunk: ChunkId, keys: Collection[str], *, inline: bool
) -> list[tuple[bytes, str, bytes, str]]:
    """(prompt key, teacher, fingerprint, record id) of the chunk's records of these prompts."""
    wanted = pa.array(sorted(keys), pa.string())
    found = []
    with damage_said(store, chunk.data_key), store.open(chunk.data_key) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=_COLUMNS):
            for row in batch.filter(pc.is_in(batch["prompt_key"], value_set=wanted)).to_pylist():
                answer = fingerprint(_text(row, inline=inline), row["tool_calls"])
                found.append((bytes.fromhex(row["prompt_key"]), row["teacher"], answer, row["record_id"]))
    return found


def _text(row: dict[str, Any], *, inline: bool) -> str:
    """A record's text without its reasoning."""
    text: str = row["completion"][0]["content"]
    return split_reasoning(text)[1] if inline and row["reasoning_source"] is not None else text
