"""Checks that a run with logprobs keeps asking while it reads and seals: scripts/bench steady [ANSWERS] [TOKENS]

Answers of so many tokens with 20 alternatives each (some 1.6 KB a token), 64 in flight, a shard every hundred. Counted
are the requests that reach the server, by its own log, in each full second from the first to the last of them. The bar:
no second without one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from benchmark.bars import judged
from benchmark.server import requests, serving
from stillhouse.schemas.simulator import SimulatorSettings

ANSWERS, TOKENS = 2_000, 2_000
IN_FLIGHT, TOP, PER_SHARD = 64, 20, 100
LATENCY_S, SPREAD = 1.0, 0.3


def main() -> int:
    """Print the lowest and the median window; 1 if one is empty."""
    given = [int(each) for each in sys.argv[1:]]
    answers, tokens = (*given, *(ANSWERS, TOKENS)[len(given) :])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = folder / "served.jsonl"
        settings = SimulatorSettings(
            latency_s=LATENCY_S, latency_spread=SPREAD, output_tokens=(tokens, tokens), log=str(log)
        )
        with serving(settings) as url:
            recipe = _recipe(folder, url=url, answers=answers, tokens=tokens)
            command = [str(Path(sys.executable).with_name("stillhouse")), "run", str(recipe), "--quiet", "--json"]
            began = time.monotonic()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took_s = time.monotonic() - began
        lines = [line for line in requests(log) if line["status"] == 200]
    windows = _windows([line["time"] - lines[0]["time"] for line in lines])
    ends = _windows([line["time"] + line["latency_s"] - lines[0]["time"] for line in lines])
    for second in [second for second, count in enumerate(windows) if count == 0]:
        # If none was answered either, no slot became free: the server was slow, or its answers were read slowly.
        answered = ends[max(0, second - 2) : second + 1]
        print(f"no request in second {second}; answers in it and in the two before: {answered}")
    return judged(
        f"{answers:,} answers of {tokens:,} tokens with {TOP} alternatives, {IN_FLIGHT} in flight, {took_s:.0f} s: of "
        f"{len(windows)} windows of 1 s the lowest has {min(windows)} requests, the median {median(windows):g}, "
        f"{windows.count(0)} have none (bar: 0); load average {os.getloadavg()[0]:.1f}",
        met=len(lines) >= answers and min(windows) > 0,
    )


def _recipe(folder: Path, *, url: str, answers: int, tokens: int) -> Path:
    rows = ({"prompt": f"How much is {number} + 1?"} for number in range(answers))
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    teacher = {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}}
    document = {
        "name": "steady",
        "source": {"path": str(folder / "prompts.jsonl"), "prompt": "prompt"},
        "ask": {"top_logprobs": TOP, "max_tokens": tokens},
        "teachers": [teacher | {"limits": {"in_flight": IN_FLIGHT}}],
        "dataset": {"path": str(folder / "dataset"), "prompts_per_shard": PER_SHARD},
        "run": {"workers": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _windows(times_s: list[float]) -> list[int]:
    """How many there are in each full second."""
    counts = Counter(map(int, times_s))
    return [counts[second] for second in range(max(1, int(max(times_s))))]


if __name__ == "__main__":
    sys.exit(main())
