"""Recipes whose teacher is asked in batches, and runs of them against a simulator."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders import recipe_of
from harness import run_in_process

from stillhouse.gen.dataset.batch_intents import PREFIX
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.simulator.server import Server, serve
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings

APIS = ["openai-chat", "mistral", "together", "anthropic", "gemini", "bedrock"]
"""Mistral's and Together's are openai-chat with their profiles."""
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://a.b", "seen_on": "2026-11-22"}


def batched(root: Path, server: Server, *, api: str = "openai-chat", **changes: Any) -> Recipe:
    """A recipe whose teacher is asked in batches."""
    teacher = teacher_of(api, server.url)
    more = changes.pop("teacher", {})
    teacher |= more | {"batch": teacher.get("batch", {}) | more.get("batch", {})}
    changes["ask"] = {"max_tokens": 200} | changes.get("ask", {})
    return recipe_of(root, teachers=[teacher], **changes)


def teacher_of(api: str, url: str) -> dict[str, Any]:
    """A recipe's entry for a teacher that is asked in batches, at a simulator's URL."""
    root = url.removesuffix("/v1")
    base, profile = url if api.startswith("openai") else root, {"profile": "openai"} if api == "openai-chat" else {}
    if api in ("mistral", "together"):
        base = f"{root}/together/v1" if api == "together" else url
        api, profile = "openai-chat", {"profile": api}
    teacher = {"name": "t", "api": api, "base_url": base, "model": "m", "terms": TERMS, "mode": "batch", **profile}
    if api == "bedrock":
        teacher["aws"] = {"region": "us-east-1", "access_key_id": "env:AWS_ID", "secret_access_key": "env:AWS_SECRET"}
        place = {"role_arn": "arn:aws:iam::123456789012:role/r", "s3": "s3://bucket/in", "s3_endpoint": f"{base}/s3"}
        teacher["batch"] = {"bedrock": place}
    return teacher


def logged(root: Path) -> list[dict[str, Any]]:
    """The simulator's lines."""
    return [json.loads(line) for line in (root / "log").read_text().splitlines()]


def run(
    root: Path, test: Callable[[Server], Any], *, faults: dict[str, Any] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Run a test against a simulator; returns its log."""
    batches = SimulatorBatches.model_validate({"latency_s": 0.0, **(faults or {})})

    async def go() -> None:
        async with await serve(SimulatorSettings(log=str(root / "log"), batches=batches, **settings)) as server:
            await test(server)

    asyncio.run(go())
    return logged(root)


def once_each(lines: list[dict[str, Any]], count: int) -> None:
    """Check that each of `count` prompts was answered in exactly one request."""
    asked = Counter(line["prompt"] for line in lines)
    assert len(asked) == count
    assert set(asked.values()) == {1}


async def crashed_at_provider(recipe: Recipe) -> None:
    """A run that is killed once a batch of it is at the provider."""
    run, store = asyncio.create_task(run_in_process(recipe)), open_dataset(recipe)
    while not any(stat.key.endswith(".submitted.json") for stat in store.list(PREFIX)):
        assert not run.done(), run
        await asyncio.sleep(0.02)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def crashed(recipe: Recipe, *, after_s: float) -> Summary | None:
    """A run that is killed after a time; its Summary if it was done by then."""
    run = asyncio.create_task(run_in_process(recipe))
    done, _ = await asyncio.wait([run], timeout=after_s)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    return run.result() if done else None
