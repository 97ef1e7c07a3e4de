"""Requirements of a budget, checked before anything is asked: prices, and money for one request.

`run` and `plan` share these checks.
"""

from collections.abc import Sequence

from stillhouse.gen.dataset.budget import BudgetDocument
from stillhouse.gen.dataset.budget_words import over_line, usd_words
from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.expense import Expense, limits_of
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe


def check_budget(recipe: Recipe, prompts: Sequence[Prompt] = ()) -> None:
    """Refuse a budget that can't be kept, or that can't cover the cost of one request.

    Args:
        recipe: the recipe with all known prices.
        prompts: the first ones; without any, the bound is that of an empty prompt.

    Raises:
        UsageError: a teacher has no price under a budget in USD; or the budget covers none of the prompts.
    """
    budget = recipe.budget
    if budget is None:
        return
    for number, teacher in enumerate(recipe.teachers):
        if budget.usd is not None and teacher.price is None:
            raise UsageError(
                f"{recipe.where(f'teachers.{number}')}teachers.{teacher.name}: budget.usd needs a price for every "
                "teacher, and this one's is unknown; state its `price`, such as `{input: 0.55, output: 2.19}` in "
                "USD per million tokens, or `{input: 0, output: 0}` for your own server"
            )
    limits, least = limits_of(budget), least_request(recipe, prompts)
    for name, has, wants, words in (
        ("usd", limits.nano_usd, least.nano_usd, usd_words(least.usd)),
        ("output_tokens", limits.output_tokens, least.output_tokens, f"{least.output_tokens:,}"),
    ):
        if has < wants:
            raise UsageError(
                f"{recipe.where(f'budget.{name}')}budget.{name}: expected at least {words}, what one request can cost, "
                f"got {getattr(budget, name):g}: raise it, or lower `ask.max_tokens` (which needs another dataset.path)"
            )


def least_request(recipe: Recipe, prompts: Sequence[Prompt] = ()) -> Expense:
    """The worst case of the cheapest request: of these prompts, or of an empty one."""
    asked = prompts or [Prompt("", b"", (), ())]
    teachers = [Interpreter(teacher, recipe.ask) for teacher in recipe.teachers]
    cases = [teacher.worst_case(prompt) for teacher in teachers for prompt in asked]
    return Expense(
        min(case.requests for case in cases),
        min(case.output_tokens for case in cases),
        min(case.nano_usd for case in cases),
    )


def why_no_money(recipe: Recipe, budget: Budget, document: BudgetDocument) -> str | None:
    """Why nothing can be asked; None if there is money, or may be once dead workers' chunks are recovered
    and open batches are collected."""
    limits = limits_of(budget)
    if document.pending(limits):
        return None
    needed = (document.next or least_request(recipe)).within(limits)
    return None if (limits - document.spent).covers(needed) else over_line(budget, document.spent, needed)
