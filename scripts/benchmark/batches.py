"""Memory of a large run in batches: `python -m benchmark.batches [PROMPTS]` with PYTHONPATH=scripts.

One worker, batches of 10,000 requests and shards as large; by default a million prompts. Prints the peak resident
memory of worker, queue and driver, and the number of records.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmark.process_tree import measured
from benchmark.server import serving
from benchmark.trial import write_prompts
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings

PER_BATCH = 10_000
TIMEOUT_S = 5400.0
_TITLES = ("ray::TeacherWorker", "ray::PromptQueue", "stillhouse")


def main() -> int:
    """Print the figures as JSON; exit code 1 if not every prompt became a record."""
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    settings = SimulatorSettings(batches=SimulatorBatches(latency_s=20.0))
    with tempfile.TemporaryDirectory() as temporary, serving(settings) as url:
        folder = Path(temporary)
        write_prompts(folder / "prompts.jsonl", count=prompts)
        recipe = folder / "recipe.yaml"
        recipe.write_text(json.dumps(_recipe(folder, url=url)))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("stillhouse")), "run", "--quiet", "--json", str(recipe)]
        log = folder / "log.txt"
        cost = measured(command, env=os.environ, log=log, timeout_s=TIMEOUT_S)
        summary = json.loads(log.read_text().splitlines()[-1]) if cost.exit_code == 0 else {}
        peaks = {title: max(found) for title, found in cost.peaks_mb.items() if title.startswith(_TITLES)}
    figures = {"prompts": prompts, "records": summary.get("records"), "batches": summary.get("batches")}
    print(json.dumps(figures | {"exit": cost.exit_code, "wall_s": cost.wall_s, "peaks_mb": peaks}))
    return int(summary.get("records") != prompts)


def _recipe(folder: Path, *, url: str) -> dict[str, object]:
    teacher = {
        "name": "t",
        "api": "openai-chat",
        "base_url": url,
        "profile": "openai",
        "model": "m",
        "mode": "batch",
        "batch": {"max_requests": PER_BATCH},
        "terms": {"training_use": "permitted"},
    }
    return {
        "name": "batches",
        "source": {"path": str(folder / "prompts.jsonl"), "prompt": "prompt", "id": "id"},
        "teachers": [teacher],
        "dataset": {"path": str(folder / "dataset"), "prompts_per_shard": PER_BATCH},
        "run": {"workers": 1},
    }


if __name__ == "__main__":
    sys.exit(main())
