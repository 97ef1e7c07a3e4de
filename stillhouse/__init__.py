"""Ask a teacher model a dataset's worth of questions, and keep every answer in a Parquet dataset to train a student on.

    from stillhouse import read_recipe, run

    summary = run(read_recipe("recipe.yaml"))

Importing this loads none of Ray, an HTTP client or boto3: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.cluster.driver import run
    from stillhouse.schemas import __version__
    from stillhouse.schemas.recipe import Recipe
    from stillhouse.schemas.recipe_file import read_recipe

__all__ = ["Recipe", "__version__", "read_recipe", "run"]

_HOMES = {
    "Recipe": "schemas.recipe",
    "__version__": "schemas",
    "read_recipe": "schemas.recipe_file",
    "run": "cluster.driver",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
