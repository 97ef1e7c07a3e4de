"""Whole runs in one process under a budget: it is never overspent, and what it had no money for is asked later."""

from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process
from integration.test_run_in_process import FAULTS, Crews, cut_off, served, teacher

from stillhouse.gen.coordination.treasury import Treasury
from stillhouse.gen.dataset.budget import SpendReport
from stillhouse.gen.dataset.layout import BUDGET_KEY, ChunkId, open_dataset
from stillhouse.gen.errors import BudgetSpent, DatasetError, UsageError
from stillhouse.gen.teachers.expense import Expense
from stillhouse.gen.views.summary import summarise
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.recipe import Recipe

PRICED = {"name": "sim", "api": "simulator", "max_attempts": 3, "price": {"input": 1000, "output": 5000}}
"""At these prices a question's worst case is just over a dollar of input."""


def with_budget(recipe: Recipe, **limits: Any) -> Recipe:
    """The recipe with another budget."""
    return recipe.model_copy(update={"budget": Budget.model_validate(limits)})


@pytest.mark.parametrize(("workers", "faults"), [(1, []), (2, FAULTS)])
async def test_the_budget_holds_to_the_request(tmp_path: Path, workers: int, faults: list[Any]) -> None:
    """A budget of 15 requests sends exactly 15, whatever their outcomes; with more money the rest is asked."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path, ask={"samples": 2}, budget={"requests": 15}, teachers=[PRICED])
    log, crews = tmp_path / "log", Crews()
    async with teacher(recipe, log=str(log), faults=faults, seed=3) as asked:
        with pytest.raises(BudgetSpent, match=r"^budget: 15 of 15 requests used; the next request could cost 1$"):
            await run_in_process(asked, workers=workers, crew=crews)
        first = summarise(open_dataset(asked))
        assert first.failed_by_kind.get("budget", 0) > 0
        with pytest.raises(BudgetSpent, match="15 of 15"):
            await run_in_process(asked, workers=workers)
        assert crews.requests == 15
        done = await run_in_process(with_budget(asked, requests=1000), workers=workers, crew=crews)
    assert len(served(log)) == crews.requests
    assert done.state == "done"
    assert "budget" not in done.failed_by_kind
    assert done.records + done.rejected + done.failed == 20


async def test_dollars_are_never_overspent_by_a_crash(tmp_path: Path) -> None:
    """Cut off in the middle, and lowered and raised afterwards: the teacher never bills more than the budget."""
    write_source(tmp_path, questions(30))
    recipe = recipe_of(tmp_path, ask={"max_tokens": 200}, budget={"usd": 6}, teachers=[PRICED])
    log, crews = tmp_path / "log", Crews()
    async with teacher(recipe, log=str(log), latency_s=0.01, seed=2) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(3))
        with pytest.raises(BudgetSpent, match=r"of 6\.00 USD used; the next request could cost 2\.0"):
            await run_in_process(asked, crew=crews)
    tokens = [(line["prompt_tokens"], line["completion_tokens"]) for line in served(log)]
    assert len(tokens) == crews.requests
    assert sum(1e-3 * asked + 5e-3 * answered for asked, answered in tokens) <= 6
    async with teacher(recipe, seed=2) as asked:
        with pytest.raises(BudgetSpent, match=r"of 3\.00 USD used"):
            await run_in_process(with_budget(asked, usd=3))
        done = await run_in_process(with_budget(asked, usd=500))
    assert (done.state, done.records) == ("done", 30)


async def test_a_paused_dataset_can_be_finished_as_it_is(tmp_path: Path) -> None:
    """Nothing more is sent, what was answered is kept, and `retry --kind stopped` asks the rest."""
    write_source(tmp_path, questions(25))
    recipe, crews = recipe_of(tmp_path, ask={"samples": 2}), Crews()
    async with teacher(recipe, latency_s=0.02, latency_spread=1) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(10))
        finished = await run_in_process(asked, finish=True)
        assert (finished.state, finished.remaining, finished.requests) == ("done", 0, 0)
        assert finished.records >= 10
        assert finished.failed_by_kind == {"stopped": 50 - finished.records}
        again = await run_in_process(asked, retry=("stopped",))
    assert (again.records, again.failed) == (50, 0)
    assert verify(open_dataset(asked)).ok


async def test_a_budget_ends_runs_with_accept_too(tmp_path: Path) -> None:
    """A prompt that lacks accepted answers has Failures; with more money, it is asked until it has them."""
    write_source(tmp_path, questions(6))
    ask, checks = {"accept": 2, "at_most": 6}, [{"length": {"min": 1}}]
    recipe = recipe_of(tmp_path, ask=ask, checks=checks, budget={"requests": 9})
    crews = Crews()
    async with teacher(recipe, distinct=50) as asked:
        with pytest.raises(BudgetSpent):
            await run_in_process(asked, crew=crews)
        assert crews.requests == 9
        half = summarise(open_dataset(asked))
        assert half.failed_by_kind["budget"] > 0
        assert half.short_by_reason == {"budget": half.short}
        done = await run_in_process(with_budget(asked, requests=2000))
    assert verify(open_dataset(asked)).findings == ()
    assert (done.state, done.short) == ("done", 0)
    assert done.records == 12


async def test_unpaid_samples_are_not_missing_once_enough_are_accepted(tmp_path: Path) -> None:
    """Samples beyond the earlier `at_most` supply what the prompts lacked: nothing is left, so the run is done."""
    write_source(tmp_path, questions(6))
    ask, checks = {"accept": 1, "at_most": 2}, [{"length": {"min": 1}}]
    recipe = recipe_of(tmp_path, ask=ask, checks=checks, budget={"requests": 3})
    async with teacher(recipe, distinct=50) as asked:
        with pytest.raises(BudgetSpent):
            await run_in_process(asked)
        half = summarise(open_dataset(asked))
        assert half.unpaid == half.failed_by_kind["budget"] > 0
        assert half.to_be_asked == half.unpaid
        grown = asked.model_copy(update={"ask": asked.ask.model_copy(update={"at_most": 4})})
        with pytest.raises(BudgetSpent):
            await run_in_process(grown)
        done = await run_in_process(with_budget(grown, requests=2000))
        assert done.failed_by_kind["budget"] == half.unpaid
        assert (done.state, done.short, done.unpaid, done.to_be_asked) == ("done", 0, 0, 0)
        again = await run_in_process(with_budget(grown, requests=3 + done.requests))
    assert (again.state, again.requests) == ("done", 0)


async def test_a_dataset_without_a_ledger_counts_its_stored_costs(tmp_path: Path) -> None:
    """A budget that comes later counts earlier runs by their shards and journals; a damaged ledger is refused."""
    write_source(tmp_path, questions(25))
    recipe, crews = recipe_of(tmp_path, ask={"samples": 4}), Crews()
    async with teacher(recipe, latency_s=0.02, latency_spread=1) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(12))
        most = crews.requests + 2
        with pytest.raises(BudgetSpent, match=f"{most} of {most} requests"):
            await run_in_process(with_budget(asked, requests=most), crew=crews)
        assert crews.requests == most
        store = open_dataset(asked)
        store.put(BUDGET_KEY, b'{"version": 1, "spent": "much"}')
        with pytest.raises(DatasetError, match=r"budget\.json: is damaged; restore it, or delete it"):
            await run_in_process(with_budget(asked, requests=100))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"usd": 0.5}, "budget.usd: expected at least 2.02"),
    ({"output_tokens": 199}, "budget.output_tokens: expected at least 200, what one request can cost, got 199"),
]


@pytest.mark.parametrize(("budget", "message"), BAD)
async def test_a_budget_below_one_request_is_refused(tmp_path: Path, budget: dict[str, Any], message: str) -> None:
    """Before anything is written."""
    write_source(tmp_path, questions(3))
    with pytest.raises(UsageError, match=message):
        await run_in_process(recipe_of(tmp_path, ask={"max_tokens": 200}, budget=budget, teachers=[PRICED]))
    unpriced = recipe_of(tmp_path, ask={"max_tokens": 200}, budget={"usd": 5})
    with pytest.raises(UsageError, match=r"teachers\.sim: budget\.usd needs a price for every teacher"):
        await run_in_process(unpriced)


async def test_a_reread_ledger_learns_which_chunks_are_sealed(tmp_path: Path) -> None:
    """Of two queues that write in turn, the one that has to read the other's ledger finds the shards itself."""
    write_source(tmp_path, questions(2))
    recipe = recipe_of(tmp_path, budget={"requests": 1000}, teachers=[PRICED])
    async with teacher(recipe) as asked:
        await run_in_process(asked)
    store, chunk, limits = open_dataset(recipe), ChunkId(0, 0), Expense(requests=1000)
    one, other = (Treasury(store, limits, is_new_run=False) for _ in range(2))
    assert await one.leased("worker-1", chunk)
    assert not await other.leased("worker-2", chunk)  # it reads what the first has written
    assert other.is_touched(chunk)
    await other.renewed("worker-2", SpendReport())
    assert not other.has_touched
