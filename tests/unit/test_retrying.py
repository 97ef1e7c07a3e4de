"""A retry asks only what failed, as a separate generation; it counts, asks and stores nothing a second time."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from builders import questions, recipe_of, teachers_of, waiting, write_source
from harness import run_in_process

from stillhouse.gen.dataset.chunk import Chunk, ChunkReader, Retried
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.index import read_part
from stillhouse.gen.dataset.layout import ChunkId, index_key, open_dataset, plan_key
from stillhouse.gen.dataset.plans import RetryPlan, read_plans, store_plan
from stillhouse.gen.dataset.retry_planning import retry_parts, retry_plan
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.views.verify import verify, verify_and_repair
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.prompt import Prompt, prompt_key
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS = 24
SAMPLES = 3
REFUSING = {"kind": "status", "status": 400, "share": 0.4}
"""Makes Failures of the kind bad_request,"""
BREAKING = {"kind": "status", "status": 200, "body": "{}", "share": 0.3}
"""and malformed, where there is one attempt."""


def recipe_at(tmp_path: Path, **changes: Any) -> Recipe:
    """24 prompts of three samples in chunks of five, a duplicate and a bad row; one attempt each."""
    write_source(tmp_path, [*questions(PROMPTS), {"id": "twin", "question": "what is 3 + 1?"}, "{torn"])
    teacher = {"name": "sim", "api": "simulator", "max_attempts": 1, "limits": {"in_flight": 16}}
    defaults = {"ask": {"samples": SAMPLES}, "teachers": [teacher], "dataset": {"prompts_per_shard": 5}}
    return recipe_of(tmp_path, **defaults | changes)


async def asked(recipe: Recipe, *faults: dict[str, Any], **how: Any) -> Summary:
    """A run or a retry against a separate teacher with these faults; checks that the counts add up."""
    settings = {"faults": faults, "first_serial": 10_000 * len(read_plans(open_dataset(recipe)))}
    settings |= how.pop("settings", {})
    async with await serve(SimulatorSettings.model_validate(settings)) as server:
        teachers = tuple(each.model_copy(update={"endpoints": (server.url,)}) for each in recipe.teachers)
        summary = await run_in_process(recipe.model_copy(update={"teachers": teachers}), **how)
    return adding_up(summary, samples=recipe.ask.samples)


def adding_up(summary: Summary, *, samples: int = SAMPLES) -> Summary:
    """The summary, whose counts add up."""
    assert summary.prompts is not None
    assert summary.duplicates is not None
    assert summary.bad is not None
    assert summary.remaining is not None
    there = summary.records + summary.rejected + summary.failed + summary.remaining
    assert (summary.prompts - summary.duplicates - summary.bad) * samples == there
    assert summary.failed == sum(summary.failed_by_kind.values())
    assert all(summary.failed_by_kind.values())
    return summary


def rows(recipe: Recipe, folder: str = "data") -> list[dict[str, Any]]:
    """What a folder of the dataset holds."""
    path = Path(recipe.dataset.path) / folder
    return ds.dataset(path, format="parquet").to_table().to_pylist() if path.is_dir() else []


def assert_sound(recipe: Recipe) -> None:
    """Verify finds nothing, and no record appears twice."""
    assert verify(open_dataset(recipe)).findings == ()
    ids = Counter(row["record_id"] for row in rows(recipe))
    assert not [record_id for record_id, count in ids.items() if count > 1]


async def test_failures_become_records(tmp_path: Path) -> None:
    """Only what failed is asked, and then the dataset is what it would have been without failures."""
    recipe = recipe_at(tmp_path)
    first = await asked(recipe, REFUSING, BREAKING)
    assert set(first.failed_by_kind) == {"bad_request", "malformed"}
    second = await asked(recipe, retry=RETRYABLE)
    assert (second.state, second.requests, second.failed) == ("done", first.failed, 0)
    assert second.records == PROMPTS * SAMPLES
    assert (second.prompts, second.duplicates, second.bad) == (PROMPTS + 2, 1, 1)
    assert {(row["prompt_id"], row["sample"]) for row in rows(recipe)} == {
        (f"q{n}", sample) for n in range(PROMPTS) for sample in range(SAMPLES)
    }
    assert_sound(recipe)
    again = await asked(recipe, retry=RETRYABLE)
    assert (again.state, again.requests, len(read_plans(open_dataset(recipe)))) == ("done", 0, 2)


async def test_counts_always_add_up(tmp_path: Path) -> None:
    """With the plan alone, with its index, and with every number of its shards: what is not resolved is failed."""
    recipe = recipe_at(tmp_path)
    first = await asked(recipe, REFUSING)
    last = await asked(recipe, retry=RETRYABLE)
    store = open_dataset(recipe)
    shards = [stat.key for stat in store.list("data/part-001-")]
    assert len(shards) > 1
    failed = 0
    for key in reversed(shards):
        chunk = ChunkId(1, int(key[-14:-8]))
        failed += sum(read_meta(store, chunk).counts.retried.values())
        for raw in list(store.list(chunk.side_key("raw", "").removesuffix(".parquet"))):
            store.delete(raw.key)
        store.delete(key)
        now = adding_up(summarise(store))
        assert (now.state, now.failed, now.records) == ("unfinished", failed, last.records - failed)
        assert verify(store).ok
    store.delete(index_key(1, 0))
    assert adding_up(summarise(store)).failed_by_kind == first.failed_by_kind
    assert summarise(store).state == "unfinished"


async def test_what_fails_again_can_be_retried_again(tmp_path: Path) -> None:
    """Each retry asks what is left; a sample that fails in another way counts by its last kind."""
    recipe = recipe_at(tmp_path)
    left = await asked(recipe, REFUSING)
    for fault in (BREAKING, REFUSING, {**BREAKING, "share": 0.5}):
        now = await asked(recipe, fault, retry=RETRYABLE)
        assert now.requests == left.failed
        assert 0 < now.failed < left.failed
        assert set(now.failed_by_kind) == {"malformed" if fault["status"] == 200 else "bad_request"}
        assert_sound(recipe)
        left = now
    assert (await asked(recipe, retry=RETRYABLE)).records == PROMPTS * SAMPLES
    assert_sound(recipe)


async def test_retry_selects_kinds(tmp_path: Path) -> None:
    """The others stay failures, also through retries of prompts that have both, and come later."""
    recipe = recipe_at(tmp_path)
    first = await asked(recipe, REFUSING, BREAKING)
    second = await asked(recipe, {**REFUSING, "share": 0.6}, retry=["malformed"])
    assert second.requests == first.failed_by_kind["malformed"]
    assert set(second.failed_by_kind) == {"bad_request"}
    assert (await asked(recipe, retry=["poison"])).requests == 0
    third = await asked(recipe, retry=["bad_request"])
    assert (third.requests, third.failed) == (second.failed, 0)
    assert_sound(recipe)


async def planned(recipe: Recipe) -> RetryPlan:
    """A retry whose driver died as soon as it was planned."""
    store = open_dataset(recipe)
    plan = retry_plan(store, recipe, read_plans(store), kinds=RETRYABLE)
    assert plan is not None
    store_plan(store, plan)
    return plan


@pytest.mark.parametrize("retry", [None, RETRYABLE])
async def test_a_plan_without_an_index_is_finished(tmp_path: Path, retry: Sequence[str] | None) -> None:
    """By the same command or by a plain run; and a retry that was resumed does not retry its own failures."""
    recipe = recipe_at(tmp_path)
    first = await asked(recipe, REFUSING)
    await planned(recipe)
    assert adding_up(summarise(open_dataset(recipe))).failed == first.failed
    done = await asked(recipe, BREAKING, retry=retry)
    assert (done.state, done.requests) == ("done", first.failed)
    assert set(done.failed_by_kind) == {"malformed"}
    assert len(read_plans(open_dataset(recipe))) == 2
    assert_sound(recipe)


async def test_an_index_is_completed_as_it_was_started(tmp_path: Path) -> None:
    """Every writer makes the same parts, cut at a hundred chunks."""
    write_source(tmp_path, questions(160))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 1}, teachers=recipe_at(tmp_path / "x").teachers)
    first = await asked(recipe, {**REFUSING, "share": 0.8})
    assert first.failed > 100
    store, plan = open_dataset(recipe), await planned(recipe)
    earlier = read_plans(store)[:1]
    whole = list(retry_parts(store, plan, earlier, done=[], prompts_per_shard=1))
    tables = [read_part(store, 1, number).to_pylist() for number in range(2)]
    assert [len(part.asks) for part in whole] == [100, first.failed - 100]
    assert [part.rows for part in whole] == [0, 0]
    store.delete(index_key(1, 1))
    rest = list(retry_parts(store, plan, earlier, done=whole[:1], prompts_per_shard=1))
    assert (rest, list(read_generations(store)[1].parts)) == (whole[1:], whole)
    assert [read_part(store, 1, number).to_pylist() for number in range(2)] == tables


async def test_source_generations_continue_after_a_retry(tmp_path: Path) -> None:
    """A pilot, a retry, a pilot, a retry, the rest, new files: every row is planned once."""
    recipe = recipe_at(tmp_path)
    await asked(recipe, REFUSING, limit=7)
    await asked(recipe, retry=RETRYABLE)
    assert (await asked(recipe, REFUSING, limit=6)).prompts == 13
    await asked(recipe, BREAKING, retry=RETRYABLE)
    await asked(recipe, REFUSING)
    write_source(tmp_path, questions(8, start=PROMPTS - 2), name="b.jsonl")
    await asked(recipe, REFUSING)
    last = await asked(recipe, retry=RETRYABLE)
    assert (last.prompts, last.duplicates, last.bad) == (PROMPTS + 2 + 8, 3, 1)
    assert (last.records, last.failed, last.remaining) == ((PROMPTS + 6) * SAMPLES, 0, 0)
    assert [isinstance(plan, RetryPlan) for plan in read_plans(open_dataset(recipe))] == [0, 1, 0, 1, 0, 0, 1]
    assert_sound(recipe)


async def test_a_started_retry_does_not_keep_a_pilot_open(tmp_path: Path) -> None:
    """`run --limit` finishes the retry, then plans its rows."""
    recipe = recipe_at(tmp_path)
    await asked(recipe, REFUSING, limit=7)
    await planned(recipe)
    end = await asked(recipe, limit=3)
    assert (end.prompts, end.failed) == (10, 0)


async def test_an_unfinished_run_comes_before_a_retry(tmp_path: Path) -> None:
    """A dataset without a run, or with unsealed chunks of the source, is refused."""
    recipe = recipe_at(tmp_path)
    with pytest.raises(UsageError, match="finish the run first"):
        await asked(recipe, retry=RETRYABLE)
    await asked(recipe, REFUSING)
    open_dataset(recipe).delete(ChunkId(0, 2).data_key)
    with pytest.raises(UsageError, match="finish the run first"):
        await asked(recipe, retry=RETRYABLE)


async def test_a_retry_needs_its_source(tmp_path: Path) -> None:
    """The file is named; one without failures does not matter."""
    recipe = recipe_at(tmp_path)
    other = write_source(tmp_path, questions(5, start=100), name="b.jsonl")
    await asked(recipe, BREAKING)
    (tmp_path / "source" / "a.jsonl").rename(tmp_path / "aside")
    with pytest.raises(SourceError, match="is gone, and no other source file has the same content: put it back"):
        await asked(recipe, retry=RETRYABLE)
    assert len(read_plans(open_dataset(recipe))) == 1
    (tmp_path / "aside").rename(tmp_path / "source" / "a.jsonl")
    await asked(recipe, retry=RETRYABLE)
    write_source(tmp_path, questions(3, start=200), name="c.jsonl")
    await asked(recipe, REFUSING, settings={"seed": 4})
    other.unlink()
    assert (await asked(recipe, retry=RETRYABLE)).failed == 0


@pytest.mark.parametrize("reasoning", ["column", "inline"])
async def test_an_equal_answer_is_not_kept_again(tmp_path: Path, reasoning: str) -> None:
    """A teacher with one answer: one record per prompt, whichever generation got it; the others name that record."""
    recipe = recipe_at(tmp_path, dataset={"prompts_per_shard": 5, "reasoning": reasoning})
    settings = {"distinct": 1, "reasoning": "think"}
    await asked(recipe, {**REFUSING, "share": 0.6}, settings=settings)
    await asked(recipe, {**REFUSING, "share": 0.6}, settings=settings, retry=RETRYABLE)
    last = await asked(recipe, settings=settings, retry=RETRYABLE)
    assert (last.records, last.rejected) == (PROMPTS, PROMPTS * (SAMPLES - 1))
    kept = {row["prompt_key"]: row["record_id"] for row in rows(recipe)}
    for row in rows(recipe, "rejected"):
        if row["reject_reason"] == "duplicate_answer":
            assert row["duplicate_of"] == kept[row["prompt_key"]]
    assert_sound(recipe)


async def test_equal_answers_are_kept_if_wanted(tmp_path: Path) -> None:
    """`dedup.answers: false` holds for a retry as well."""
    recipe = recipe_at(tmp_path, dedup={"answers": False})
    await asked(recipe, REFUSING, settings={"distinct": 1})
    assert (await asked(recipe, retry=RETRYABLE, settings={"distinct": 1})).records == PROMPTS * SAMPLES


def test_samples_not_retried_have_no_rows(tmp_path: Path) -> None:
    """To be done, left, recovered and given up are the others alone."""
    texts = [(("user", f"question {n}"),) for n in range(3)]
    prompts = [Prompt(f"q{n}", prompt_key(text), text, ()) for n, text in enumerate(texts)]
    retried = {n: Retried({n: "overload", 3: "poison"}, (ChunkId(0, 0),)) for n in range(3)}
    chunk = Chunk(ChunkId(1, 0), prompts, [], [], [], samples=4, columns=columns_of(1, {}), retried=retried)
    journal = JournalFile.create(tmp_path / "j")
    teacher_of = teachers_of(recipe_of(tmp_path))
    held = OpenChunk(chunk, journal, samples=4, teacher_of=teacher_of)
    wanted = [0, 3, 5, 7, 10, 11]
    assert (waiting(held), held.left, held.state.asked) == (wanted, 6, 6)
    held.recover([Frame(Kind.ANSWERED, 1, 1.0, 0.0, 400, "h", b"{}")], died=False)
    assert held.left == 6
    refused = [Frame(Kind.ANSWERED, ordinal, 1.0, 0.0, 400, "h", b"{}") for ordinal in wanted]
    held.recover(refused, died=False)
    assert held.left == 0
    assert held.state.given_up.keys() == set(wanted)


async def test_verify_expects_exactly_the_retried_samples(tmp_path: Path) -> None:
    """A shard of a retry that lacks one, or holds another's, is damaged; and it can be repaired."""
    recipe = recipe_at(tmp_path)
    await asked(recipe, REFUSING)
    await asked(recipe, retry=RETRYABLE)
    out, store = Path(recipe.dataset.path), open_dataset(recipe)
    before = {row["record_id"]: row["completion"] for row in rows(recipe)}
    shutil.copy(out / ChunkId(0, 1).data_key, out / ChunkId(1, 1).data_key)
    assert not verify(store).ok
    assert verify_and_repair(store).ok
    assert (await asked(recipe, retry=RETRYABLE)).requests == 0
    assert {row["record_id"]: row["completion"] for row in rows(recipe)} == before
    assert_sound(recipe)


async def test_a_shard_with_retried_failures_stays(tmp_path: Path) -> None:
    """Without it, they would be asked in two generations: repair leaves it, damaged as it is."""
    recipe = recipe_at(tmp_path)
    await asked(recipe, REFUSING)
    await asked(recipe, retry=RETRYABLE)
    path = Path(recipe.dataset.path) / ChunkId(0, 1).data_key
    path.write_bytes(path.read_bytes()[:-100])
    assert not verify_and_repair(open_dataset(recipe)).ok
    assert path.exists()


async def test_a_plan_names_what_it_retries(tmp_path: Path) -> None:
    """Its kinds and the files its prompts are in; a plan of source rows says nothing of the kind."""
    recipe = recipe_at(tmp_path)
    await asked(recipe, REFUSING)
    plan = await planned(recipe)
    assert (plan.generation, plan.kinds) == (1, RETRYABLE)
    assert [Path(file.url).name for file in plan.files] == ["a.jsonl"]
    store = open_dataset(recipe)
    assert [isinstance(stored, RetryPlan) and stored.kinds for stored in read_plans(store)] == [False, RETRYABLE]
    list(retry_parts(store, plan, read_plans(store)[:1], done=[], prompts_per_shard=5))
    chunk = ChunkReader(store, recipe).read(ChunkId(1, 0))
    assert len(chunk.prompts) == len(chunk.retried) == 5
    assert {kind for retried in chunk.retried.values() for kind in retried.kinds.values()} == {"bad_request"}
    assert store.stat(plan_key(1)) is not None
