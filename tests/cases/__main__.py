"""A run against a server that draws its replies at random: good answers, and for a share of them any recorded reply.

    python -m tests.cases --prompts 2000

runs the command line on a Ray of its own, prints how often each reply was drawn and the outcomes of the samples whose
last reply it was, then the Failures' words, and ends with 1 where a promise was broken: the run ends by itself, its
counts add up, nothing is paid for twice.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from case_draw import DrawingServer, broken, table, words
from case_server import CASES, serving

ROOT = Path(__file__).parents[2]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k-train.jsonl"
OWN = ROOT / "cluster" / "quickstart" / "prompts.jsonl"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.1, help="of requests that meet a recorded reply")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=Path, default=CASES, help="the folder of the replies")
    parser.add_argument("--latency-s", type=float, default=0.05, help="of good answers")
    parser.add_argument("--hurry", type=float, default=1.0, help="waits of recorded replies are so many times shorter")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(Path(folder), args))


async def _run(folder: Path, args: argparse.Namespace) -> int:
    drawn = DrawingServer.names_in(args.cases)
    server = DrawingServer(
        names=drawn, share=args.share, seed=args.seed, folder=args.cases, latency_s=args.latency_s, hurry=args.hurry
    )
    async with serving(server):
        recipe = _recipe(folder, server.url, args.prompts)
        code, summary = await _stillhouse("run", str(recipe), "--json")
        verified, _ = await _stillhouse("verify", str(folder / "out"), "--json")
    print(table(folder / "out", server))
    print(words(folder / "out"))
    print(json.dumps(summary, indent=1))
    faults = [f"run ended with {code}"] * (code != 0) + [f"verify ended with {verified}"] * (verified != 0)
    faults += broken(folder / "out", server, summary)
    print("\n".join(faults) or "all promises kept")
    return 1 if faults else 0


async def _stillhouse(*arguments: str) -> tuple[int, dict[str, object]]:
    """(exit code, the last line of JSON) of a command."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    printed, _ = await process.communicate()
    lines = printed.decode().strip().splitlines()
    try:
        return process.returncode or 0, json.loads(lines[-1]) if lines else {}
    except ValueError:
        return process.returncode or 0, {}


def _recipe(folder: Path, url: str, prompts: int) -> Path:
    source = GSM8K if GSM8K.exists() else OWN
    column = "question" if source == GSM8K else "prompt"
    texts = [json.loads(line)[column] for line in source.read_text().splitlines()]
    rows = [{"id": f"q{n}", "question": f"{texts[n % len(texts)]} ({n})"} for n in range(prompts)]
    (folder / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {
        "name": "t",
        "api": "openai-chat",
        "base_url": url,
        "model": "made-up-8b",
        "price": {"input": 1, "output": 1},
        "limits": {"in_flight": 32},
        "terms": {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"},
    }
    document = {
        "name": "cases",
        "source": {"path": str(folder / "source.jsonl"), "prompt": "question", "id": "id"},
        "teachers": [teacher],
        "dataset": {"path": str(folder / "out"), "prompts_per_shard": 100},
        "run": {"workers": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


if __name__ == "__main__":
    sys.exit(main())
