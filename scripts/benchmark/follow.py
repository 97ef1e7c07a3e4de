"""How soon a followed run seals a new file, with many generations behind it: scripts/bench follow [GENERATIONS]

All but the first generation are made here, with the program's own plans and index; their shards are links to the first
one's, because a resumed run reads only their names. Then the run follows the source, and ten files appear in it, each
once the one before is sealed. The bar: from a file's appearance to its sealed shard, at most one answer's latency plus
3 s, for the slowest of them.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmark.bars import judged
from benchmark.resume import running
from benchmark.server import serving
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.generations import GenerationReader
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.plans import store_plan
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.source.files import stat_file
from stillhouse.schemas.recipe_file import load_recipe
from stillhouse.schemas.simulator import SimulatorSettings

FILES, LATENCY_S, BAR_S = 10, 1.0, 3.0


def main() -> int:
    """Print seconds from appearance to seal by file, and the slowest one's ratio to the bar; 1 if it misses it."""
    generations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory() as temporary, serving(SimulatorSettings(latency_s=LATENCY_S)) as url:
        folder = Path(temporary)
        recipe = _recipe(folder, url=url)
        _make_first(recipe, folder)
        began = time.monotonic()
        _make_others(recipe, folder, generations)
        print(f"{generations:,} generations made, {time.monotonic() - began:.1f} s", flush=True)
        with running(recipe, "--follow") as wait:
            _sealed_s(folder, generations, wait)  # not counted: the run is starting
            took = [_sealed_s(folder, generations + 1 + number, wait) for number in range(FILES)]
    print("appearance to seal, s:", *(f"{seconds:.2f}" for seconds in took))
    slowest, middle, bar_s = max(took), median(took), LATENCY_S + BAR_S
    return judged(
        f"with {generations:,} generations behind, the slowest of {FILES} files {slowest:.2f} s, the median "
        f"{middle:.2f} s: {slowest / bar_s:.2f} and {middle / bar_s:.2f} of the bar of {bar_s:g} s; load average "
        f"{os.getloadavg()[0]:.1f}",
        met=slowest <= bar_s,
    )


def _recipe(folder: Path, *, url: str) -> Path:
    (folder / "source").mkdir()
    teacher = {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}}
    document = {
        "name": "follow",
        "source": {"path": str(folder / "source"), "prompt": "prompt"},
        "teachers": [teacher | {"limits": {"in_flight": 64}}],
        "dataset": {"path": str(folder / "dataset")},
        "run": {"workers": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _make_first(recipe: Path, folder: Path) -> None:
    """The first generation, with a shard of its own."""
    _appear(folder, 0)
    with running(recipe) as wait:
        wait(_shard(folder, 0).exists)


def _make_others(path: Path, folder: Path, generations: int) -> None:
    """Plan, index and seal a file each."""
    recipe = load_recipe(path.read_text(), origin=str(path))
    store = open_dataset(recipe)
    recipe = bind(store, recipe)
    reader = GenerationReader(store)
    for number in range(1, generations):
        arrived = stat_file(str(_appear(folder, number)), recipe.source)
        assert arrived is not None
        plan = next_plan(recipe, reader.read(), arrived=[arrived])
        assert plan is not None
        assert plan.generation == number
        store_plan(store, plan)
        list(Indexer(store, recipe, plan).parts([]))
        os.link(_shard(folder, 0), _shard(folder, number))


def _appear(folder: Path, number: int) -> Path:
    """A file of one prompt, complete from its first moment."""
    path = folder / "source" / f"{number:06d}.jsonl"
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps({"prompt": f"How much is {number} + 1?"}) + "\n")
    part.rename(path)
    return path


def _sealed_s(folder: Path, generation: int, wait: Callable[[Callable[[], bool]], None]) -> float:
    """Seconds from the appearance of this generation's file to its shard."""
    began = time.monotonic()
    _appear(folder, generation)
    wait(_shard(folder, generation).exists)
    return time.monotonic() - began


def _shard(folder: Path, generation: int) -> Path:
    return folder / "dataset" / ChunkId(generation, 0).data_key


if __name__ == "__main__":
    sys.exit(main())
