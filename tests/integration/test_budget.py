"""Whole runs in one process under a budget: it is never overspent, and what it had no money for is asked later."""

from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process
from integration.test_run_in_process import FAULTS, served, teacher

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import BudgetSpent
from stillhouse.gen.views.summary import summarise
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.recipe import Recipe

PRICED = {"name": "sim", "api": "simulator", "max_attempts": 3, "price": {"input": 1000, "output": 5000}}
"""At these prices a question's worst case is just over a dollar of input."""


def with_budget(recipe: Recipe, **limits: Any) -> Recipe:
    """The recipe with another budget."""
    return recipe.model_copy(update={"budget": Budget.model_validate(limits)})


@pytest.mark.parametrize(("workers", "faults"), [(1, []), (2, FAULTS)])
async def test_the_budget_holds_to_the_request(tmp_path: Path, workers: int, faults: list[Any]) -> None:
    """A budget of 37 requests sends 37, whatever becomes of them; with more money the rest is asked."""
    write_source(tmp_path, questions(25))
    recipe = recipe_of(tmp_path, ask={"samples": 2}, budget={"requests": 37}, teachers=[PRICED])
    log = tmp_path / "log"
    async with teacher(recipe, log=str(log), faults=faults, seed=3) as asked:
        with pytest.raises(BudgetSpent, match=r"^budget: 37 of 37 requests used; the next request could cost 1$"):
            await run_in_process(asked, workers=workers)
        assert len(served(log)) == 37
        first = summarise(open_dataset(asked))
        assert first.failed_by_kind.get("budget", 0) > 0
        with pytest.raises(BudgetSpent, match="37 of 37"):
            await run_in_process(asked, workers=workers)
        assert len(served(log)) == 37
        done = await run_in_process(with_budget(asked, requests=1000), workers=workers)
    assert done.state == "done"
    assert "budget" not in done.failed_by_kind
    assert done.records + done.rejected + done.failed == 50
