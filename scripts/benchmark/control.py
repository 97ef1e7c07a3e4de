"""CPU of the control actors under a thousand workers: `python -m benchmark.control [WORKERS]` with PYTHONPATH=scripts.

The actors are real, in processes of their own on a local Ray; the workers are calls at a worker's pace alone. Reports
each actor's share of one core, and how long its calls took.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from stillhouse.cluster.actors.handles import QueueHandle, start_limiter, start_queue
from stillhouse.cluster.actors.plain import pack, unpack
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.cluster.runtime import connected
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import RENEW_S, Grant
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import SHARE_RENEW_S, Report
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.recipe import Recipe

SECONDS = 30.0
PER_SHARD = 100
CHUNK_S = 20.0
"""How long a worker takes for a chunk: 50 requests a second at the default of 1,000 prompts a shard."""
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print both shares as JSON."""
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder, connected(None):
        recipe = _recipe(Path(folder), chunks=3 * workers)
        store = open_dataset(recipe)
        bind(store, recipe)
        SourcePlanner(store, recipe).step()
        queue = start_queue(recipe, opened=[0], known=1, workers=workers)
        limits = Limits(requests_per_minute=3_000_000, output_tokens_per_minute=10**9, in_flight=100_000)
        limiter = start_limiter("account", limits)
        print(json.dumps({"workers": workers} | asyncio.run(_measured(queue, limiter, workers=workers))))


def _recipe(folder: Path, *, chunks: int) -> Recipe:
    source = folder / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"Question {n}"}) + "\n" for n in range(chunks * PER_SHARD)))
    teacher = {"name": "t", "api": "openai-chat", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    document = {
        "name": "control",
        "source": {"path": str(source), "prompt": "prompt"},
        "teachers": [teacher | {"terms": {"training_use": "permitted"}}],
        "dataset": {"path": str(folder / "dataset"), "prompts_per_shard": PER_SHARD},
    }
    return Recipe.model_validate(document)


async def _measured(queue: Any, limiter: Any, *, workers: int) -> dict[str, float]:
    while not unpack(await queue.stats.remote(), QueueStats).planned:  # noqa: ASYNC110 - an actor has no event to wait for
        await asyncio.sleep(0.5)
    pids = {"queue": await _pid(queue), "limiter": await _pid(limiter)}
    took: list[float] = []
    until = time.monotonic() + SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(_share(limiter, f"worker-{number}", until=until, took=took))
            group.create_task(_chunks(queue, f"worker-{number}", until=until, took=took))
        group.create_task(_polled(queue, until=until))
        await asyncio.sleep(5.0)  # all workers have arrived
        before, since = {name: _cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
        await asyncio.sleep(SECONDS - 7.0)
        passed = time.monotonic() - since
        shares = {f"{name}, of a core": (_cpu_s(pid) - before[name]) / passed for name, pid in pids.items()}
    cuts = quantiles(took, n=100)
    return shares | {"calls/s": len(took) / SECONDS, "call, median ms": cuts[49] * 1e3, "99 % ms": cuts[98] * 1e3}


async def _share(limiter: Any, worker: str, *, until: float, took: list[float]) -> None:
    await asyncio.sleep(hash(worker) % 1000 / 1000 * SHARE_RENEW_S)
    while time.monotonic() < until:
        began = time.monotonic()
        await limiter.renew.remote(worker, pack(Report(50, 1000, Replies(50, 0, 50.0, 5000))))
        took.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, SHARE_RENEW_S - took[-1]))


async def _chunks(queue: Any, worker: str, *, until: float, took: list[float]) -> None:
    """Leases, renews and seals one chunk after the other."""
    counters, handle = Counters(), QueueHandle(queue)
    await asyncio.sleep(hash(worker) % 1000 / 1000 * RENEW_S)
    held: list[Any] = []
    seal_at = time.monotonic() + hash(worker) % 997 / 997 * CHUNK_S
    while time.monotonic() < until:
        began = time.monotonic()
        if held and began >= seal_at:
            await handle.sealed(worker, held.pop(), ShardCounts(records=PER_SHARD), counters)
            seal_at = began + CHUNK_S
        if not held:
            grant = await handle.lease(worker)
            held = [grant.chunk] if isinstance(grant, Grant) else []
        await handle.renew(worker, held, counters)
        took.append(time.monotonic() - began)
        await asyncio.sleep(RENEW_S)


async def _polled(queue: Any, *, until: float) -> None:
    """Ask for the progress, as the driver does."""
    while time.monotonic() < until:
        await queue.stats.remote()
        await asyncio.sleep(0.5)


async def _pid(actor: Any) -> int:
    pid: int = await actor.__ray_call__.remote(lambda self: os.getpid())
    return pid


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
