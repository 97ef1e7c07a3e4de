"""How soon a large dataset resumes: `python -m benchmark.resume [PROMPTS]` with PYTHONPATH=scripts.

Nine tenths of the prompts have their shards. The index is the program's own, and so is the first shard; the others are
links to it, because a run that resumes reads only their names. It reports rows indexed per second, and
seconds from the command to the first request.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.server import serving, stats
from benchmark.trial import write_prompts
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.plans import SourcePlan
from stillhouse.schemas.recipe_file import load_recipe
from stillhouse.schemas.simulator import SimulatorSettings

REPEATS = 3
TIMEOUT_S = 120.0


def main() -> None:
    """Print the figures as JSON."""
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as temporary, serving(SimulatorSettings(latency_s=0.2)) as url:
        recipe = _recipe(Path(temporary), prompts, url=url)
        began = time.monotonic()
        chunks = _indexed(recipe)
        rows_s = prompts / (time.monotonic() - began)
        _seal(recipe, Path(temporary, "dataset"), chunks=chunks * 9 // 10)
        first_s = [_first_request(recipe, url) for _ in range(REPEATS)]
    print(json.dumps({"prompts": prompts, "chunks": chunks, "indexed rows/s": rows_s, "first request, s": first_s}))


def _recipe(folder: Path, prompts: int, *, url: str) -> Path:
    write_prompts(folder / "prompts.jsonl", count=prompts)
    teacher = {"name": "t", "api": "openai-chat", "base_url": url, "model": "m", "limits": {"in_flight": 64}}
    document = {
        "name": "resume",
        "source": {"path": str(folder / "prompts.jsonl"), "prompt": "prompt", "id": "id"},
        "teachers": [teacher | {"terms": {"training_use": "permitted"}}],
        "dataset": {"path": str(folder / "dataset")},
        "run": {"workers": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _indexed(path: Path) -> int:
    """The chunks of the whole index."""
    recipe = load_recipe(path.read_text(), origin=str(path))
    store = open_dataset(recipe)
    bind(store, recipe)
    plan = SourcePlanner(store, recipe).step()
    assert isinstance(plan, SourcePlan)
    return sum(len(part.asks) for part in Indexer(store, recipe, plan).parts([]))


def _seal(recipe: Path, dataset: Path, *, chunks: int) -> None:
    """Give the first chunks a shard."""
    first = dataset / ChunkId(0, 0).data_key
    with running(recipe) as wait:
        wait(first.exists)
    for number in range(1, chunks):
        shard = dataset / ChunkId(0, number).data_key
        if not shard.exists():
            os.link(first, shard)


def _first_request(recipe: Path, url: str) -> float:
    """Seconds from the command to its first request at the server."""
    before, began = stats(url)["served"], time.monotonic()
    with running(recipe) as wait:
        wait(lambda: stats(url)["served"] > before)
        return time.monotonic() - began


@contextmanager
def running(recipe: Path, *options: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A run, stopped at the end; what it gives waits for something to be so while it runs."""
    command = [str(Path(sys.executable).with_name("stillhouse")), "run", str(recipe), "--quiet", "--json", *options]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def wait(is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not is_so():
            if run.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"expected more of the run; its exit code is {run.poll()}")
            time.sleep(0.02)

    try:
        yield wait
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait()


if __name__ == "__main__":
    main()
