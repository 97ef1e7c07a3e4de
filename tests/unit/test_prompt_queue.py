"""The PromptQueue: who may work and send, and what it remembers."""

import math
import time
from collections import Counter as Tallied
from pathlib import Path

from builders import index, questions, recipe_of, write_source
from harness import run_in_process
from s3_server import S3Server

from stillhouse.cluster.actors.prompt_queue import PromptQueue
from stillhouse.cluster.progress.stats import Closed
from stillhouse.gen.clock import ManualClock
from stillhouse.gen.coordination.counters import Counters, Tally
from stillhouse.gen.coordination.leases import TERM_S, Grant
from stillhouse.gen.coordination.messages import Wait
from stillhouse.gen.dataset.batch_intents import Intents
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.budget import Opened, SpendReport
from stillhouse.gen.dataset.budget_file import read_budget
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.parked_chunks import OpenBatch, Parked, store_parked
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.plans import Plan
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.schemas.recipe import Recipe


def recipe_in(folder: Path) -> Recipe:
    """Five prompts per chunk."""
    return recipe_of(folder, dataset={"prompts_per_shard": 5})


def batched_recipe(folder: Path) -> Recipe:
    """One prompt per chunk, asked in batches."""
    recipe = recipe_of(folder, dataset={"prompts_per_shard": 1})
    teacher = recipe.teachers[0].model_copy(update={"mode": "batch"})
    return recipe.model_copy(update={"teachers": (teacher,)})


def queue_of(tmp_path: Path, clock: ManualClock) -> PromptQueue:
    """Over ten prompts in two chunks."""
    write_source(tmp_path, questions(10))
    recipe = recipe_in(tmp_path)
    store = open_dataset(recipe)
    planner = SourcePlanner(store, bind(store, recipe))
    while isinstance(planner.step(), Plan):
        pass
    return PromptQueue(recipe, workers=1, store=store, clock=clock, background=lambda work: work())


async def test_a_dataset_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    """A local folder that this host lacks: without the plans that the driver knows, the queue would wait forever."""
    write_source(tmp_path, questions(10))
    queue = PromptQueue(recipe_in(tmp_path), opened=[0], known=1, workers=1, background=lambda work: work())
    stats = await queue.stats()
    assert stats.exit_code == 2
    assert f"{tmp_path}/out: the dataset that this run works on is not there on the host" in (stats.error or "")


def counters(requests: int, *, records: int = 0) -> Counters:
    """A worker that has sent this many requests and sealed this many records."""
    return Counters({"t": Tally(requests=requests, retries=1)}, sealed=ShardCounts(records=records), shards=1)


async def test_a_worker_that_was_declared_dead_is_told_to_stop(tmp_path: Path) -> None:
    """It was cut off and comes back: it gets nothing, keeps nothing, and another has its chunk."""
    queue = queue_of(tmp_path, ManualClock())
    grant = await queue.lease("a.w")
    assert isinstance(grant, Grant)
    await queue.worker_died("a.w")
    renewal = await queue.renew("a.w", [grant.chunk], counters(5))
    assert (renewal.stop, renewal.lost) == (True, [grant.chunk])
    assert isinstance(await queue.lease("a.w"), Wait)
    taken = await queue.lease("b.w")
    assert isinstance(taken, Grant)
    assert (taken.chunk, taken.died) == (grant.chunk, True)
    assert (await queue.stats()).total.requests == 5


async def test_a_worker_taken_for_dead_under_a_budget_stops_after_the_queue_itself_was_lost(tmp_path: Path) -> None:
    """The new queue learns it from the ledger, and never waits for what the worker had put aside for a batch."""
    write_source(tmp_path, questions(5))
    recipe = recipe_of(tmp_path, budget={"requests": 10})
    index(recipe)
    clock, one = ManualClock(), Expense(requests=1)

    def queue(listen_s: float) -> PromptQueue:
        return PromptQueue(recipe, workers=1, clock=clock, background=lambda work: work(), listen_s=listen_s)

    def reports(*, granted: Expense = NOTHING, reserved: Expense = NOTHING) -> Counters:
        opened = Opened(chunk, NOTHING, NOTHING, reserved=reserved)
        return Counters(spending=SpendReport(granted, wants=one, moved=reserved, next=one, opened=(opened,)))

    first = queue(0.0)
    grant = await first.lease("a.w")
    assert isinstance(grant, Grant)
    chunk = grant.chunk
    allowance = (await first.renew("a.w", [chunk], reports())).allowance
    assert allowance is not None
    assert allowance.granted == one
    await first.worker_died("a.w")
    assert isinstance(await first.lease("b.w"), Grant)
    await first.renew("b.w", [chunk], reports())
    second = queue(TERM_S)
    came_back = await second.renew("a.w", [chunk], reports(granted=one, reserved=one))
    assert (came_back.stop, came_back.lost, came_back.allowance) == (True, [chunk], None)
    renewal = await second.renew("b.w", [chunk], reports(granted=one))
    assert (renewal.stop, renewal.lost) == (False, [])
    ledger = read_budget(open_dataset(recipe))
    assert ledger is not None
    assert (set(ledger.workers), ledger.reserved) == ({"b.w"}, {})


async def test_a_sweep_frees_the_chunks_of_workers_dead_before_it(tmp_path: Path, s3: S3Server) -> None:
    """Not by a sweep that was running already, nor by one on another node."""
    write_source(tmp_path, questions(5))
    there = {"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}
    recipe = recipe_of(tmp_path, dataset=there)
    index(recipe)
    queue = PromptQueue(recipe, workers=2, clock=ManualClock(), background=lambda work: work())
    for worker in ("a.1", "a.2"):
        await queue.shipped(worker, [])
    assert isinstance(await queue.lease("a.1"), Grant)
    await queue.worker_died("a.1")
    await queue.shipped("a.2", [])
    assert isinstance(await queue.lease("a.2"), Wait)
    assert [(await queue.renew(worker, [], Counters())).sweep for worker in ("b.1", "a.2")] == [[], ["a.1"]]
    await queue.shipped("a.2", ["a.1"])
    assert isinstance(await queue.lease("a.2"), Grant)
    assert (await queue.renew("a.2", [], Counters())).sweep == []


async def test_a_timeout_at_one_worker_makes_all_stream(tmp_path: Path) -> None:
    """Also by those that take the place of a dead one, and after the queue itself was lost."""
    queue = queue_of(tmp_path, ManualClock())
    assert (await queue.renew("a.w", [], Counters(streamed=[("t", "gateway")]))).streamed == [("t", "gateway")]
    await queue.worker_died("a.w")
    assert (await queue.renew("b.w", [], Counters())).streamed == [("t", "gateway")]
    later = queue_of(tmp_path / "later", ManualClock())
    await later.remember(await queue.totals())
    assert (await later.renew("c.w", [], Counters())).streamed == [("t", "gateway")]


async def test_no_worker_may_send_longer_than_the_run_holds_its_lock(tmp_path: Path) -> None:
    """The driver says for how long that is; each renewal passes on what is left of it."""
    clock = ManualClock(now=100.0)
    queue = queue_of(tmp_path, clock)
    assert (await queue.renew("w", [], Counters())).good_for_s == math.inf
    await queue.hold(10.0)
    clock.now += 4.0
    assert (await queue.renew("w", [], Counters())).good_for_s == 6.0
    clock.now += 7.0
    assert (await queue.renew("w", [], Counters())).good_for_s == 0.0


async def test_a_thousand_parked_chunks_cost_next_to_nothing(tmp_path: Path) -> None:
    """Found in the store and looked at by turns for ten minutes: each is one request per look, of one worker."""
    write_source(tmp_path, questions(1000))
    recipe = batched_recipe(tmp_path)
    index(recipe)
    store, clock = open_dataset(recipe), ManualClock(now=1e6)
    intents = Intents(store, who="0")
    for number in range(1000):
        stored = intents.decide(ChunkId(0, number), 0, [0], at=clock.time(), url="http://t")
        assert stored is not None
        batch = OpenBatch(place=0, n=0, at=stored.at, url="http://t", ids=("b",))
        store_parked(store, ChunkId(0, number), Parked(batches=(batch,)))
    queue = PromptQueue(recipe, workers=2, store=store, clock=clock, background=lambda work: work())
    assert isinstance(await queue.lease("a"), Wait)
    looks: Tallied[ChunkId] = Tallied()
    began_s = time.process_time()
    for _ in range(200):
        clock.now += 3.0
        for worker in ("a", "b"):
            due = [look.chunk for look in (await queue.renew(worker, [], Counters())).looks]
            looks.update(due)
            for chunk in due:
                await queue.looked(worker, running=[chunk], ended=[])
            assert isinstance(await queue.lease(worker), Wait)
        for _ in range(6):
            stats = await queue.stats()
    assert time.process_time() - began_s < 0.05 * 600
    assert (stats.parked, stats.finished) == (1000, False)
    assert len(looks) == 1000
    assert max(looks.values()) <= 8
    await queue.looked("a", running=[], ended=[ChunkId(0, 7)])
    grant = await queue.lease("b")
    assert isinstance(grant, Grant)
    assert (grant.chunk, grant.had_owners) == (ChunkId(0, 7), True)


async def test_settled_samples_of_a_parked_chunk_stay_counted(tmp_path: Path) -> None:
    """While it is parked, by whomever; once its batch has ended; and not twice when it is leased again."""
    write_source(tmp_path, questions(2))
    recipe = batched_recipe(tmp_path)
    index(recipe)
    store, clock, chunk = open_dataset(recipe), ManualClock(now=1e6), ChunkId(0, 0)
    batch = OpenBatch(place=0, n=0, at=clock.time(), url="http://t", ids=("b",))
    queue = PromptQueue(recipe, workers=1, store=store, clock=clock, background=lambda work: work())
    grant = await queue.lease("a")
    assert isinstance(grant, Grant)
    await queue.renew("a", [chunk], Counters(open_chunks=1, open_settled=7))
    await queue.park("a", grant.chunk, Parked(batches=(batch,), settled=7), Counters())
    stats = await queue.stats()
    assert (stats.parked, stats.open_settled, stats.open_batches) == (1, 7, {recipe.teachers[0].name: 1})
    Intents(store, who="0").decide(grant.chunk, 0, [0], at=clock.time(), url="http://t")
    store_parked(store, grant.chunk, Parked(batches=(batch,), settled=7))
    later = PromptQueue(recipe, workers=1, store=store, clock=clock, background=lambda work: work())
    assert (await later.stats()).open_settled == 7
    await queue.looked("a", running=[], ended=[grant.chunk])
    assert (await queue.stats()).open_settled == 7
    assert isinstance(await queue.lease("a"), Grant)
    await queue.renew("a", [grant.chunk], Counters(open_chunks=1, open_settled=8))
    assert (await queue.stats()).open_settled == 8


async def test_a_lost_queue_loses_no_counts(tmp_path: Path) -> None:
    """What the driver remembers of workers that are gone is added to what those that live report again."""
    clock = ManualClock()
    first = queue_of(tmp_path, clock)
    await first.renew("gone.w", [], counters(7, records=5))
    await first.renew("lives.w", [], counters(10))
    totals = await first.totals()
    second = PromptQueue(recipe_in(tmp_path), workers=2, clock=clock, background=lambda work: work())
    await second.renew("lives.w", [], counters(12))
    await second.remember(totals)
    stats = await second.stats()
    assert (stats.total.requests, stats.total.retries, stats.counts.records, stats.shards) == (19, 2, 5, 2)
    await second.renew("lives.w", [], counters(13))
    assert (await second.stats()).total.requests == 20


async def test_a_queue_that_follows_a_source_remembers_its_prompts(tmp_path: Path) -> None:
    """Those of earlier runs and its own, whose index parts it reads once: a prompt that comes again is a duplicate."""
    write_source(tmp_path, questions(10))
    recipe = recipe_in(tmp_path)
    index(recipe)
    queue = PromptQueue(recipe, workers=1, follow=True, background=lambda work: work())
    store = open_dataset(recipe)
    for number, name in enumerate(("b.jsonl", "c.jsonl"), 1):
        write_source(tmp_path, questions(10, start=5 * number), name=name)
        while isinstance(SourcePlanner(store, recipe).step(), Plan):
            pass
        await queue.planned(last=False)
        stats = await queue.stats()
        assert (stats.known, stats.rows, stats.duplicates) == (1 + number, 10 * (1 + number), 5 * number)


async def test_earlier_runs_shards_are_reported_apart_from_this_runs(tmp_path: Path) -> None:
    """A new file is this run's; the rows, duplicates and samples of the first are the rest of the dataset."""
    write_source(tmp_path, [*questions(10), *questions(2), "{"])
    recipe = recipe_of(tmp_path, ask={"samples": 2}, dataset={"prompts_per_shard": 5})
    await run_in_process(recipe)
    write_source(tmp_path, questions(8, start=8), name="b.jsonl")
    index(recipe)
    stats = await PromptQueue(recipe, workers=1, background=lambda work: work()).stats()
    assert stats.closed == Closed(rows=13, duplicates=2, bad=1, samples=20, chunks=3)
    assert (stats.rows, stats.duplicates, stats.samples, stats.chunks) == (8, 2, 12, 2)
