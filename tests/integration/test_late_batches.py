"""Batches that the provider lists late: the reply to their creation was lost, and listings don't show them at first."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_recipes import APIS, batched, once_each, run
from batch_wire import Wire
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.parked_chunks import stored_batches
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.worker.batch_cancelling import cancel_batches
from stillhouse.gen.worker.lanes import batch_search

ONE = {"prompts_per_shard": 100}
"""All prompts in one chunk."""


def notes(store: Store, kind: str) -> dict[str, Any]:
    """The intents' objects of one kind, by key."""
    keys = [stat.key for stat in store.list("_stillhouse/batches/") if stat.key.endswith(f".{kind}.json")]
    return {key: json.loads(store.get(key) or b"") for key in keys}


async def until(condition: Callable[[], bool], run: "asyncio.Task[Any]") -> None:
    """Wait for what happens while the run lasts."""
    while not await asyncio.to_thread(condition):
        assert not run.done()
        await asyncio.sleep(0.02)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_a_batch_is_looked_for_across_restarts_before_it_is_created_again(
    tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait continues where it was; a batch listed within it is paid for once. Bedrock's token needs no wait."""
    monkeypatch.setattr(batch_search, "LISTED_WITHIN_S", 3600.0)
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, api=api, dataset=ONE), Wire()
        store, wire.hides = open_dataset(recipe), True
        if api != "bedrock":
            for _ in range(3):
                run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
                wire.calls.clear()
                await until(lambda: bool(notes(store, "missing")), run)
                await until(lambda: wire.calls.count("list") >= 2, run)
                found = notes(store, "missing")
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
                assert notes(store, "missing") == found
            wire.hides = False
        assert (await run_in_process(recipe, transport=wire.transport)).records == 10

    once_each(run(tmp_path, test, faults={"lost_replies": 1}), 10)


@pytest.mark.usefixtures("quick")
def test_the_wait_for_a_listing_ends_even_if_every_owner_dies_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from the first listing without the batch, whichever worker read it."""
    monkeypatch.setattr(batch_search, "LISTED_WITHIN_S", 3600.0)
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, dataset=ONE), Wire()
        store, wire.hides = open_dataset(recipe), True
        run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
        await until(lambda: bool(notes(store, "missing")), run)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        (key,) = notes(store, "missing")
        store.put(key, json.dumps({"since": SYSTEM.time() - 3601}).encode())
        wire.calls.clear()
        assert (await run_in_process(recipe, transport=wire.transport)).records == 10
        assert wire.calls.count("create") == 1
        assert wire.calls[: wire.calls.index("create")].count("list") >= 2

    lines = run(tmp_path, test, faults={"lost_replies": 1})
    assert set(Counter(line["prompt"] for line in lines).values()) == {2}


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("api", ["openai-chat", "gemini"])
def test_a_batch_listed_after_its_replacement_was_created_is_cancelled(tmp_path: Path, api: str) -> None:
    """By the worker that looks at the parked chunk, before it has cost as much as the other."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, api=api, dataset=ONE), Wire()
        store, wire.hides = open_dataset(recipe), True
        run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
        await until(lambda: bool(notes(store, "submitted")), run)
        wire.hides = False
        await until(lambda: "cancel" in wire.calls, run)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        (parked,) = stored_batches(store).parked.values()
        assert [(each.n, bool(each.missing)) for each in parked.batches] == [(1, False), (0, True)]
        assert list(notes(store, "submitted")) == ["_stillhouse/batches/000-000000-0-1.submitted.json"]
        transport = HttpTransport()
        assert await cancel_batches(recipe, store, transport=transport, clock=SYSTEM) == (2, 0)
        await transport.close()

    lines = run(tmp_path, test, faults={"lost_replies": 1, "latency_s": 30.0})
    first = "openai-0" if api == "openai-chat" else "gemini-0"
    assert sum(line["batch"] == first for line in lines) < 20


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", ["openai-chat", "anthropic", "gemini"])
def test_a_late_listed_batch_fills_the_gaps_of_its_replacement(tmp_path: Path, api: str) -> None:
    """What the second one lacks is asked a third time only where the first one lacks it too."""
    write_source(tmp_path, questions(30))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, api=api, dataset=ONE), Wire()
        store, wire.hides = open_dataset(recipe), True
        run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
        await until(lambda: bool(notes(store, "submitted")), run)
        wire.hides = False
        summary = await run
        assert (summary.records, summary.failed) == (30, 0)

    lines = run(tmp_path, test, faults={"lost_replies": 1, "latency_s": 2.0, "missing": 0.4})
    asked = {number: {line["prompt"] for line in lines if line["batch"].endswith(f"-{number}")} for number in range(3)}
    assert asked[0] & asked[1]
    assert asked[0] - asked[1], "nothing to fill: the test shows nothing"
    assert not (asked[0] | asked[1]) & asked[2]


@pytest.mark.usefixtures("quick")
def test_a_late_listed_batch_without_a_replacement_is_collected(tmp_path: Path) -> None:
    """Given up before a crash, listed after it: it is looked for once more before the next creation."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, dataset=ONE), Wire()
        store, wire.hides = open_dataset(recipe), True

        async def stay(call: str) -> None:
            if call == "list" and notes(store, "ended"):
                await asyncio.Event().wait()

        wire.before = stay
        run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
        await until(lambda: bool(notes(store, "ended")), run)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        wire.hides, wire.before = False, None
        assert (await run_in_process(recipe, transport=wire.transport)).records == 10
        assert "cancel" not in wire.calls

    once_each(run(tmp_path, test, faults={"lost_replies": 1}), 10)
