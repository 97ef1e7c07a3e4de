"""Refuses checks that could judge no answer, before anything is asked.

If one row lacks what a check compares with, only that row is bad. If none of the first rows has it, the recipe is
wrong.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from stillhouse.gen.checks import choice, math, python
from stillhouse.gen.checks.base import Row
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.errors import SourceError
from stillhouse.schemas.checks import references_of
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe

_WRONG: dict[str, Callable[[Any, Row], str | None]] = {
    "math": math.wrong_reference,
    "choice": choice.wrong_reference,
    "python": python.wrong_reference,
}
"""What a check expects of a row and does not find; None if it can judge by it."""
_SOUGHT = {"answer": "a known answer", "tests": "tests that can be run"}
"""What a field's column should contain, by the field."""


def check_references(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Refuse a check of the recipe that can't judge by any of these prompts' rows.

    Raises:
        SourceError: there is one; names the field of the recipe and the column.
    """
    columns = [reference.key for reference in references_of(recipe.checks)]
    rows = [_row(columns, prompt) for prompt in prompts]
    for number, check in enumerate(recipe.checks):
        wrong = _WRONG.get(check.kind)
        if wrong is None or not rows:
            continue
        found = [wrong(check.settings, row) for row in rows]
        if all(found):
            reference = next(iter(check.settings.references()))
            field = f"checks.{number}.{check.kind}.{reference.field}"
            raise SourceError(
                f"{recipe.where(field)}{field}: none of the first {len(rows)} rows has {_SOUGHT[reference.field]} in "
                f"column {reference.column!r}: {found[0]}; name another column"
            )


def check_functions(recipe: Recipe) -> None:
    """Import the recipe's functions in a separate process, as every worker does when it starts.

    Raises:
        UsageError: one can't be imported here, or is not a function.
    """
    if any(check.kind == "function" for check in recipe.checks):
        asyncio.run(_start(recipe))


async def _start(recipe: Recipe) -> None:
    async with CheckPool([check for check in recipe.checks if check.kind == "function"], size=1):
        pass


def _row(columns: Sequence[str], prompt: Prompt) -> Row:
    pairs = zip(columns, prompt.references, strict=True)
    return {column: value for column, value in pairs if value is not None}
