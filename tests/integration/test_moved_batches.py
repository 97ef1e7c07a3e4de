"""Batches that were created with another key, at another URL, or over another bucket than the recipe has now."""

import asyncio
from pathlib import Path

import pytest
from batch_recipes import batched, once_each, run
from batch_wire import Wire
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.dataset.batch_intents import count_batches
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator.server import Server, serve
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.worker.batch_cancelling import cancel_batches
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings

KEY = {"api_key": "env:THE_KEY"}


async def left_open(recipe: Recipe) -> None:
    """A run that is killed once it has created a batch."""
    wire = Wire()
    run = asyncio.create_task(run_in_process(recipe, transport=wire.transport))
    while "poll" not in wire.calls:
        assert not run.done()
        await asyncio.sleep(0.02)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert count_batches(open_dataset(recipe)).open == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", ["openai-chat", "anthropic"])
def test_a_changed_url_does_not_pay_again(tmp_path: Path, api: str) -> None:
    """Where its batch is unknown, nothing is created; back at the first URL, the batch is collected."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api=api)
        await left_open(recipe)
        other = SimulatorSettings(log=str(tmp_path / "other"), batches=SimulatorBatches(latency_s=0.0))
        async with await serve(other) as elsewhere:
            moved = batched(tmp_path, elsewhere, api=api)
            with pytest.raises(Paused, match=r"does not know batch \S+, which was created at http.*--keep-"):
                await run_in_process(moved)
            transport = HttpTransport()
            with pytest.raises(Paused, match="which was created at http"):
                await cancel_batches(moved, open_dataset(moved), transport=transport, clock=SYSTEM)
            await transport.close()
        assert (tmp_path / "other").read_text() == ""
        assert (await run_in_process(recipe)).records == 10

    once_each(run(tmp_path, test, faults={"latency_s": 1.0}), 10)


@pytest.mark.usefixtures("quick")
def test_another_accounts_key_does_not_pay_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key of the same account collects them; the key itself is not stored, and --keep-going pays again."""
    write_source(tmp_path, questions(10))
    monkeypatch.setenv("THE_KEY", "sk-first-0123456789abcdef")

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, teacher=KEY), Wire()
        await left_open(recipe)
        monkeypatch.setenv("THE_KEY", "sk-other-0123456789abcdef")
        wire.forgets = True
        with pytest.raises(Paused, match="which was created with another key"):
            await run_in_process(recipe, transport=wire.transport)
        assert "create" not in wire.calls
        assert (await run_in_process(recipe)).records == 10
        stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("batches/*.json"))
        assert b"sk-first" not in stored

    once_each(run(tmp_path, test, faults={"latency_s": 1.0}), 10)


@pytest.mark.usefixtures("quick")
def test_a_user_may_decide_to_pay_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --keep-going a batch of another key counts as lost."""
    write_source(tmp_path, questions(10))
    monkeypatch.setenv("THE_KEY", "sk-first-0123456789abcdef")

    async def test(server: Server) -> None:
        await left_open(batched(tmp_path, server, teacher=KEY))
        monkeypatch.setenv("THE_KEY", "sk-other-0123456789abcdef")
        wire, recipe = Wire(), batched(tmp_path, server, teacher=KEY, run={"keep_going": True})

        async def known_again(call: str) -> None:
            wire.forgets = wire.forgets and call != "create"

        wire.forgets, wire.before = True, known_again
        summary = await run_in_process(recipe, transport=wire.transport)
        assert (summary.records, summary.maybe_billed) == (10, 10)

    run(tmp_path, test, faults={"latency_s": 1.0})


@pytest.mark.usefixtures("quick")
def test_a_changed_bucket_does_not_pay_again(tmp_path: Path) -> None:
    """Bedrock's job says where its results are."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = batched(tmp_path, server, api="bedrock")
        await left_open(recipe)
        place = recipe.teachers[0].batch.bedrock
        assert place is not None
        other = place.model_copy(update={"s3": "s3://other/in"}).model_dump()
        moved = batched(tmp_path, server, api="bedrock", teacher={"batch": {"bedrock": other}})
        with pytest.raises(Paused, match=r"writes to s3://bucket/in/: set `batch.bedrock.s3` to that"):
            await run_in_process(moved)
        assert (await run_in_process(recipe)).records == 10

    once_each(run(tmp_path, test, faults={"latency_s": 1.0}), 10)
