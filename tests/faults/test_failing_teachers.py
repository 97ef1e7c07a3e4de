"""Rows 30 to 32 of the faults: a teacher that fails in part, and what still serves continues at full speed."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from faults.wire import at, served, setup, status
from harness import run_in_process

from stillhouse.gen.errors import Paused, TeacherPaused
from stillhouse.gen.simulator import serve
from stillhouse.gen.teachers.endpoints import OPENS_AFTER
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.simulator import SimulatorSettings


async def test_a_tenth_of_requests_failing_costs_little_more(tmp_path: Path) -> None:
    """Row 30: 10 % of 500s and 5 % of resets at full load -> the run completes, with few repeated requests."""
    recipe = setup(tmp_path, prompts=400, samples=2, per_shard=100)
    faults = [status(500, share=0.1), {"kind": "reset", "share": 0.05, "when": "headers"}]
    async with at(recipe, {"latency_s": 0.02, "faults": faults}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed) == (800, 0)
    assert (summary.requests or 0) <= 800 * 1.3


@pytest.mark.parametrize(
    "dead",
    [status(500), status(503), status(200, body='{"error": "no"}'), {"kind": "reset"}, None],
    ids=["500", "503", "200 with an error", "reset", "refused"],
)
async def test_a_dead_endpoint_of_three_is_left_alone(tmp_path: Path, dead: dict[str, Any] | None) -> None:
    """Row 31: one endpoint dies in any way -> the others take its load, and it only gets a probe now and then."""
    recipe = setup(tmp_path, prompts=600, per_shard=200)
    log = tmp_path / "log"
    simulators: list[dict[str, Any]] = [{"latency_s": 0.05}, {"latency_s": 0.05, "first_serial": 10_000}]
    if dead is not None:
        simulators.append({"log": str(log), "faults": [dead]})
    async with at(recipe, *simulators, extra=["http://127.0.0.1:9/v1"] if dead is None else ()) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed) == (600, 0)
    if dead is not None:
        assert OPENS_AFTER <= len(served(log)) <= 100


async def test_a_dead_teacher_does_not_hold_up_another(tmp_path: Path) -> None:
    """Row 31, teachers: one answers nothing but 500 -> the other's samples of the open chunks continue at full speed.

    They share an account, too: what waits for the dead one holds none of its slots.
    """
    write_source(tmp_path, questions(300))
    limits = {"account": "both", "limits": {"in_flight": 8}}
    teachers = [{"name": name, "api": "simulator"} | limits for name in ("good", "dead")]
    recipe = recipe_of(tmp_path, teachers=teachers, dataset={"prompts_per_shard": 150})
    log = tmp_path / "log"
    good = await serve(SimulatorSettings(latency_s=0.01, log=str(log)))
    dead = await serve(SimulatorSettings.model_validate({"faults": [status(500)]}))
    async with good, dead:
        urls = {"good": good.url, "dead": dead.url}
        asked = tuple(each.model_copy(update={"endpoints": (urls[each.name],)}) for each in recipe.teachers)
        crew: list[Worker] = []
        run = asyncio.create_task(run_in_process(recipe.model_copy(update={"teachers": asked}), crew=crew.extend))
        async with asyncio.timeout(120):
            while not crew or crew[0].counters.answers < 120:
                assert not run.done()
                await asyncio.sleep(0.05)
        crew[0].stop()
        with pytest.raises(Paused):
            await run


@pytest.mark.parametrize("give_up_after_s", [1.0, 3.0])
async def test_an_unreachable_teacher_ends_the_run_and_the_next_run_asks_for_everything(
    tmp_path: Path, give_up_after_s: float
) -> None:
    """Row 31, unreachable: exit 3 in time, naming the address; no attempts are used up, and nothing was billed."""
    recipe = setup(tmp_path, prompts=5)
    patience = recipe.run.model_copy(update={"give_up_after_s": give_up_after_s})
    started = time.monotonic()
    async with at(recipe.model_copy(update={"run": patience}), extra=["http://127.0.0.1:9/v1"]) as asked:
        crew: list[Worker] = []
        with pytest.raises(TeacherPaused, match=r"sim could not be reached for .*127\.0\.0\.1:9 \(Connection refused"):
            await run_in_process(asked, crew=crew.extend)
    assert give_up_after_s <= time.monotonic() - started < 30
    assert crew[0].counters.teachers["sim"].troubles.keys() == {"no_connection"}
    async with at(recipe, {}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed, summary.maybe_billed) == (5, 0, 0)


async def test_a_teacher_that_fails_at_every_request_ends_the_run(tmp_path: Path) -> None:
    """Row 31, broken from the start: exit 3 with the teacher's message, although each sample might be asked again."""
    recipe = setup(tmp_path, prompts=200)
    patience = recipe.run.model_copy(update={"give_up_after_s": 4.0})
    async with at(recipe.model_copy(update={"run": patience}), {"faults": [status(500)]}) as asked:
        with pytest.raises(TeacherPaused, match=r"sent only failures for .* \(server_error \d+\).*HTTP 500: "):
            await run_in_process(asked)


async def test_a_teacher_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    """Row 31, a large model: the run waits longer for it than for anything else."""
    recipe = setup(tmp_path, prompts=5)
    patience = recipe.run.model_copy(update={"give_up_after_s": 1.0})
    loading = status(503, body='{"error": {"message": "Loading model", "type": "unavailable_error"}}', stop_s=6)
    async with at(recipe.model_copy(update={"run": patience}), {"faults": [loading]}) as asked:
        crew: list[Worker] = []
        summary = await run_in_process(asked, crew=crew.extend)
    assert (summary.records, summary.failed, summary.maybe_billed) == (5, 0, 0)
    assert crew[0].counters.teachers["sim"].troubles.keys() == {"loading"}


async def test_a_teacher_that_becomes_slow_is_waited_for(tmp_path: Path) -> None:
    """Row 32: ten times the latency -> goodput is what the teacher can do; nothing times out or fails."""
    recipe = setup(tmp_path, prompts=120, timeout_s=10)
    async with at(recipe, {"latency_s": 0.5, "latency_spread": 0.3}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.requests, summary.maybe_billed) == (120, 120, 0)
