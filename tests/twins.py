"""The same prompts streamed and unstreamed, over every API: how their records differ.

    python -m tests.twins --prompts 2000

asks GSM8K's questions, or else the quickstart's, of the built-in teacher. Where an API has a seed, 64 requests are in
flight; where it has none, one is, for the teacher's answers then depend on their order. It ends with 1 if a column
differs that should not, or if `verify` finds anything.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow.dataset as ds
from harness import run_in_process

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

ROOT = Path(__file__).parents[1]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k-train.jsonl"
OWN = ROOT / "cluster" / "quickstart" / "prompts.jsonl"
ASKED: dict[str, dict[str, Any]] = {
    "openai-chat": {"seed": 3},
    "gemini": {"seed": 3},
    "openai-responses": {},
    "anthropic": {"max_tokens": 2000},
    "bedrock": {"max_tokens": 2000},
}
OWN_COLUMNS = {"asked_at", "latency_s", "response_id", "endpoint"}
"""Columns in which twins differ; `endpoint`, for each has a server of its own."""
_Rows: TypeAlias = dict[str, dict[str, Any]]
"""By record id."""


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=600)
    args = parser.parse_args()
    os.environ["TWINS_KEY"] = "a key for Bedrock's simulator"
    faults = 0
    for api in ASKED:
        with tempfile.TemporaryDirectory() as folder:
            faults += asyncio.run(_compared(Path(folder), api, prompts=args.prompts))
    return 1 if faults else 0


async def _compared(folder: Path, api: str, *, prompts: int) -> int:
    """The faults found."""
    twins: list[_Rows] = []
    seconds: list[float] = []
    findings = 0
    for stream in (False, True):
        began = time.monotonic()
        settings = SimulatorSettings(output_tokens=(20, 300), reasoning="reasoning_content")
        async with await serve(settings) as server:
            recipe = _recipe(folder / str(stream), api, server.url, stream=stream, prompts=prompts)
            summary = await run_in_process(recipe)
        seconds.append(time.monotonic() - began)
        assert summary.requests == summary.records + summary.rejected, summary.as_text()
        twins.append(_rows(recipe))
        findings += len(verify(open_dataset(recipe)).findings)
    whole, streamed = twins
    differing = [key for key in whole | streamed if whole.get(key) != streamed.get(key)]
    columns = {name for key in differing for name in _differing(whole.get(key, {}), streamed.get(key, {}))}
    rows = [f"{len(each):,} rows in {each_s:.1f} s" for each, each_s in zip(twins, seconds, strict=True)]
    print(f"{api}: unstreamed {rows[0]}, streamed {rows[1]}; {len(differing):,} differ {sorted(columns) or ''}")
    return len(differing) + findings


def _differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Names of columns."""
    return {name for name in one | other if one.get(name) != other.get(name)}


def _recipe(folder: Path, api: str, url: str, *, stream: bool, prompts: int) -> Recipe:
    folder.mkdir(parents=True)
    with (GSM8K if GSM8K.exists() else OWN).open(encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(prompts), strict=False)]
    source = folder / "prompts.jsonl"
    source.write_text("".join(lines), encoding="utf-8")
    column = "question" if "question" in json.loads(lines[0]) else "prompt"
    teacher: dict[str, Any] = {
        "name": "t",
        "api": api,
        "model": "m",
        "base_url": url if api == "openai-chat" else url.removesuffix("/v1"),
        "stream": stream,
        "limits": {"in_flight": 64 if "seed" in ASKED[api] else 1},
        "terms": {"training_use": "permitted"},
    }
    if api == "bedrock":
        teacher["api_key"] = "env:TWINS_KEY"
    return Recipe.model_validate(
        {
            "name": "twins",
            "source": {"path": str(source), "prompt": column},
            "ask": ASKED[api],
            "teachers": [teacher],
            "dataset": {"path": str(folder / "out"), "prompts_per_shard": 200},
        }
    )


def _rows(recipe: Recipe) -> _Rows:
    """Records and rejected answers, less what twins may differ in."""
    folders = [each for name in ("data", "rejected") if (each := Path(recipe.dataset.path) / name).exists()]
    rows = [row for each in folders for row in ds.dataset(each, format="parquet").to_table().to_pylist()]
    answers = [row for row in rows if row["record_id"] is not None]
    return {row["record_id"]: {name: row[name] for name in row.keys() - OWN_COLUMNS} for row in answers}


if __name__ == "__main__":
    sys.exit(main())
