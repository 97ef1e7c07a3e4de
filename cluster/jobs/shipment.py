"""The contents of a submitted run: the recipe with references for keys, our code, and nothing else of this machine.

Ray packs a whole folder, whatever lies in it; so a new one is made that holds what is meant to travel. Keys are found
on the nodes: in a file, the node's environment, or by its role. Nothing secret is in a job's runtime_env or metadata,
which the cluster shows to whoever may see its jobs.
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

from stillhouse.gen.checks.registry import extras_of
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import UsageError
from stillhouse.schemas import __version__
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe

Ship = Literal["all", "code", "recipe"]
"""`all`: the code, and the nodes install what it needs; `code`: they have that; `recipe`: they have Stillhouse."""

DATASET_KEY = "stillhouse_dataset"
"""The metadata by which a dataset's jobs are found."""
STOP_WAIT_S = 60
"""How long Ray waits for a stopped run before it kills it: our grace period, and time to store the last answers. Its
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
    """The run as a shipment; the folder in it is there as long as the block lasts.

    Raises:
        UsageError: this program was not installed, so that what it needs is not known.
    """
    recipe = with_absolute_paths(recipe.with_files())
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        Path(folder, RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
        runtime_env: dict[str, Any] = {
            "working_dir": folder,
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
        "job_name": recipe.name,  # which Ray's dashboard shows
        DATASET_KEY: open_dataset(recipe).url,
        "stillhouse_recipe": fingerprint(recipe),
        "stillhouse_version": __version__,
    }


def fingerprint(recipe: Recipe) -> str:
    """16 hex digits of what decides the records: equal where two recipes make the same dataset."""
    return hashlib.sha256(json.dumps(recipe.identity() | recipe.ask.wanted(), sort_keys=True).encode()).hexdigest()[:16]


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with local paths as they are meant here: the job runs in another folder."""
    paths = tuple(map(_absolute, recipe.source.paths))
    source = recipe.source.model_copy(update={"path": paths[0] if isinstance(recipe.source.path, str) else paths})
    dataset = recipe.dataset.model_copy(update={"path": _absolute(recipe.dataset.path)})
    teachers = []
    for teacher in recipe.teachers:
        if teacher.simulator is not None and isinstance(teacher.simulator.answers, str):
            simulator = teacher.simulator.model_copy(update={"answers": _absolute(teacher.simulator.answers)})
            teacher = teacher.model_copy(update={"simulator": simulator})
        teachers.append(teacher)
    return recipe.model_copy(update={"source": source, "dataset": dataset, "teachers": tuple(teachers)})


def local_paths(recipe: Recipe) -> list[str]:
    """The local paths that every node has to see."""
    return [path for path in (*recipe.source.paths, recipe.dataset.path) if "://" not in path]


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _copy_code(folder: Path) -> None:
    """Our package's modules and templates; no data, no caches, nothing that happens to lie beside them."""
    package = Path(__file__).parents[2]
    modules = [*package.glob("*.py")]
    for part in ("schemas", "gen", "cluster"):  # each by its own path: rglob follows no links, which a checkout has
        modules += (package / part).rglob("*")
    for module in modules:
        if module.suffix in _SHIPPED and module.is_file():
            target = folder / module.relative_to(package.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)


def _extras(recipe: Recipe) -> list[str]:
    """The extras that the recipe needs on the nodes."""
    return extras_of(recipe) + ["images"] * bool(recipe.source.images)


def requirements(*, extras: Sequence[str] = ()) -> list[str]:
    """What our code needs beside Ray, which the cluster brings, and what its `extras` of these names need.

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
