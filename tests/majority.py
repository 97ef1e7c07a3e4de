"""A vote without known answers, measured against them afterwards.

    python -m tests.majority --prompts 7473 --samples 8 --accuracy 0.6

asks GSM8K's questions, or else the quickstart's, of the built-in teacher, whose wrong answers are each one of nine. It
prints how often the teacher was right, how often the majority was, and how both depend on `vote_share`; it ends with 1
if `verify` finds anything.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow.dataset as ds
from harness import run_in_process
from word_problems import write_problems

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--accuracy", type=float, default=0.6, help="of the teacher")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder), args)
        summary = asyncio.run(run_in_process(recipe))
        print(summary.as_text())
        findings = verify(open_dataset(recipe)).findings
        print(_measured(recipe))
    print("\n".join(f"{finding.key}: {finding.message}" for finding in findings) or "verify: nothing found")
    return 1 if findings else 0


def _recipe(folder: Path, args: argparse.Namespace) -> Recipe:
    """The known answers go to the simulator and are kept with the records; no check sees them."""
    source = folder / "prompts.jsonl"
    write_problems(source, most=args.prompts)
    simulated = {"answers": str(source), "accuracy": args.accuracy}
    return Recipe.model_validate(
        {
            "name": "majority",
            "source": {"path": str(source), "prompt": "prompt", "keep": [{"name": "answer", "as": "known"}]},
            "ask": {"samples": args.samples, "seed": 1},
            "teachers": [{"name": "sim", "api": "simulator", "limits": {"in_flight": 256}, "simulator": simulated}],
            "select": {"majority": {"answer": "math"}},
            "dataset": {"path": str(folder / "out"), "prompts_per_shard": 200},
        }
    )


def _measured(recipe: Recipe) -> str:
    """Compare answers, and the prompts' selected ones, with what is right; the simulator ends each with its number."""
    right = answered = 0
    selected: dict[str, tuple[float, bool]] = {}
    for kind in ("data", "rejected"):
        columns = ["prompt_key", "completion", "known", "vote_share"]
        for row in ds.dataset(f"{recipe.dataset.path}/{kind}").to_table(columns).to_pylist():
            if row["completion"] is None:
                continue
            is_right = row["completion"][0]["content"].rpartition("####")[2].strip() == row["known"]
            answered, right = answered + 1, right + is_right
            if kind == "data":
                selected[row["prompt_key"]] = row["vote_share"], is_right
    by_share: defaultdict[float, list[bool]] = defaultdict(list)
    for share, is_right in selected.values():
        by_share[round(share, 3)].append(is_right)
    won = sum(is_right for _, is_right in selected.values())
    lines = [
        f"the teacher is right in {right:,} of {answered:,} answers ({right / answered:.1%})",
        f"the majority is right for {won:,} of {len(selected):,} prompts ({won / len(selected):.1%})",
        *(
            f"  vote_share {share:.3f}: {sum(rights):,} of {len(rights):,} ({sum(rights) / len(rights):.1%})"
            for share, rights in sorted(by_share.items())
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
