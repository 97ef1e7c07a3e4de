"""Why prompts are short of accepted answers, and which of their samples there was no money for."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow.parquet as pq

from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import ShardMeta
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.record import NOT_SELECTED

_REASONS = {"rejected": "reject_reason", "failed": "kind"}
"""For each kind of file beside a shard, the column that says why a row is not a record."""

_Series = tuple[str, str | None]
"""A prompt's key and, under `route: each`, the teacher."""


class Shortfall(NamedTuple):
    """The prompts with fewer accepted answers than wanted."""

    by_reason: dict[str, int]
    """Prompts by the outcome of their last sample that was not accepted: a `reject_reason` or the kind of a Failure,
    including `budget` and `stopped`."""
    unpaid: int
    """Samples that there was no money for and that no later generation asked."""


def shortfall_in(
    store: ReadableStore, shards: Sequence[tuple[ChunkId, ShardMeta]], *, accept: int, is_each: bool
) -> Shortfall:
    """The prompts with fewer than `accept` accepted answers in these shards; `is_each`: per prompt and teacher.

    Reads a few columns of `shards`, in order; memory grows with the number of these prompts.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    accepted: Counter[_Series] = Counter()
    last: dict[_Series, tuple[int, str]] = {}
    """The highest sample of each series that was not accepted, and why."""
    unpaid: defaultdict[_Series, set[int]] = defaultdict(set)
    for chunk, meta in shards:
        touched = set()
        for prompt, teacher, sample, reason in _samples(store, chunk, meta):
            touched.add(series := (prompt, teacher if is_each else None))
            if reason == "budget":
                unpaid[series].add(sample)
            elif series in unpaid:
                unpaid[series].discard(sample)
            if reason is None or reason == NOT_SELECTED:
                accepted[series] += 1
            elif series not in last or sample >= last[series][0]:  # a later shard asked it again
                last[series] = sample, reason
        for series in touched:
            if accepted[series] >= accept:
                del accepted[series]
                last.pop(series, None)
                unpaid.pop(series, None)
    return Shortfall(dict(Counter(reason for _, reason in last.values())), sum(map(len, unpaid.values())))


def _samples(
    store: ReadableStore, chunk: ChunkId, meta: ShardMeta
) -> Iterator[tuple[str, str | None, int, str | None]]:
    """(prompt key, teacher, sample, why it is not a record) of each of a chunk's samples that was asked."""
    files: dict[str, str | None] = {chunk.data_key: None}
    files |= {meta.side[kind].key: column for kind, column in _REASONS.items() if kind in meta.side}
    for key, column in files.items():
        with reporting_damage(store, key), store.open(key) as file:
            table = pq.read_table(file, columns=["prompt_key", "teacher", "sample", *([column] if column else [])])
        for prompt, teacher, sample, *reason in zip(*(each.to_pylist() for each in table.columns), strict=True):
            if sample is not None:  # otherwise a duplicate prompt, or a bad row
                yield prompt, teacher, sample, reason[0] if reason else None
