"""Generations over a dataset's life: grown samples, files that come later, and datasets that were moved in between."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.cluster.actors.prompt_queue import PromptQueue
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.plans import MorePlan, SourcePlan, read_plans
from stillhouse.gen.errors import DatasetError, SourceError
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings


@asynccontextmanager
async def at_a_teacher(recipe: Recipe, **settings: Any) -> AsyncIterator[Recipe]:
    """The recipe with its teachers at one simulator; its answers differ from those of another one."""
    first = 1000 * len(read_plans(open_dataset(recipe)))
    async with await serve(SimulatorSettings.model_validate({"first_serial": first} | settings)) as server:
        teachers = tuple(each.model_copy(update={"endpoints": (server.url,)}) for each in recipe.teachers)
        yield recipe.model_copy(update={"teachers": teachers})


async def asked(recipe: Recipe, *, settings: dict[str, Any] | None = None, **how: Any) -> Summary:
    """A run to its end."""
    async with at_a_teacher(recipe, **settings or {}) as ready:
        return await run_in_process(ready, **how)


async def cut(recipe: Recipe, *, answers: int) -> int:
    """A run that crashes once this many answers were received; returns how many were."""
    workers: list[Worker] = []
    async with at_a_teacher(recipe, latency_s=0.05, latency_spread=0.5) as ready:
        running = asyncio.ensure_future(run_in_process(ready, crew=workers.extend))
        while sum(worker.counters.answers for worker in workers) < answers:  # noqa: ASYNC110 - the workers' own
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()
    return sum(worker.counters.answers for worker in workers)


def samples(recipe: Recipe) -> Counter[tuple[str, int]]:
    """How often each (prompt id, sample) is a record."""
    rows = ds.dataset(Path(recipe.dataset.path) / "data", format="parquet").to_table().to_pylist()
    return Counter((row["prompt_id"], row["sample"]) for row in rows)


def assert_whole(recipe: Recipe, summary: Summary, *, prompts: int, each: int) -> None:
    """Every sample of every prompt is there once, and every view of the dataset agrees."""
    assert (summary.state, summary.remaining) == ("done", 0)
    assert summary.records + summary.rejected + summary.failed == prompts * each
    assert samples(recipe) == dict.fromkeys(((f"q{n}", k) for n in range(prompts) for k in range(each)), 1)
    assert summarise(open_dataset(recipe)).records == summary.records
    report = verify(open_dataset(recipe))
    assert report.ok, report.findings


# --- samples grow


def growing(tmp_path: Path, wanted: int, **changes: Any) -> Recipe:
    """25 prompts with this many samples each."""
    return recipe_of(tmp_path, ask={"samples": wanted}, **changes)


async def test_raising_samples_asks_only_for_the_new_ones(tmp_path: Path) -> None:
    """Case 42-more-samples: one answer each, then four, then of five over another file: nothing is asked again."""
    write_source(tmp_path, questions(25))
    first = await asked(growing(tmp_path, 1))
    assert first.requests == 25
    second = await asked(growing(tmp_path, 4))
    assert second.requests == 75
    assert_whole(growing(tmp_path, 4), second, prompts=25, each=4)
    write_source(tmp_path, questions(8, start=25), name="b.jsonl")
    third = await asked(growing(tmp_path, 5))
    assert third.requests == 25 + 8 * 5
    assert_whole(growing(tmp_path, 5), third, prompts=33, each=5)
    plans = read_plans(open_dataset(first_recipe := growing(tmp_path, 5)))
    assert [(plan.samples, isinstance(plan, MorePlan)) for plan in plans] == [
        (1, False),
        (4, True),
        (5, False),
        (5, True),
    ]
    assert (await asked(first_recipe)).requests == 0


async def test_lowering_samples_is_refused(tmp_path: Path) -> None:
    """The refusal names the field, the present value and the way out; asking for the same number is fine."""
    write_source(tmp_path, questions(3))
    await asked(growing(tmp_path, 3))
    with pytest.raises(DatasetError, match=r"ask\.samples: expected at least 3, .* got 2; .* another dataset\.path"):
        await asked(growing(tmp_path, 2))
    assert (await asked(growing(tmp_path, 3))).requests == 0


async def test_raised_samples_are_resumed_after_a_crash(tmp_path: Path) -> None:
    """Every answer that was received counts, whichever generation it belongs to."""
    write_source(tmp_path, questions(25))
    await asked(growing(tmp_path, 1))
    received = await cut(growing(tmp_path, 3), answers=20)
    summary = await asked(growing(tmp_path, 3))
    assert summary.requests == 50 - received
    assert_whole(growing(tmp_path, 3), summary, prompts=25, each=3)


async def test_samples_raised_before_the_first_are_answered_come_after_them(tmp_path: Path) -> None:
    """The open generation keeps its numbers; the new samples follow once it is sealed, in the same run."""
    write_source(tmp_path, questions(25))
    received = await cut(growing(tmp_path, 2), answers=15)
    summary = await asked(growing(tmp_path, 3))
    assert summary.requests == 75 - received
    assert_whole(growing(tmp_path, 3), summary, prompts=25, each=3)


async def test_equal_answers_are_kept_once_after_samples_are_raised(tmp_path: Path) -> None:
    """What a new sample must not repeat includes the records of earlier generations."""
    write_source(tmp_path, questions(10))
    await asked(growing(tmp_path, 1), settings={"distinct": 1, "first_serial": 0})
    summary = await asked(growing(tmp_path, 3), settings={"distinct": 1, "first_serial": 0})
    assert (summary.records, summary.rejected, summary.remaining) == (10, 20, 0)
    assert summary.rejected_by_reason == {"duplicate_answer": 20}
    assert verify(open_dataset(growing(tmp_path, 3))).ok


async def test_failures_among_added_samples_are_retried(tmp_path: Path) -> None:
    """They keep the numbers they were planned with; a retry before a growth and one after it don't collide."""
    write_source(tmp_path, questions(20))
    refusing = {"faults": [{"kind": "status", "status": 400, "share": 0.3}], "seed": 3}
    first = await asked(growing(tmp_path, 1), settings=refusing)
    assert first.failed > 0
    await asked(growing(tmp_path, 1), retry=["bad_request"])
    second = await asked(growing(tmp_path, 3), settings=refusing)
    assert second.failed > 0
    last = await asked(growing(tmp_path, 3), retry=["bad_request"])
    assert last.requests == second.failed
    assert_whole(growing(tmp_path, 3), last, prompts=20, each=3)
    more = await asked(growing(tmp_path, 4))
    assert more.requests == 20
    assert_whole(growing(tmp_path, 4), more, prompts=20, each=4)


# --- several open


def test_a_new_file_is_worked_on_while_the_old_generation_is_open(tmp_path: Path) -> None:
    """One queue serves all open generations, oldest first."""
    write_source(tmp_path, questions(20))
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    bind(store, recipe)
    first = SourcePlanner(store, recipe).step()
    assert isinstance(first, SourcePlan)
    list(Indexer(store, recipe, first).parts([]))
    write_source(tmp_path, questions(10, start=20), name="b.jsonl")
    assert isinstance(SourcePlanner(store, recipe).step(), SourcePlan)
    queue = PromptQueue(recipe, workers=1, background=lambda work: work())

    async def leased() -> list[ChunkId]:
        return [grant.chunk for _ in range(3) if isinstance(grant := await queue.lease("w"), Grant)]

    assert asyncio.run(leased()) == [ChunkId(0, 0), ChunkId(0, 1), ChunkId(1, 0)]
    stats = asyncio.run(queue.stats())
    assert (stats.rows, stats.asks, stats.samples, stats.known, stats.planned) == (30, 30, 30, 2, True)
    assert not stats.finished


async def test_a_file_added_after_a_crash_is_asked_in_the_resuming_run(tmp_path: Path) -> None:
    """Prompts that duplicate the old file's are dropped as usual."""
    write_source(tmp_path, questions(25))
    recipe = recipe_of(tmp_path)
    received = await cut(recipe, answers=5)
    write_source(tmp_path, [*questions(3), *questions(10, start=25)], name="b.jsonl")
    summary = await asked(recipe)
    assert (summary.prompts, summary.duplicates) == (38, 3)
    assert summary.requests == 35 - received
    assert_whole(recipe, summary, prompts=35, each=1)


# --- moved, copied, renamed


def renamed(root: Path) -> Path:
    """The source file has another name."""
    (root / "source" / "a.jsonl").rename(root / "source" / "z.jsonl")
    return root


def moved(root: Path) -> Path:
    """Source and dataset are elsewhere."""
    shutil.move(root, root.with_name("elsewhere"))
    return root.with_name("elsewhere")


def copied(root: Path) -> Path:
    """A copy with other times can be resumed, although the original still exists."""
    shutil.copytree(root, root.with_name("copy"), copy_function=shutil.copyfile)
    return root.with_name("copy")


def replaced(root: Path) -> Path:
    """Moved, with another file in its place."""
    elsewhere = moved(root)
    write_source(root, questions(3, start=100))
    return elsewhere


def touched(root: Path) -> Path:
    """The file was written again with the same content."""
    path = root / "source" / "a.jsonl"
    path.write_bytes(path.read_bytes())
    return root


@pytest.mark.parametrize("change", [renamed, moved, copied, replaced, touched])
async def test_a_moved_dataset_is_the_same_dataset(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    """It resumes, no count doubles, and what was asked is not asked again."""
    root = tmp_path / "root"
    write_source(root, questions(24))
    received = await cut(recipe_of(root), answers=7)
    recipe = recipe_of(change(root))
    summary = await asked(recipe)
    assert (summary.prompts, summary.duplicates) == (24, 0)
    assert summary.requests == 24 - received
    assert_whole(recipe, summary, prompts=24, each=1)
    assert (await asked(recipe)).requests == 0
    assert len(read_plans(open_dataset(recipe))) == 1


async def test_a_copy_of_a_source_file_counts_as_a_new_file(tmp_path: Path) -> None:
    """Its rows are duplicates, as they would be of any other."""
    write_source(tmp_path, questions(5))
    await asked(recipe_of(tmp_path))
    shutil.copy(tmp_path / "source" / "a.jsonl", tmp_path / "source" / "b.jsonl")
    summary = await asked(recipe_of(tmp_path))
    assert (summary.prompts, summary.duplicates, summary.requests) == (10, 5, 0)


async def test_a_file_with_changed_content_is_refused_by_name(tmp_path: Path) -> None:
    """Case 44-grown: whether it grew or changed within the same size; the message gives the way out."""
    write_source(tmp_path, questions(5))
    await asked(recipe_of(tmp_path))
    for rows in (questions(6), [*questions(4), {"id": "q4", "question": "what is 9 + 1?"}]):
        write_source(tmp_path, rows)
        with pytest.raises(SourceError, match=r"a\.jsonl: changed after it was planned .* new file beside it"):
            await asked(recipe_of(tmp_path))


async def test_a_pilot_is_continued_after_a_move(tmp_path: Path) -> None:
    """It resumes where its generation ended in the file, wherever that file is now."""
    root = tmp_path / "root"
    write_source(root, questions(24))
    await asked(recipe_of(root), limit=10)
    recipe = recipe_of(moved(root))
    assert (await asked(recipe, limit=5)).requests == 5
    summary = await asked(recipe)
    assert summary.requests == 9
    assert_whole(recipe, summary, prompts=24, each=1)
    plans = read_plans(open_dataset(recipe))
    assert [isinstance(plan, SourcePlan) and plan.limit for plan in plans] == [10, 5, None]


@pytest.mark.parametrize("between", [True, False], ids=["a run between", "at once"])
async def test_a_different_file_in_a_moved_files_place_is_a_new_file(tmp_path: Path, between: bool) -> None:
    """As with rotated logs: two planned files have had one URL, and failures and growth find the rows of each."""
    refusing = {"faults": [{"kind": "status", "status": 400, "share": 0.5}], "seed": 3}
    path = write_source(tmp_path, questions(8))
    await asked(growing(tmp_path, 1), settings=refusing)
    path.rename(path.with_name("b.jsonl"))
    if between:
        assert (await asked(growing(tmp_path, 1))).requests == 0
    write_source(tmp_path, questions(11, start=8))
    failed = (await asked(growing(tmp_path, 1), settings=refusing)).failed
    assert failed > 0
    assert (await asked(growing(tmp_path, 1), retry=["bad_request"])).requests == failed
    assert_whole(growing(tmp_path, 3), await asked(growing(tmp_path, 3)), prompts=19, each=3)


async def test_samples_cannot_be_raised_without_the_source(tmp_path: Path) -> None:
    """It names the file; the dataset can be resumed as it was, and grows once the file is back."""
    path = write_source(tmp_path, questions(5))
    write_source(tmp_path, questions(5, start=5), name="b.jsonl")
    await asked(growing(tmp_path, 2))
    away = path.rename(tmp_path / "away")
    with pytest.raises(SourceError, match=r"a\.jsonl is gone, and no other source file .* put it back"):
        await asked(growing(tmp_path, 4))
    assert len(read_plans(open_dataset(growing(tmp_path, 2)))) == 1
    with pytest.raises(DatasetError, match=r"ask\.samples: expected at least 2, .* got 1"):
        await asked(growing(tmp_path, 1))
    assert_whole(growing(tmp_path, 2), await asked(growing(tmp_path, 2)), prompts=10, each=2)
    away.rename(path)
    assert_whole(growing(tmp_path, 4), await asked(growing(tmp_path, 4)), prompts=10, each=4)


async def test_files_of_equal_size_and_time_with_swapped_names_are_noticed(tmp_path: Path) -> None:
    """The content identifies a file where a local disk's etag can't."""
    for name, start in (("a.jsonl", 10), ("b.jsonl", 35)):
        write_source(tmp_path, questions(25, start=start), name=name)
        os.utime(tmp_path / "source" / name, (1.7e9, 1.7e9))
    recipe = recipe_of(tmp_path)
    await asked(recipe, limit=10)
    one, other = (tmp_path / "source" / name for name in ("a.jsonl", "b.jsonl"))
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    summary = await asked(recipe)
    assert (summary.prompts, summary.duplicates, summary.records) == (50, 0, 50)
