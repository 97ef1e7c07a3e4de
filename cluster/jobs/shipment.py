"""What a submitted run carries: the recipe with references to keys, our code, and nothing else of this machine.

Ray packs a whole folder, whatever is in it, so we create a new one with only what should travel. The nodes find the
keys: in a file, in their environment, or by their role. A job's runtime_env and metadata hold no secrets, because the
cluster shows them to anyone who may see its jobs.
"""

import hashlib
import importlib.metadata
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillhouse.cluster.jobs.compiled import compiled
from stillhouse.gen.checks.registry import extras_of
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import UsageError
from stillhouse.schemas import __version__
from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe

Ship = Literal["all", "code", "recipe"]
"""`all`: our code travels, and nodes install its dependencies; `code`: nodes have them; `recipe`: nodes have
Stillhouse."""

DATASET_KEY = "stillhouse_dataset"
"""Metadata keys by which a dataset's jobs are found."""
STOP_WAIT_S = 60
"""How long Ray waits for a stopped run before it kills it: our grace period, plus time to store the last answers. Ray's
default of 3 s is too short for either."""
RECIPE_FILE = "recipe.yaml"
_SHIPPED = (".py", ".j2", ".css")


@dataclass(frozen=True, slots=True)
class Shipment:
    """A run as Ray's job submission takes it."""

    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


@contextmanager
def packed(
    recipe: Recipe, *, ship: Ship, limit: int | None = None, finish: bool = False, follow: bool = False
) -> Iterator[Shipment]:
    """Prepare the run as a shipment; its folder exists as long as the block lasts.

    Raises:
        UsageError: this program was not installed, so its dependencies are unknown.
    """
    recipe = recipe.with_files().with_absolute_paths()
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        Path(folder, RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
        runtime_env: dict[str, Any] = {
            "working_dir": folder,
            "excludes": ["!__pycache__", "!*.pyc"],  # Ray leaves them out by default
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
        }
        if ship != "recipe":
            _copy_code(Path(folder))
        if ship == "all":
            runtime_env["pip"] = requirements(extras=_extras(recipe))
        command = ["python", "-m", "stillhouse.cluster.cli", "run", RECIPE_FILE, "--json"]
        command += ["--limit", str(limit)] if limit is not None else []
        command += ["--finish"] if finish else []
        command += ["--follow"] if follow else []
        yield Shipment(shlex.join(command), runtime_env, metadata_of(recipe))


def metadata_of(recipe: Recipe) -> dict[str, str]:
    """The run's metadata in the cluster's job list."""
    return {
        "job_name": recipe.name,  # Ray's dashboard shows it
        DATASET_KEY: open_dataset(recipe).url,
        "stillhouse_recipe": fingerprint(recipe),
        "stillhouse_version": __version__,
    }


def fingerprint(recipe: Recipe) -> str:
    """16 hex digits that depend on what decides the records: equal for two recipes that make the same dataset."""
    return hashlib.sha256(json.dumps(recipe.identity() | recipe.ask.wanted(), sort_keys=True).encode()).hexdigest()[:16]


def local_paths(recipe: Recipe) -> list[str]:
    """The local paths that must exist on every node."""
    return [path for path in (*recipe.source.paths, recipe.dataset.path) if "://" not in path]


def _copy_code(folder: Path) -> None:
    """Our package's modules, also compiled, and templates; no data, and no other files that lie beside them."""
    package = Path(__file__).parents[2]
    modules = [*package.glob("*.py")]
    # each package by its own path: rglob does not follow links, and a checkout has links
    for part in ("schemas", "gen", "cluster"):
        modules += (package / part).rglob("*")
    for module in modules:
        if module.suffix in _SHIPPED and module.is_file():
            target = folder / module.relative_to(package.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)
            if module.suffix == ".py" and (found := compiled(module)) is not None:
                name, content = found
                cache = target.with_name("__pycache__")
                cache.mkdir(exist_ok=True)
                (cache / name).write_bytes(content)


def _extras(recipe: Recipe) -> list[str]:
    """The extras that the recipe needs on the nodes."""
    on_vertex = any(is_vertex(url) for teacher in recipe.teachers for url in teacher.urls)
    return extras_of(recipe) + ["images"] * bool(recipe.source.images) + ["vertex"] * on_vertex


def requirements(*, extras: Sequence[str] = ()) -> list[str]:
    """What our code and its `extras` need besides Ray, which the cluster has.

    Raises:
        UsageError: this program was not installed.
    """
    try:
        needed = importlib.metadata.requires("stillhouse") or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            "this checkout is not installed, so its requirements are not known; run scripts/setup"
        ) from None
    core = [line for line in needed if not re.match(r"ray\b", line) and "extra ==" not in line]
    named = [(line, re.search(r"extra == ['\"](\w+)['\"]", line)) for line in needed]
    return core + [line.partition(";")[0].strip() for line, found in named if found is not None and found[1] in extras]
