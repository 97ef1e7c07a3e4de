"""Runs of the real worker against real simulators over a wire that a test controls, and their results."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from builders import questions, recipe_of, write_source

from stillhouse.gen.simulator import serve
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings


def status(code: int, **more: Any) -> dict[str, Any]:
    """A fault of this status."""
    return {"kind": "status", "status": code} | more


def setup(tmp_path: Path, *, prompts: int, samples: int = 1, per_shard: int = 10, **teacher: Any) -> Recipe:
    """A recipe over this many prompts with one teacher."""
    write_source(tmp_path, questions(prompts))
    asked = {"name": "sim", "api": "simulator"} | teacher
    dataset = {"prompts_per_shard": per_shard}
    recipe: Recipe = recipe_of(tmp_path, ask={"samples": samples}, teachers=[asked], dataset=dataset)
    return recipe


@asynccontextmanager
async def at(recipe: Recipe, *simulators: dict[str, Any], extra: Sequence[str] = ()) -> AsyncIterator[Recipe]:
    """The recipe's only teacher behind these simulators and the `extra` endpoints."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(await serve(SimulatorSettings.model_validate(settings)))
            for settings in simulators
        ]
        urls = (*(server.url for server in servers), *extra)
        yield recipe.model_copy(update={"teachers": (recipe.teachers[0].model_copy(update={"endpoints": urls}),)})


def served(log: Path) -> list[dict[str, Any]]:
    """The teacher's log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def rows(recipe: Recipe, folder: str) -> list[dict[str, Any]]:
    """All rows of data/, rejected/ or failed/."""
    path = Path(recipe.dataset.path) / folder
    found: list[dict[str, Any]] = ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []
    return found


def most_at_once(lines: Sequence[dict[str, Any]]) -> int:
    """The most requests in flight at one moment, by the teacher's log."""
    moments = [(line["time"], 1) for line in lines] + [(line["time"] + line["latency_s"], -1) for line in lines]
    now = most = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most
