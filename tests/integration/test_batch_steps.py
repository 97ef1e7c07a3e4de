"""A run in batches that is killed at a named step, and resumed: nothing is lost, and nothing is paid twice."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from batch_recipes import APIS, batched, once_each, run
from batch_wire import WatchedStore, Wire
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.errors import BudgetSpent, StoreAway
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.store.base import Store
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.recipe import Recipe

CALLS = [
    ("before", "upload"),
    ("after", "upload"),
    ("before", "create"),
    ("after", "create"),
    ("after", "poll"),
    ("during", "download"),
    ("after", "download"),
]
"""Calls of a batch API: the process ends before one is sent, in its reply, or before it knows the reply."""
WRITES = {
    "intent": "-0-0.json",
    "name": "-0-0.submitted.json",
    "journal": "_stillhouse/journal/",
    "end": ".ended.json",
    "shard": "data/part-",
}
"""Objects of the store, by a part of their keys."""


class Step(NamedTuple):
    """Where a process ends."""

    when: str
    what: str


class Killed:
    """A run that ends at a step, the first time that it gets there."""

    def __init__(self, step: Step, recipe: Recipe) -> None:
        self._step = step
        self._recipe = recipe
        self._loop = asyncio.get_running_loop()
        self._run: asyncio.Task[Summary] | None = None

    async def ends(self) -> None:
        """Run it until it has ended there."""
        wire = Wire()
        when = self._step.when
        if when == "before":
            wire.before = self._called
        elif when == "after":
            wire.after = self._called
        else:
            wire.reading = self._read
        self._run = asyncio.create_task(
            run_in_process(
                self._recipe,
                transport=wire.transport,
                stored=self._watched,
            )
        )
        await asyncio.gather(self._run, return_exceptions=True)
        assert self._run.cancelled(), f"it never came to {self._step}: {self._run}"

    def _watched(self, store: Store) -> Store:
        return WatchedStore(Path(store.url), self._written)

    def _kill(self) -> None:
        assert self._run is not None
        self._run.cancel()

    async def _called(self, call: str) -> None:
        if call == self._step.what:
            self._kill()
            await asyncio.Event().wait()

    def _read(self, call: str) -> None:
        if call == self._step.what:
            self._kill()

    def _written(self, when: str, key: str) -> None:
        """In a thread of the run."""
        if when == self._step.when and WRITES.get(self._step.what, self._step.what) in key:
            self._loop.call_soon_threadsafe(self._kill)
            raise StoreAway("killed")


def killed_and_resumed(tmp_path: Path, api: str, step: Step) -> None:
    """Each prompt is answered once, in batches of distinct intents; it is resumed on another node."""
    write_source(tmp_path, questions(12))

    async def test(server: Server) -> None:
        first, second = [
            batched(
                tmp_path,
                server,
                api=api,
                dataset={"prompts_per_shard": 100},
                teacher={"batch": {"max_requests": 7, "max_open": 1}},
                run={"journal_dir": str(tmp_path / node)},
            )
            for node in ("one", "two")
        ]
        await Killed(step, first).ends()
        summary = await run_in_process(second, stored=shared)
        assert (summary.records, summary.failed, summary.maybe_billed) == (12, 0, 0)
        assert summary.batches["open"] == 0

    lines = run(tmp_path, test)
    once_each(lines, 12)
    assert set(Counter(line["key"] for line in lines).values()) == {1}


def shared(store: Store) -> Store:
    """The dataset's store as one that other nodes have too."""
    return WatchedStore(Path(store.url))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("step", [Step(*each) for each in CALLS], ids="-".join)
@pytest.mark.parametrize("api", APIS)
def test_a_process_killed_at_a_call_pays_for_nothing_twice(tmp_path: Path, api: str, step: Step) -> None:
    """Whatever the provider did, and however much of it was known."""
    if (api, step.what) == ("anthropic", "upload"):
        pytest.skip("the requests are in the call that creates the batch")
    killed_and_resumed(tmp_path, api, step)


@pytest.mark.usefixtures("quick")
def test_an_unrecorded_batch_end_does_not_return_its_cost(tmp_path: Path) -> None:
    """Its results are in the journal: the next owner has nothing left to set aside for it, and nothing to release."""
    write_source(tmp_path, questions(12))

    async def test(server: Server) -> None:
        first, second = [
            batched(tmp_path, server, budget={"requests": 1}, run={"journal_dir": str(tmp_path / node)})
            for node in ("one", "two")
        ]
        await Killed(Step("before", "end"), first).ends()
        with pytest.raises(BudgetSpent, match="1 of 1 requests used"):
            await run_in_process(second, stored=shared)

    assert len(run(tmp_path, test)) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_at_a_write_pays_for_nothing_twice(tmp_path: Path, when: str, what: str) -> None:
    """At the intent, the batch's name, the journal, the intent's end, or the shard."""
    killed_and_resumed(tmp_path, "openai-chat", Step(when, what))
