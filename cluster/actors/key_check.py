"""Resolves the teachers' keys in a process of the cluster, as a worker would, before a run writes anything.

This takes a second or two, once per new dataset.
"""

import time
from typing import Any

import ray
from ray.exceptions import RayError

from stillhouse.cluster.actors.plain import Plain, pack_recipe, unpack_recipe
from stillhouse.cluster.progress.display import Display
from stillhouse.cluster.runtime import why_none_started
from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.keys import resolve_all
from stillhouse.schemas.recipe import Recipe

POLL_S = 1.0


def missing_key(recipe: Plain) -> str | None:
    """Why a key can't be used on this node; None if all keys can."""
    try:
        resolve_all(unpack_recipe(recipe))
    except UsageError as error:
        return str(error)
    return None


def check_keys(recipe: Recipe, display: Display) -> None:
    """Resolve the keys where a worker would run; waits for a free CPU, as workers do.

    Raises:
        UsageError: a key is missing.
    """
    task: Any = ray.remote(missing_key).options(num_cpus=1, scheduling_strategy="SPREAD")
    found = task.remote(pack_recipe(recipe))
    started, is_noted = time.monotonic(), False
    while not ray.wait([found], timeout=POLL_S)[0]:
        if not is_noted and (why := why_none_started(time.monotonic() - started)):
            is_noted = True
            display.note(why)
    try:
        reason = ray.get(found)
    except RayError:
        return  # whatever stops this task also stops the workers, and they report it
    if reason is not None:
        raise UsageError(reason)
