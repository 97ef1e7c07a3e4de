"""Two right answers to each question, eight asked at most: what a run asks and keeps, against what the policy needs.

    python -m tests.accepted --prompts 7473 --kills 100

asks GSM8K's questions, or else the quickstart's, of the built-in teacher. Its answers depend on the prompt and
`ask.seed` alone, so that samples and verdicts are known beforehand. Half of the requests that are needed are the first
budget; what is needed, the second. With kills, a run on Ray is killed so often, and the second budget leaves room for
what was in flight. It prints the figures, and ends with 1 where a count differs or `verify` finds anything.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import comb
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow.dataset as ds
from faults.nemesis import IN_FLIGHT, outlive
from faults.runs import start_run
from harness import run_in_process
from waiting import wait_until
from word_problems import write_problems

from stillhouse.gen import simulator
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import BudgetSpent
from stillhouse.gen.simulator.answers import Answers
from stillhouse.gen.views.summary import summarise
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.prompt import prompt_key
from stillhouse.schemas.recipe_file import read_recipe
from stillhouse.schemas.simulator import SimulatorSettings

ACCEPT, AT_MOST, ACCURACY, SEED = 2, 8, 0.6, 11
CHI_SQUARE = 24.3
"""What counts in eight classes exceed in one of a thousand draws (seven degrees of freedom)."""

Asked = tuple[bool, ...]
"""Of one prompt: for each sample that the policy asks, whether its answer is right."""


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(show(Path(folder), prompts=args.prompts, kills=args.kills, seed=args.seed)))
    return 0


def show(folder: Path, *, prompts: int, kills: int = 0, seed: int = 0) -> list[str]:
    """Run the recipe and return its figures. Raises AssertionError if a count differs from the policy's."""
    known = write_problems(folder / "prompts.jsonl", most=prompts)
    settings = SimulatorSettings(
        answers=str(folder / "prompts.jsonl"),
        accuracy=ACCURACY,
        latency_s=0.5 if kills else 0.0,
        log=str(folder / "served.jsonl"),
    )
    wanted = _policy(settings, known)
    needed = sum(map(len, wanted.values()))
    lines = []
    killed: Counter[str] = Counter()
    with simulator.start(settings) as teacher:
        for budget, so_many in ((needed // 2, kills // 2), (needed + IN_FLIGHT * kills, kills)):
            recipe = _recipe(folder, teacher.url, budget)
            if kills:
                _run_killed(recipe, folder, killed, kills=so_many, rng=random.Random(seed + so_many))
            else:
                with suppress(BudgetSpent):
                    asyncio.run(run_in_process(read_recipe(recipe)))
            if not kills:  # the log is complete a fifth of a second later
                wait_until(lambda: _served(folder) >= budget, what=f"{budget} requests in the log", within_s=10.0)  # noqa: B023 - called at once
            served = _served(folder)
            assert served <= budget, f"{served} requests were sent under a budget of {budget}"
            assert kills or served == budget, f"a budget of {budget} ended the run after {served} requests"
            lines.append(f"budget {budget:,}: {served:,} requests sent")
    assert killed.total() >= kills, f"it was done after {killed.total()} kills: give it more prompts"
    return [
        *([f"killed: {dict(killed)}"] if kills else []),
        *lines,
        *_by_chance([len(asked) for asked in wanted.values()], short=sum(sum(a) < ACCEPT for a in wanted.values())),
        *_compared(folder, known, wanted),
    ]


def _run_killed(recipe: Path, folder: Path, killed: Counter[str], *, kills: int, rng: random.Random) -> None:
    """Run under kills until the dataset is done, or its budget is used up."""

    def is_over(end: dict[str, Any]) -> bool:
        use = end["budget"]["requests"]
        return bool(end["state"] == "done" or use["used"] == use["limit"])

    log = folder / "served.jsonl"
    outlive(start_run(recipe), recipe, log, None, kills=kills, rng=rng, killed=killed, is_over=is_over)


def _served(folder: Path) -> int:
    return (folder / "served.jsonl").read_bytes().count(b"\n")


def _policy(settings: SimulatorSettings, known: Mapping[str, str]) -> dict[str, Asked]:
    """What is asked of each prompt: sample after sample until enough different answers are right."""
    teacher = Answers(settings)
    wanted = {}
    for prompt, answer in known.items():
        key = prompt_key((("user", prompt),))
        asked: list[bool] = []
        right: set[str] = set()
        while len(right) < ACCEPT and len(asked) < AT_MOST:
            said = teacher.give(prompt, prompt=key, serial=0, index=0, max_tokens=None, seed=SEED + len(asked)).content
            asked.append(_number(said) == answer and said not in right)
            right |= {said} if asked[-1] else set()
        wanted[prompt] = tuple(asked)
    return wanted


def _recipe(folder: Path, url: str, requests: int) -> Path:
    path = folder / "recipe.yaml"
    terms = {"training_use": "permitted"}
    teacher = {"name": "t", "base_url": url, "model": "m", "terms": terms, "limits": {"in_flight": IN_FLIGHT}}
    document = {
        "name": "accepted",
        "source": {"path": str(folder / "prompts.jsonl"), "prompt": "prompt"},
        "ask": {"accept": ACCEPT, "at_most": AT_MOST, "seed": SEED},
        "teachers": [teacher],
        "budget": {"requests": requests},
        "checks": [{"math": {"answer": "answer"}}],
        "dataset": {"path": str(folder / "out"), "prompts_per_shard": 100},
        "run": {"workers": 2, "journal_dir": str(folder / "journal")},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def _by_chance(asked: Sequence[int], *, short: int) -> Iterator[str]:
    """Compare how many prompts took n requests with the binomial distribution."""
    found = Counter(asked)
    right, wrong = ACCURACY, 1 - ACCURACY
    shares = {
        n: (n - 1) * right**2 * wrong ** (n - 2) for n in range(ACCEPT, AT_MOST)
    }  # the second right one is the n-th
    shares[AT_MOST] = 1 - sum(shares.values())
    distance = 0.0
    for n, share in shares.items():
        expected = share * len(asked)
        distance += (found[n] - expected) ** 2 / expected
        yield f"  {n} requests: {found[n]:,} prompts; {expected:,.1f} expected"
    too_few = sum(comb(AT_MOST, k) * right**k * wrong ** (AT_MOST - k) for k in range(ACCEPT))
    yield f"  fewer than {ACCEPT} right of {AT_MOST}: {short:,} prompts; {too_few * len(asked):,.1f} expected"
    yield f"  chi-square {distance:.1f}, where {CHI_SQUARE} is exceeded once in a thousand draws"
    assert distance < CHI_SQUARE, distance


def _compared(folder: Path, known: Mapping[str, str], wanted: Mapping[str, Asked]) -> Iterator[str]:
    """Check, sample by sample, that the dataset holds what the policy asks and keeps."""
    found: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    for kind in ("data", "rejected"):
        table = ds.dataset(folder / "out" / kind).to_table(["prompt", "completion", "sample", "record_id"])
        for row in table.to_pylist():
            prompt, said = row["prompt"][0]["content"], row["completion"][0]["content"]
            assert row["sample"] not in found[prompt], f"{prompt!r} has sample {row['sample']} twice"
            found[prompt][row["sample"]] = kind == "data"
            assert kind != "data" or _number(said) == known[prompt], f"{prompt!r} has the wrong answer {said!r}"
    for prompt, asked in wanted.items():
        assert found[prompt] == dict(enumerate(asked)), f"{prompt!r}: wanted {asked}, found {found[prompt]}"
    store = open_dataset(read_recipe(folder / "recipe.yaml"))
    summary = summarise(store)
    # What a killed process was writing is left behind, and `verify --repair` takes it away.
    findings = [finding for finding in verify(store).findings if finding.kind != "leftover"]
    right = sum(map(sum, wanted.values()))
    total = sum(map(len, wanted.values()))
    short = sum(sum(asked) < ACCEPT for asked in wanted.values())
    of_policy = (right, total - right, 0, AT_MOST * len(wanted) - total, short)
    counted = (summary.records, summary.rejected, summary.failed, summary.not_needed, summary.short)
    assert counted == of_policy, f"found {counted}, and the policy gives {of_policy}"
    assert not findings, findings
    yield f"{right:,} records, all right; {total - right:,} rejected; {short:,} prompts short; as the policy asks"
    yield "verify: nothing found"


def _number(said: str) -> str:
    return said.rpartition("####")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
