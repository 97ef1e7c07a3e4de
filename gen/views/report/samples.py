"""Rows to look at: some records from the whole dataset, and a few of each rejection and Failure, cut to size."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stillhouse.gen.counted import counted
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.gen.views.report.answers import Answers, Place
from stillhouse.gen.views.report.shown import TEXT_CHARS, shown
from stillhouse.schemas.arrow import IMAGES, Columns
from stillhouse.schemas.columns import LOGPROBS, SCORES

RECORDS = 12
"""Records shown."""
MOST_MESSAGES = 20
"""Maximum number of messages of a prompt, and of columns that the user keeps."""
_READERS = 8
_BATCH_ROWS = 16
"""A cell may hold megabytes."""
_UNREAD = {LOGPROBS, IMAGES, *SCORES}


@dataclass(frozen=True, slots=True)
class Sample:
    """A row as it is shown: every text is clean and cut."""

    title: str
    prompt: tuple[tuple[str, str], ...]
    reasoning: str
    completion: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    """(name, value): what is known about it, then the kept columns."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The rows to show."""

    records: tuple[Sample, ...]
    rejected: tuple[tuple[str, tuple[Sample, ...]], ...]
    """Sample rows by reject reason; Failures by kind."""
    failed: tuple[tuple[str, tuple[Sample, ...]], ...]


def read_samples(store: ReadableStore, answers: Answers, *, columns: Columns) -> Samples:
    """The rows to show; `columns`: those of the dataset, without the kept ones.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    ours = {*columns.data.names, *columns.rejected.names, *columns.failed.names}
    with ThreadPoolExecutor(_READERS) as pool:
        groups = {
            name: [pool.submit(_read, store, place, ours) for place in places]
            for name, places in ({("data", ""): _spread(answers.records)} | answers.examples).items()
        }
        read = {name: tuple(future.result() for future in futures) for name, futures in groups.items()}

    def of(kind: str) -> tuple[tuple[str, tuple[Sample, ...]], ...]:
        return tuple((shown(name), samples) for (which, name), samples in sorted(read.items()) if which == kind)

    return Samples(records=read["data", ""], rejected=of("rejected"), failed=of("failed"))


def _spread(shards: Sequence[tuple[str, int]]) -> list[Place]:
    """Records at equal distances over all shards."""
    total = sum(rows for _, rows in shards)
    wanted = [number * total // RECORDS for number in range(RECORDS)] if total > RECORDS else list(range(total))
    return list(_places(shards, wanted))


def _places(shards: Sequence[tuple[str, int]], wanted: Sequence[int]) -> Iterator[Place]:
    before = 0
    left = iter(wanted)
    row = next(left, None)
    for key, rows in shards:
        while row is not None and row < before + rows:
            yield Place(key, row - before)
            row = next(left, None)
        before += rows


def _read(store: ReadableStore, place: Place, ours: Collection[str]) -> Sample:
    with open_parquet(store, place.key) as file:
        left, group = place.row, 0
        while (rows := file.metadata.row_group(group).num_rows) <= left:
            left, group = left - rows, group + 1
        names = [name for name in file.schema_arrow.names if name not in ours or name not in _UNREAD]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names):
            if left < len(batch):
                break
            left -= len(batch)
        (row,) = batch.slice(left, 1).to_pylist()
    return _sample(row, ours)


def _sample(row: dict[str, Any], ours: Collection[str]) -> Sample:
    completion = _messages(row.get("completion"))
    if not completion and (said := row.get("refusal") or row.get("message")):
        completion = (("refusal" if row.get("refusal") else "failure", shown(said, most=TEXT_CHARS)),)
    kept = [name for name in row if name not in ours]
    facts = [
        *_facts({name: row[name] for name in row if name in ours}),
        *((name, row[name]) for name in kept[:MOST_MESSAGES]),
    ]
    number = row.get("sample")
    title = shown(str(row.get("prompt_id") or row.get("file") or "a row without an id"))
    return Sample(
        title=title if not number else f"{title}, sample {number}",
        prompt=_messages(row.get("prompt")),
        reasoning=shown(row.get("reasoning") or "", most=TEXT_CHARS),
        completion=completion,
        facts=tuple((shown(name), shown(str(value))) for name, value in facts if value is not None),
    )


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The row's own figures, under the names that people use."""
    names = ("finish_reason", "teacher", "model", "endpoint", "status", "line", "attempts", "maybe_billed")
    for name in (
        *names,
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "duplicate_of",
        "tool_calls",
        "body_head",
    ):
        yield name.replace("_", " "), row.get(name)
    for name, said in (row.get("checks") or {}).items():
        if said is not None:
            yield f"check {name}", said["detail"]
    if (seconds := row.get("latency_s")) is not None:
        yield "latency", f"{seconds:.2f} s"
    if (usd := row.get("cost_usd")) is not None:
        yield "cost", f"${usd:.6f}"


def _messages(messages: list[dict[str, str | None]] | None) -> tuple[tuple[str, str], ...]:
    found = messages or []
    rows = [(shown(m["role"] or ""), shown(m["content"] or "", most=TEXT_CHARS)) for m in found[:MOST_MESSAGES]]
    if (more := len(found) - MOST_MESSAGES) > 0:
        rows.append(("more", counted(more, "more message")))
    return tuple(rows)
