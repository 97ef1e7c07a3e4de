"""A journal's disk that fills up or fails under a run: asking stops in time, and nothing received is asked again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import questions, recipe_of, write_source
from faults.history import check
from harness import run_in_process

from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator import serve
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS, ANSWER_TOKENS, DISK_MB = 1000, 10_000, 50


@contextmanager
def small_disk(folder: Path, *, mb: int) -> Iterator[Path]:
    """A small file system of its own; skips the test if it can't be made."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(disk: Path, *, mb: int) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", f"remount,size={mb}m", str(disk)], check=True)


async def test_a_full_disk_stops_requests_before_anything_is_lost(tmp_path: Path) -> None:
    """Row 53: the run pauses while the disk can still take what is in flight; with more room it resumes and repeats
    nothing.
    """
    write_source(tmp_path, questions(PROMPTS))
    log = tmp_path / "served.jsonl"
    told = SimulatorSettings(output_tokens=(ANSWER_TOKENS, ANSWER_TOKENS), latency_s=0.05, log=str(log))
    with small_disk(tmp_path / "disk", mb=DISK_MB) as disk:
        async with await serve(told) as server:
            recipe = recipe_of(
                tmp_path,
                teachers=[
                    {
                        "name": "t",
                        "base_url": server.url,
                        "model": "m",
                        "limits": {"in_flight": 64},
                        "terms": {"training_use": "permitted"},
                    }
                ],
                dataset={"path": str(disk / "out"), "prompts_per_shard": PROMPTS},
            )
            with pytest.raises(Paused, match=r"MB are free.*Free disk space"):
                await run_in_process(recipe)
            asked = len(log.read_text().splitlines())
            grow(disk, mb=10 * DISK_MB)
            summary = await run_in_process(recipe)
        assert 0 < asked < PROMPTS
        assert (summary.records, summary.remaining, summary.maybe_billed) == (PROMPTS, 0, 0)
        figures = check(disk / "out", log, samples=1, in_flight=0, kills=0)
        assert figures["answered"] == PROMPTS
