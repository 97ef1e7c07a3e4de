"""Result files that contain what they should not, lack what they should contain, or are larger than memory."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from batch_recipes import APIS, batched, run
from batch_wire import Wire
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.simulator.server import Server
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import Access, Answered, Batch
from stillhouse.gen.teachers.batches.calls import Lines
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

JUNK = [
    b"<html>502 Bad Gateway</html>",
    b"{",
    b"null",
    b"[1, 2]",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"custom_id": 7, "key": 7, "recordId": 7}',
    b'{"custom_id": "no-such-intent-3", "key": "no-such-intent-3", "recordId": "no-such-intent-3"}',
    b'{"error": {"message": "the service is down"}}',
]


def key_of(line: bytes) -> tuple[str, str]:
    """The field with a result's id, and the id."""
    row = json.loads(line)
    field = next(each for each in ("custom_id", "key", "recordId") if each in row)
    return field, row[field]


def of_another(line: bytes, key: str) -> bytes:
    """The same result under another id."""
    field, own = key_of(line)
    return line.replace(f'"{field}":"{own}"'.encode(), f'"{field}":"{key}"'.encode())


def spoiled(lines: list[bytes]) -> list[bytes]:
    """Between junk and results of another intent: each result, and then the next one's text under its id."""
    strangers = [of_another(each, "f" * 24 + f"-{place}") for place, each in enumerate(lines)]
    outside = [of_another(each, f"{key_of(each)[1].partition('-')[0]}-{10**6 + n}") for n, each in enumerate(lines)]
    again = [of_another(lines[n - 1], key_of(each)[1]) for n, each in enumerate(lines)]
    return [*JUNK, *strangers, *outside, *lines, *again, *JUNK]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_junk_foreign_and_duplicate_results_change_nothing(tmp_path: Path, api: str) -> None:
    """The first result of a request is its answer; anything that isn't a result of this batch is skipped."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire = batched(tmp_path, server, api=api), Wire()
        wire.results = spoiled
        summary = await run_in_process(recipe, transport=wire.transport)
        assert (summary.records, summary.failed, summary.maybe_billed) == (10, 0, 0)
        rows = pq.read_table(tmp_path / "out" / "data", columns=["prompt", "completion"]).to_pylist()
        for row in rows:
            number = int(row["prompt"][-1]["content"].split()[2])
            assert row["completion"][-1]["content"].endswith(f"#### {number + 1}")
        assert len(rows) == 10

    lines = run(tmp_path, test)
    assert set(Counter(line["prompt"] for line in lines).values()) == {1}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", APIS)
def test_only_missing_results_are_asked_for_again(tmp_path: Path, api: str) -> None:
    """It counts as maybe billed, because nothing shows if the provider served it."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire, cut = batched(tmp_path, server, api=api, dataset={"prompts_per_shard": 100}), Wire(), []

        def without_three(lines: list[bytes]) -> list[bytes]:
            cut.append(len(lines))
            return lines[3:] if len(cut) == 1 else lines

        wire.results = without_three
        summary = await run_in_process(recipe, transport=wire.transport)
        assert (summary.records, summary.failed, summary.maybe_billed) == (10, 0, 3)
        assert cut == [10, 3]

    run(tmp_path, test)


def memory_bytes() -> int:
    """The memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_200_mb_result_file_is_streamed() -> None:
    """Over HTTP, line by line: memory does not grow with the file."""
    answer = {"status_code": 200, "body": {"choices": [{"message": {"content": "x" * 40_000}}]}}
    row = json.dumps({"custom_id": "f" * 24 + "-1", "response": answer, "error": None}).encode() + b"\n"
    rows = 200 * 10**6 // len(row)
    terms = {"license": "MIT", "training_use": "permitted", "url": "https://a.b", "seen_on": "2026-11-22"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (rows * len(row)))
        for _ in range(rows):
            writer.write(row)
            await writer.drain()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        given = {"name": "t", "api": "openai-chat", "profile": "openai", "base_url": url, "model": "m", "terms": terms}
        api = batches_of(Teacher.model_validate(given), BatchSettings())
        seen = 0
        before = most = memory_bytes()

        async def take(line: bytes) -> None:
            nonlocal seen, most
            seen += isinstance(api.read(line), Answered)
            if seen % 100 == 0:
                most = max(most, memory_bytes())

        (request,) = api.results(Batch("b", "ended", outputs=("file-1",)), Access(url, Credentials("k"), 0.0))
        transport, lines = HttpTransport(), Lines(take)
        await transport.receive(request, stall_timeout_s=60, take=lines.feed)
        await lines.end()
        await transport.close()
        server.close()
        assert seen == rows
        assert most - before < 40_000_000

    asyncio.run(test())
