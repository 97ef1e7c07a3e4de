"""Whole runs in batches: crashed anywhere and resumed, every request is in one batch, and none is paid twice."""

import asyncio
import gc
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from batch_recipes import APIS, batched, crashed, crashed_at_provider, logged, once_each, run
from batch_wire import WatchedStore
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.dataset.batch_intents import count_batches
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.parked_chunks import stored_batches
from stillhouse.gen.errors import AtProvider, BudgetSpent, StillhouseError, UsageError
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.worker import feeder
from stillhouse.gen.worker.batch_cancelling import cancel_batches
from stillhouse.gen.worker.lanes import batch_work
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.recipe import Recipe


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_a_run_in_batches_gives_the_dataset(tmp_path: Path, api: str) -> None:
    """Two batches per chunk; nothing is asked online."""
    write_source(tmp_path, questions(30))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api=api, teacher={"batch": {"max_requests": 6}})
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (30, 0)
        assert summary.batches == {"open": 0, "ended": 6, "expired": 0}

    lines = run(tmp_path, test)
    once_each(lines, 30)
    assert all("batch" in line for line in lines)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("api", APIS)
def test_a_run_that_keeps_crashing_pays_for_nothing_twice(tmp_path: Path, api: str) -> None:
    """At any moment: each intent has at most one batch, and each prompt is in one that was answered."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api=api, teacher={"batch": {"max_requests": 7}})
        crashes, after_s = 0, 0.03
        while (summary := await crashed(recipe, after_s=after_s)) is None:
            crashes += 1
            after_s += 0.05
        assert crashes > 3
        assert (summary.records, summary.failed) == (20, 0)

    lines = run(tmp_path, test, faults={"latency_s": 0.3})
    once_each(lines, 20)
    keys = Counter(line["key"] for line in lines)
    assert set(keys.values()) == {1}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_a_creation_whose_reply_was_lost_is_found(tmp_path: Path, api: str) -> None:
    """By its name, or by its results; it is not created again."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        summary = await run_in_process(batched(tmp_path, server, api=api))
        assert summary.records == 20

    once_each(run(tmp_path, test, faults={"lost_replies": 1, "latency_s": 0.2}), 20)


@pytest.mark.usefixtures("quick")
def test_interrupted_downloads_are_repeated(tmp_path: Path) -> None:
    """Results from before the break count once."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        summary = await run_in_process(batched(tmp_path, server))
        assert (summary.records, summary.maybe_billed) == (20, 0)

    once_each(run(tmp_path, test, faults={"broken_downloads": 2}), 20)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_expired_requests_are_sent_twice_more(tmp_path: Path, api: str) -> None:
    """Then they are Failures of the kind `expired`, and none of them was billed."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api=api)
        summary = await run_in_process(recipe)
        assert summary.records + summary.failed == 20
        assert summary.failed_by_kind == {"expired": summary.failed}
        assert summary.failed > 0
        assert summary.batches["expired"] >= 3
        assert count_batches(open_dataset(recipe)).open == 0

    lines = run(tmp_path, test, faults={"expired": 0.7})
    if api != "gemini":  # of whose expired batches nothing is delivered
        assert max(Counter(line["prompt"] for line in lines).values(), default=1) == 1


@pytest.mark.usefixtures("quick")
def test_missing_refused_and_forgotten_requests_are_sent_again(tmp_path: Path) -> None:
    """A forgotten batch, and one in ten lines missing: they count as maybe billed."""
    write_source(tmp_path, questions(40))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 20})
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (40, 0)
        assert summary.maybe_billed >= 20

    run(tmp_path, test, faults={"missing": 0.1, "lost": 1})


@pytest.mark.usefixtures("quick")
def test_a_batch_refused_as_a_whole_stops_the_run_and_the_next_run_asks_again(tmp_path: Path) -> None:
    """Its message says which line; the refused batch is not looked at again."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server)
        with pytest.raises(StillhouseError, match=r"teacher t refuses the batch: .*refused as a whole"):
            await run_in_process(recipe)
        assert (await run_in_process(recipe)).records == 10

    once_each(run(tmp_path, test, faults={"failed": 1}), 10)


@pytest.mark.usefixtures("quick")
def test_open_batches_stay_within_the_allowed_number(tmp_path: Path) -> None:
    """Of two chunks with three batches each, over two workers; the provider's own limit is waited for too."""
    write_source(tmp_path, questions(20))
    most = 0

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, teacher={"batch": {"max_requests": 4, "max_open": 2}})
        run = asyncio.create_task(run_in_process(recipe))
        nonlocal most
        while not run.done():
            most = max(most, await asyncio.to_thread(lambda: count_batches(open_dataset(recipe)).open))
            await asyncio.sleep(0)
        assert run.result().records == 20

    once_each(run(tmp_path, test, faults={"latency_s": 0.1, "max_open_requests": 6}), 20)
    assert most == 2


@pytest.mark.usefixtures("quick")
def test_rounds_under_accept_are_batches(tmp_path: Path) -> None:
    """An answer that a check rejects is replaced in the next batch, while an online teacher asks its own samples."""
    rows = [{"id": str(n), "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(20)]
    write_source(tmp_path, rows)

    async def test(server: Server) -> None:
        ask = {"accept": 1, "at_most": 8}
        recipe = batched(
            tmp_path, server, ask=ask, source={"keep": ["answer"]}, checks=[{"math": {"answer": "answer"}}]
        )
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (20, 0)
        assert summary.rejected > 0

    run(tmp_path, test, accuracy=0.5)


@pytest.mark.usefixtures("parks")
def test_two_datasets_on_one_account_leave_each_others_batches_alone(tmp_path: Path) -> None:
    """With equal numbers of chunks and requests, both crashing."""
    for name in ("one", "two"):
        write_source(tmp_path / name, questions(10, start=0 if name == "one" else 100))

    async def test(server: Server) -> None:
        async def resumed(name: str) -> Summary:
            recipe, after_s = batched(tmp_path / name, server, api="anthropic"), 0.1
            while (summary := await crashed(recipe, after_s=after_s)) is None:
                after_s += 0.07
            return summary

        both = await asyncio.gather(resumed("one"), resumed("two"))
        assert [summary.records for summary in both] == [10, 10]

    once_each(run(tmp_path, test, faults={"latency_s": 0.3}), 20)


@pytest.mark.usefixtures("parks")
def test_a_chunk_with_all_samples_in_batches_has_no_owner(tmp_path: Path) -> None:
    """One worker has more at the provider than it may hold; a later run finds them parked and collects them."""
    write_source(tmp_path, questions(60))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 3}, teacher={"batch": {"max_open": 30}})
        crew: list[Worker] = []
        run = asyncio.create_task(run_in_process(recipe, crew=crew.extend))
        store = open_dataset(recipe)
        while len((await asyncio.to_thread(stored_batches, store)).parked) < 20:
            assert not run.done()
            await asyncio.sleep(0.05)
        parked_at = time.monotonic()
        while any(each.counters.open_chunks for each in crew):
            assert time.monotonic() < parked_at + 5.0
            await asyncio.sleep(0.05)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert count_batches(store).open == 20
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed, summary.batches["open"]) == (60, 0, 0)

    once_each(run(tmp_path, test, faults={"latency_s": 10.0}), 60)


@pytest.mark.usefixtures("parks")
def test_parked_batches_are_collected_before_a_full_teacher_gets_more(tmp_path: Path) -> None:
    """Two batches at a time, and twelve chunks: chunks that wait for room don't block those that make room."""
    write_source(tmp_path, questions(24))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 2}, teacher={"batch": {"max_open": 2}})
        summary = await run_in_process(recipe, workers=2)
        assert (summary.records, summary.failed, summary.batches["ended"]) == (24, 0, 12)

    once_each(run(tmp_path, test, faults={"latency_s": 0.2}), 24)


async def without_waiting(recipe: Recipe) -> Summary | str:
    """A run that does not wait for batches; what it says where some are open."""
    try:
        return await run_in_process(recipe, no_wait=True)
    except AtProvider as error:
        return str(error)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("max_open", [20, 2])
def test_a_run_without_wait_ends_once_everything_is_in_batches(tmp_path: Path, max_open: int) -> None:
    """Or once it would wait for room; it says by when to collect, and the same call later collects what has ended."""
    write_source(tmp_path, questions(12))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 3}, teacher={"batch": {"max_open": max_open}})
        calls = 0
        while isinstance(summary := await without_waiting(recipe), str):
            calls += 1
            assert re.fullmatch(r"[1-4] batch(es)? at the provider; collect by 20\d\d-\d\d-\d\d", summary)
            waiting = summarise(open_dataset(recipe))
            assert waiting.collect_by is not None
            assert f"; collect by {waiting.collect_by}" in waiting.as_text()
            await asyncio.sleep(0.5)
        assert (summary.records, summary.failed, summary.collect_by) == (12, 0, None)
        assert calls >= (1 if max_open == 20 else 2)

    once_each(run(tmp_path, test, faults={"latency_s": 6.0}), 12)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("api", ["openai-chat", "anthropic"])
def test_cancelled_batches_keep_what_they_finished(tmp_path: Path, api: str) -> None:
    """Without a cluster; the rest is asked again."""
    write_source(tmp_path, questions(12))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api=api, dataset={"prompts_per_shard": 6})
        store = open_dataset(recipe)
        run = asyncio.create_task(run_in_process(recipe))
        while len((await asyncio.to_thread(stored_batches, store)).parked) < 2:
            assert not run.done()
            await asyncio.sleep(0.05)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        transport = HttpTransport()
        cancelled = await cancel_batches(recipe, store, transport=transport, clock=SYSTEM)
        assert cancelled == (2, 0)
        again = await cancel_batches(recipe, store, transport=transport, clock=SYSTEM)
        await transport.close()
        assert again == (2, 0)  # nothing more is reported about a batch that has ended
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (12, 0)

    once_each(run(tmp_path, test, faults={"latency_s": 8.0}), 12)


@pytest.mark.usefixtures("parks")
def test_two_teachers_of_a_chunk_are_parked_together(tmp_path: Path) -> None:
    """But not before the online one is done."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, route="each")
        online = recipe.teachers[0].model_copy(update={"name": "online", "mode": "online"})
        second = recipe.teachers[0].model_copy(update={"name": "second"})
        three = recipe.model_copy(update={"teachers": (*recipe.teachers, online, second)})
        run = asyncio.create_task(run_in_process(three))
        store = open_dataset(recipe)
        while not (parked := (await asyncio.to_thread(stored_batches, store)).parked):
            assert not run.done()
            await asyncio.sleep(0.02)
        assert [sorted(each.place for each in one.batches) for one in parked.values()] == [[0, 2]]
        assert (await run).records == 30

    lines = run(tmp_path, test, latency_s=0.5, faults={"latency_s": 4.0})
    assert Counter("batch" in line for line in lines) == {True: 20, False: 10}


@pytest.mark.usefixtures("quick")
def test_open_batches_keep_a_dataset_open(tmp_path: Path) -> None:
    """It is not finished, and can't be bound to another recipe, because their answers are paid for."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server)
        await crashed_at_provider(recipe)
        waiting = summarise(open_dataset(recipe))
        assert waiting.batches == {"open": 1, "ended": 0, "expired": 0}
        assert "batches    1 open, 0 ended" in waiting.as_text()
        with pytest.raises(UsageError, match="1 batch is at the provider"):
            await run_in_process(recipe, finish=True)
        with pytest.raises(UsageError, match="batches were created"):
            await run_in_process(batched(tmp_path, server, ask={"max_tokens": 77}))

    run(tmp_path, test, faults={"latency_s": 3600.0})


@pytest.mark.usefixtures("quick")
def test_a_batch_teacher_works_beside_an_online_one(tmp_path: Path) -> None:
    """They share the same chunks, whichever finishes last."""
    write_source(tmp_path, questions(30))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, route="each", teacher={"batch": {"max_requests": 5}})
        online = recipe.teachers[0].model_copy(update={"name": "online", "mode": "online"})
        both = recipe.model_copy(update={"teachers": (*recipe.teachers, online)})
        summary = await run_in_process(both, workers=2)
        assert (summary.records, summary.failed, summary.batches["ended"]) == (60, 0, 6)

    lines = run(tmp_path, test, latency_s=0.3)
    assert Counter("batch" in line for line in lines) == {True: 30, False: 30}


@pytest.mark.usefixtures("quick")
def test_a_teacher_is_not_asked_online_while_its_batches_are_open(tmp_path: Path) -> None:
    """It can't be left out either, and its model can't change: the batches' answers would be paid for twice."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server)
        await crashed_at_provider(recipe)
        with pytest.raises(UsageError, match=r"teachers\.t: 1 batch is at the provider.*set `mode: batch` or"):
            await run_in_process(batched(tmp_path, server, teacher={"mode": "online"}))
        for changed in ({"model": "another"}, {"name": "another"}):
            with pytest.raises(UsageError, match="batches were created"):
                await run_in_process(batched(tmp_path, server, teacher=changed))
        assert (await run_in_process(recipe)).records == 10
        online = batched(tmp_path, server, teacher={"mode": "online"})
        assert (await run_in_process(online)).records == 10

    once_each(run(tmp_path, test, faults={"latency_s": 3.0}), 10)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_results_that_were_deleted_are_asked_for_twice_more(tmp_path: Path, api: str) -> None:
    """Then they are expired; each time may have been billed."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        summary = await run_in_process(batched(tmp_path, server, api=api))
        assert (summary.records, summary.failed_by_kind) == (0, {"expired": 10})
        assert (summary.maybe_billed, summary.batches["ended"]) == (30, 3)

    run(tmp_path, test, faults={"deleted": 99})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_deleted_results_of_one_batch_are_asked_for_again(tmp_path: Path, api: str) -> None:
    """Its requests are asked again."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        summary = await run_in_process(batched(tmp_path, server, api=api))
        assert (summary.records, summary.failed, summary.maybe_billed) == (10, 0, 10)

    run(tmp_path, test, faults={"deleted": 1})


@pytest.mark.usefixtures("parks")
def test_a_budget_holds_over_batches_and_crashes(tmp_path: Path) -> None:
    """What batches may cost is put aside until they are collected; with more money the rest is asked."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        small, shards = {"batch": {"max_requests": 3}}, {"prompts_per_shard": 5}
        recipe = batched(tmp_path, server, budget={"requests": 12}, teacher=small, dataset=shards)

        async def again_and_again() -> None:
            after_s = 0.1
            while await crashed(recipe, after_s=after_s) is None:
                after_s *= 2

        with pytest.raises(BudgetSpent, match=r"^budget: 12 of 12 requests used; the next request could cost 1$"):
            await again_and_again()
        await asyncio.sleep(0.3)  # the log is complete a fifth of a second later
        assert len(logged(tmp_path)) == 12
        summary = await run_in_process(recipe.model_copy(update={"budget": Budget(requests=100)}))
        assert (summary.records, summary.failed) == (20, 0)

    once_each(run(tmp_path, test, faults={"latency_s": 0.1}), 20)


@pytest.mark.usefixtures("quick")
def test_a_sealed_chunk_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker holds the chunks whose batches are open, not those that it sealed."""
    monkeypatch.setattr(batch_work, "LOOK_S", (0.05, 300.0))
    write_source(tmp_path, questions(24))
    held: list[int] = []

    def count(when: str, key: str) -> None:
        if when == "before" and key.startswith("data/"):
            held.append(sum(type(each) is LeasedChunk for each in gc.get_objects()))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 2}, teacher={"batch": {"max_open": 1}})
        gc.collect()
        summary = await run_in_process(recipe, stored=lambda store: WatchedStore(Path(store.url), count))
        assert (summary.records, len(held)) == (24, 12)

    run(tmp_path, test)
    assert held[-1] <= 4, held


@pytest.mark.usefixtures("parks")
def test_a_run_with_one_large_chunk_at_a_time_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One waits until a batch may be opened, others are collected, asked again: the memory limit stops neither."""
    monkeypatch.setattr(feeder, "BATCHED_BYTES", 1)
    write_source(tmp_path, questions(24))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, dataset={"prompts_per_shard": 4}, teacher={"batch": {"max_open": 2}})
        summary = await run_in_process(recipe)
        assert summary.records + summary.failed == 24
        assert set(summary.failed_by_kind) <= {"expired"}

    run(tmp_path, test, faults={"latency_s": 0.3, "expired": 0.3})
