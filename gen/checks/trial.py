"""Tries a recipe's checks on this machine, as a worker does before it asks anything."""

from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.slots import Slots
from stillhouse.schemas.recipe import Recipe


async def try_checks(recipe: Recipe) -> None:
    """Start a process that is ready to judge, and end it; does nothing if the recipe has no checks.

    Raises:
        UsageError: they can't run here; says why.
    """
    if recipe.all_checks or recipe.equality:
        async with CheckPool(recipe.all_checks, equality=recipe.equality, slots=Slots.of_node()):
            pass
