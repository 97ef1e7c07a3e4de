"""The recipe that a dataset was last run with: anyone who has the dataset can resume it.

Like any recipe, it holds references to keys, never keys.
"""

from collections.abc import Sequence

from stillhouse.gen.dataset.layout import LAST_RUN_KEY
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe, load_recipe


def store_last_run(store: Store, recipe: Recipe) -> None:
    """Store the recipe with the files that it names, unless the stored one is the same."""
    text = dump_recipe(recipe.with_files()).encode()
    if store.get(LAST_RUN_KEY) != text:
        store.put(LAST_RUN_KEY, text)


def read_last_run(store: ReadableStore, *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the last run, with the `KEY=VALUE` overrides applied.

    Raises:
        DatasetError: there is none.
        RecipeError: it is damaged, or an override is wrong.
    """
    stored = store.get(LAST_RUN_KEY)
    if stored is None:
        raise DatasetError(
            f"{store.url}: holds no {LAST_RUN_KEY}, so the teachers are unknown; check the path, or give the recipe "
            "instead of the dataset"
        )
    return load_recipe(stored.decode("utf-8", "replace"), origin=f"{store.url}/{LAST_RUN_KEY}", overrides=overrides)
