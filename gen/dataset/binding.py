"""A dataset is bound to one identity: what decides what its records are."""

from collections.abc import Iterator
from typing import Any

import yaml

from stillhouse.gen.dataset.layout import RECIPE_KEY, plan_key, sealed_chunks
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import SCHEMA_VERSION
from stillhouse.schemas.recipe import Recipe


def bind(store: Store, recipe: Recipe) -> None:
    """Bind a new dataset to the recipe's identity, or check that it is bound to it.

    Raises:
        DatasetError: see `is_bound`.
    """
    if is_bound(store, recipe):
        return
    document = {"stillhouse": SCHEMA_VERSION, "name": recipe.name, "identity": recipe.identity()}
    # In ASCII: PyYAML writes some line breaks of Unicode so that they are read as others.
    text = yaml.safe_dump(document, sort_keys=False)
    if yaml.safe_load(text) != document:  # PyYAML folds some line separators that it leaves unescaped
        text = yaml.safe_dump(document, sort_keys=False)
    if not store.put_new(RECIPE_KEY, text.encode()) and not is_bound(store, recipe):
        store.put(RECIPE_KEY, text.encode())


def is_bound(store: ReadableStore, recipe: Recipe) -> bool:
    """Whether the dataset is bound to the recipe's identity; False where nothing was planned yet. Writes nothing.

    Raises:
        DatasetError: it is bound to another identity, or its recipe.yaml is damaged, or gone while shards are there.
    """
    stored = store.get(RECIPE_KEY)
    if stored is None:
        if next(iter(sealed_chunks(store)), None) is not None:
            raise DatasetError(
                f"{store.url}: holds shards but no {RECIPE_KEY}, so it can't be told what they are; "
                "restore that file, or use another dataset.path"
            )
        return False
    bound = read_identity(stored, origin=f"{store.url}/{RECIPE_KEY}")
    if different := sorted(_differences(bound, recipe.identity())):
        if store.stat(plan_key(0)) is None and next(iter(sealed_chunks(store)), None) is None:
            return False  # a run with a mistake in its recipe got no further than this file
        raise DatasetError(
            f"{store.url}: was made by another recipe; it differs in {', '.join(different)}. "
            "Use another dataset.path, or the recipe it was made with"
        )
    return True


def read_identity(stored: bytes, *, origin: str) -> dict[str, Any]:
    """The identity a dataset is bound to.

    Raises:
        DatasetError: the file is damaged or from a newer version.
    """
    try:
        document = yaml.safe_load(stored)
        is_newer, identity = document["stillhouse"] > SCHEMA_VERSION, dict(document["identity"])
        is_sound = is_newer or isinstance(identity["ask"]["samples"], int)
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        is_newer = is_sound = False
    if not is_sound:
        raise DatasetError(f"{origin}: is damaged; restore it, or use another dataset.path")
    if is_newer:
        raise DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
    return identity


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of the leaves in which two identities differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in ours.keys() | theirs.keys():
            yield from _differences(ours.get(name), theirs.get(name), f"{path}.{name}".lstrip("."))
    elif ours != theirs:
        yield path
