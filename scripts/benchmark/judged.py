"""What checks cost a run in requests/s: `python -m benchmark.judged [REPEATS]` with PYTHONPATH=scripts.

The same prompts at 100 in flight and answers of 1.0 s, with `math` and without a check, in turns. Requests/s are the
server's, from the first request to the last. The bar: with checks, at least 97 % of those without.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmark.bars import judged
from stillhouse.gen.simulator import start
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS, IN_FLIGHT, LATENCY_S = 3_000, 100, 1.0
BAR = 0.97


def main() -> int:
    """Print each run's requests/s, and the ratio of the medians; 1 if it misses the bar."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: dict[str, list[float]] = {"math": [], "none": []}
    for _ in range(repeats):
        for checks, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                found.append(
                    _requests_per_s(Path(folder), checks=[{"math": {"answer": "answer"}}] * (checks == "math"))
                )
            print(f"checks: {checks}: {found[-1]:.2f} requests/s", flush=True)
    ratio = statistics.median(rates["math"]) / statistics.median(rates["none"])
    return judged(f"with checks {ratio:.1%} of those without (bar: {BAR:.0%})", met=ratio >= BAR)


def _requests_per_s(folder: Path, *, checks: list[dict[str, Any]]) -> float:
    rows = ({"prompt": f"How much is {n} + 1?", "answer": str(n + 1)} for n in range(PROMPTS))
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    log = folder / "served.jsonl"
    with start(SimulatorSettings(latency_s=LATENCY_S, accuracy=0.6, log=str(log))) as teacher:
        document = {
            "name": "judged",
            "source": {"path": str(folder / "prompts.jsonl"), "prompt": "prompt"},
            "teachers": [
                {
                    "name": "t",
                    "base_url": teacher.url,
                    "model": "m",
                    "limits": {"in_flight": IN_FLIGHT},
                    "terms": {"training_use": "permitted"},
                }
            ],
            "checks": checks,
            "dataset": {"path": str(folder / "dataset")},
            "run": {"workers": 1},
        }
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(document))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("stillhouse")), "run", str(path), "--quiet", "--json"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    times = sorted(json.loads(line)["time"] for line in log.read_text().splitlines())
    seconds: float = times[-1] - times[0]
    return (len(times) - 1) / seconds


if __name__ == "__main__":
    sys.exit(main())
