"""Runs a recipe's checks on stored answers: only judges are asked, and nothing is written.

For trying checks before money is spent on them, on the answers of a pilot or of a dataset that was created without
checks.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.chunk_function import ChunkFunction, is_reached
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.checks.slots import Slots
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.dataset.first_rows import check_first_rows
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.source.references import reference
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.judging import Case, with_judges
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.schemas.check_settings import Reference
from stillhouse.schemas.checks import AnyCheck, references_of, whole_chunks
from stillhouse.schemas.inline_reasoning import split_reasoning
from stillhouse.schemas.recipe import Recipe

EXAMPLES = 3
"""Rejected answers shown for each check, and the same number of unchecked ones."""
TAIL_CHARS = 240
"""How many characters of an answer's end are shown: solutions state their results there."""
_COLUMNS = (
    "record_id",
    "prompt",
    "prompt_id",
    "prompt_key",
    "sample",
    "teacher",
    "completion",
    "reasoning",
    "reasoning_source",
    "tool_calls",
)
_TOKENS = ("output_tokens", "reasoning_tokens")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Example(_Frozen):
    """An answer that a check did not accept."""

    prompt_id: str
    sample: int
    teacher: str
    detail: str
    """The check's reason."""
    answer: str
    """The answer's end."""


class CheckCounts(_Frozen):
    """One check's verdicts, counted."""

    name: str
    kind: str
    accepted: int
    rejected: int
    unchecked: int
    not_run: int
    """Answers that an earlier check did not accept."""
    examples: tuple[Example, ...]
    """Rejected ones, then unchecked ones."""


class Checked(_Frozen):
    """The output of `stillhouse check`."""

    dataset: str
    records: int
    """Records in the dataset."""
    sampled: int
    """How many of them were judged."""
    accepted: int
    """Records that all checks accept."""
    checks: tuple[CheckCounts, ...]

    @property
    def is_broken(self) -> bool:
        """True if a check could judge none of the answers that reached it."""
        return any(each.unchecked and not each.accepted + each.rejected for each in self.checks)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A record, and what the checks compare it with."""

    record: Mapping[str, Any]
    answer: Answer
    row: Row


def check(recipe: Recipe, stored: DatasetReader, *, sample: int) -> Checked:
    """Judge this many records of the dataset, spread evenly over it, by the recipe's checks.

    Raises:
        UsageError: the recipe has no checks, the dataset no records, or the checks can't run here.
        SourceError: a column that a check compares with is neither kept in the dataset nor in the source.
        DatasetError: a shard, the index or the plan is missing or damaged.
    """
    checks = recipe.all_checks
    if not checks:
        raise UsageError("checks: expected at least one in the recipe, such as `checks: [math: {answer: answer}]`")
    counts = [(chunk, meta.counts.records) for chunk, meta in stored.metas()]
    records = sum(count for _, count in counts)
    if records == 0:
        raise UsageError(f"{stored.url}: expected a dataset with answers to check, got none; run its recipe first")
    sampled = list(_sampled(stored.store, recipe, counts, sample=min(sample, records)))
    verdicts = asyncio.run(_judged(recipe, sampled))
    return Checked(
        dataset=stored.url,
        records=records,
        sampled=len(sampled),
        accepted=sum(len(each) == len(checks) and _is_accepted(each[-1]) for each in verdicts),
        checks=tuple(
            _counts(checks[number], number, list(zip(sampled, verdicts, strict=True))) for number in range(len(checks))
        ),
    )


async def _judged(recipe: Recipe, sampled: Sequence[_Sampled]) -> list[tuple[Verdict, ...]]:
    async with CheckPool(recipe.all_checks, slots=Slots.of_node()) as pool:
        verdicts = await asyncio.gather(*(pool.judge(each.answer, each.row) for each in sampled))
    if (settings := whole_chunks(recipe.checks)) is not None:  # the sampled records stand for a chunk
        reached = [place for place, said in enumerate(verdicts) if is_reached(said, checks=len(recipe.all_checks))]
        together = await ChunkFunction(settings).judge([(sampled[n].answer, sampled[n].row) for n in reached])
        for place, verdict in zip(reached, together, strict=True):
            verdicts[place] = (*verdicts[place][:-1], verdict)
    cases = [Case(each.record["record_id"], _asked(each.record), each.row, each.answer.text) for each in sampled]
    return await with_judges(recipe, cases, verdicts)


def _asked(record: Mapping[str, Any]) -> str:
    """The user's last message."""
    messages = (message["content"] for message in reversed(record["prompt"]) if message["role"] == "user")
    return next(messages, "")


def _sampled(
    store: ReadableStore, recipe: Recipe, counts: Sequence[tuple[ChunkId, int]], *, sample: int
) -> Iterator[_Sampled]:
    """Records at equal distances over all shards."""
    wanted = references_of(recipe.checks)
    kept = {keep.name: keep.column for keep in recipe.source.keep}
    reader = ChunkReader(store, recipe)
    schema_keys = {teacher.name: recipe.ask.of(teacher).schema_key for teacher in recipe.answering}
    if not all(each.column in kept for each in wanted):
        check_references(recipe, check_first_rows(surveyed(recipe).files, recipe))
    for chunk, places in _places(counts, sample=sample).items():
        with reporting_damage(store, chunk.data_key), open_parquet(store, chunk.data_key) as file:
            there = set(file.schema_arrow.names)
            is_kept = all(kept.get(each.column) in there for each in wanted)
            columns = [*_COLUMNS, *_TOKENS, *(kept[each.column] for each in wanted if is_kept)]
            records = file.read(list(dict.fromkeys(columns))).take(places).to_pylist()
        rows = {} if is_kept else _source_rows(reader, chunk, wanted)
        for record in records:
            row = _kept_row(record, wanted, kept) if is_kept else rows.get(record["prompt_key"], {})
            yield _Sampled(record, _answer(record, schema_keys.get(record["teacher"], recipe.ask.schema_key)), row)


def _places(counts: Sequence[tuple[ChunkId, int]], *, sample: int) -> dict[ChunkId, list[int]]:
    total = sum(count for _, count in counts)
    wanted = iter([number * total // sample for number in range(sample)])
    place, before = next(wanted, None), 0
    found: defaultdict[ChunkId, list[int]] = defaultdict(list)
    for chunk, count in counts:
        while place is not None and place < before + count:
            found[chunk].append(place - before)
            place = next(wanted, None)
        before += count
    return found


def _source_rows(reader: ChunkReader, chunk: ChunkId, wanted: Sequence[Reference]) -> dict[str, Row]:
    """What the checks compare with, from the chunk's rows in the source, by prompt key in hex."""
    return {
        prompt.key.hex(): {
            each.key: value for each, value in zip(wanted, prompt.references, strict=True) if value is not None
        }
        for prompt in reader.read(chunk).prompts
    }


def _kept_row(record: Mapping[str, Any], wanted: Sequence[Reference], kept: Mapping[str, str]) -> Row:
    row = {}
    for each in wanted:
        try:
            row[each.key] = reference({each.column: record[kept[each.column]]}, each)
        except NoPrompt:
            continue  # the check reports what it lacks
    return row


def _answer(record: Mapping[str, Any], schema_key: str | None) -> Answer:
    completion = record["completion"]
    text, reasoning = completion[0]["content"] if completion else "", record["reasoning"]
    if reasoning is None and record["reasoning_source"] is not None:
        reasoning, text = split_reasoning(text)
    tokens = record["output_tokens"]
    tokens = None if tokens is None else max(0, tokens - (record["reasoning_tokens"] or 0))
    return Answer(text, reasoning, tokens, None if record["tool_calls"] and not text else schema_key)


def _is_accepted(verdict: Verdict) -> bool:
    return isinstance(verdict, CheckResult) and verdict.accepted


def _counts(check: AnyCheck, number: int, judged: Sequence[tuple[_Sampled, tuple[Verdict, ...]]]) -> CheckCounts:
    reached = [(sampled, verdicts[number]) for sampled, verdicts in judged if len(verdicts) > number]
    rejected = [
        _example(sampled, verdict.detail)
        for sampled, verdict in reached
        if isinstance(verdict, CheckResult) and not verdict.accepted
    ]
    unchecked = [_example(sampled, verdict.reason) for sampled, verdict in reached if isinstance(verdict, Unchecked)]
    return CheckCounts(
        name=check.name,
        kind=check.kind,
        accepted=sum(_is_accepted(verdict) for _, verdict in reached),
        rejected=len(rejected),
        unchecked=len(unchecked),
        not_run=len(judged) - len(reached),
        examples=(*rejected[:EXAMPLES], *unchecked[:EXAMPLES]),
    )


def _example(sampled: _Sampled, detail: str) -> Example:
    record, text = sampled.record, sampled.answer.text.strip()
    end = text if len(text) <= TAIL_CHARS else f"…{text[-TAIL_CHARS:]}"
    return Example(
        prompt_id=record["prompt_id"], sample=record["sample"], teacher=record["teacher"], detail=detail, answer=end
    )


def render(checked: Checked) -> str:
    """The result as plain text, in which nothing that a teacher wrote can act on a terminal."""
    width = max(5, *(len(each.name) for each in checked.checks))
    lines = [
        f"checked {checked.sampled:,} of {checked.records:,} records of {inert(checked.dataset)}",
        f"{'check':<{width}}  accepted  rejected  unchecked  not run",
        *(
            f"{each.name:<{width}}  {each.accepted:>8,}  {each.rejected:>8,}  {each.unchecked:>9,}  {each.not_run:>7,}"
            for each in checked.checks
        ),
        f"accepted by all: {checked.accepted:,} of {checked.sampled:,} ({checked.accepted / checked.sampled:.0%})",
    ]
    for each in checked.checks:
        for example in each.examples:
            lines += [
                f"{each.name}: {inert(example.prompt_id)}, sample {example.sample}, {example.teacher}: "
                f"{inert(example.detail)}",
                *(f"    {inert(line)}" for line in example.answer.split("\n")),
            ]
    return "\n".join(lines)
