"""What the bare scripts share: workers that draw from one iterator, rows in memory, one Parquet file at the end.

This is the least that does the work: no journal, no resume, no dedup, no limiter; a 429 is waited off, any other status
but 200 ends the script.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import uvloop

HEADERS = {"content-type": "application/json", "accept": "application/json"}

Answer: TypeAlias = tuple[int, str | None, bytes]
"""(status, Retry-After, body)"""
Post: TypeAlias = Callable[[bytes], Awaitable[Answer]]
Record: TypeAlias = tuple[str, str, str, str, int, int]
"""Values of the COLUMNS."""

COLUMNS = ("prompt_id", "prompt", "completion", "finish_reason", "input_tokens", "output_tokens")


def main(ask_all: Callable[[argparse.Namespace], Coroutine[Any, Any, list[Record]]]) -> None:
    """Ask all prompts by `ask_all`, write what it returns."""
    parser = argparse.ArgumentParser()
    for name in ("--url", "--prompts", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    settings = parser.parse_args()
    records = uvloop.run(ask_all(settings))
    columns = dict(zip(COLUMNS, zip(*records, strict=True), strict=True))
    pq.write_table(pa.table(columns), settings.out, compression="zstd")


async def asked(prompts: str, *, in_flight: int, post: Post) -> list[Record]:
    """The records of all prompts of a JSONL file, in the order of the answers."""
    rows = _rows(prompts)
    records: list[Record] = []

    async def work() -> None:
        for row in rows:
            messages = [{"role": "user", "content": row["prompt"]}]
            body = json.dumps({"model": "m", "messages": messages, "temperature": 0.7, "max_tokens": 512}).encode()
            status, retry_after, reply = await post(body)
            while status == 429:
                await asyncio.sleep(float(retry_after or 1))
                status, retry_after, reply = await post(body)
            if status != 200:
                raise RuntimeError(f"expected status 200, got {status}: {reply[:200]!r}")
            records.append(_record(row, json.loads(reply)))

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return records


def _rows(prompts: str) -> Iterator[dict[str, str]]:
    with Path(prompts).open() as lines:
        for line in lines:
            yield json.loads(line)


def _record(row: dict[str, str], reply: dict[str, Any]) -> Record:
    choice, usage = reply["choices"][0], reply["usage"]
    text, finish_reason = choice["message"]["content"], choice["finish_reason"]
    return row["id"], row["prompt"], text, finish_reason, usage["prompt_tokens"], usage["completion_tokens"]
