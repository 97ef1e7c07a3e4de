"""A store that refuses or is gone in the middle of a run: asking stops, journals wait, nothing is asked again."""

import asyncio
from pathlib import Path

import pytest
from builders import questions, recipe_of, write_source
from faults.history import check
from harness import run_in_process
from s3_server import Fault, S3Server

from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator import serve
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS = 200


def asking(tmp_path: Path, url: str, s3: S3Server) -> Recipe:
    """A recipe of ten chunks, into the S3 server."""
    write_source(tmp_path, questions(PROMPTS))
    teacher = {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}}
    return recipe_of(
        tmp_path,
        teachers=[teacher | {"limits": {"in_flight": 8}}],
        dataset={"path": f"{s3.url}/out", "endpoint_url": s3.endpoint_url, "prompts_per_shard": 20},
        run={"journal_dir": str(tmp_path / "node"), "ship_every_s": 0.2},
    )


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "access denied"),
        (403, "ExpiredToken", "credentials have expired"),
        (404, "NoSuchBucket", "no such bucket"),
    ],
)
@pytest.mark.parametrize("path", ["/data/", "/journal/"])
async def test_a_store_that_starts_refusing_stops_the_requests(
    tmp_path: Path, s3: S3Server, status: int, code: str, words: str, path: str
) -> None:
    """Row 52: the run ends with the store's message; once that is fixed, only what was never asked is asked."""
    log = tmp_path / "served.jsonl"
    async with await serve(SimulatorSettings(latency_s=0.1, log=str(log))) as server:
        recipe = asking(tmp_path, server.url, s3)
        run = asyncio.create_task(run_in_process(recipe))
        while not log.exists() or lines(log) < PROMPTS // 4:  # noqa: ASYNC110 - the teacher's own log
            await asyncio.sleep(0.01)
        s3.gate.faults.append(Fault("answer", path=path, times=10_000, status=status, code=code))
        with pytest.raises(Paused, match=f"{words}.*run the same command again"):
            await run
        asked = lines(log)
        s3.gate.faults.clear()
        summary = await run_in_process(recipe)
    assert PROMPTS // 4 <= asked < PROMPTS
    assert (summary.state, summary.records, summary.maybe_billed) == ("done", PROMPTS, 0)
    figures = check(s3.data / s3.bucket / "out", log, samples=1, in_flight=0, kills=0)
    assert figures["served"] == PROMPTS


def lines(file: Path) -> int:
    """The number of lines it has."""
    return file.read_bytes().count(b"\n")
