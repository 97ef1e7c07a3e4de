"""Keys stay where they are used, whatever a teacher says back: no byte of what a run leaves holds one."""

import contextlib
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.gen import simulator
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.journal.frames import frames
from stillhouse.gen.simulator import serve
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings


def new_key() -> str:
    """A key in no known format."""
    return f"canary/{secrets.token_hex(12)}"


def echo(key: str) -> str:
    """A completion that says the key in every place it has."""
    message = {"role": "assistant", "content": f"the key is {key}, I think"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    choice = {"finish_reason": "stop", "message": message}
    return json.dumps({"id": f"id-{key}", "model": f"m-{key}", "choices": [choice], "usage": usage})


def holding(folder: Path, key: str) -> list[str]:
    """The files below the folder, and what is compressed in them, that hold the key or its head."""
    needle = key[:12].encode()
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(needle in data for data in contents(path)):
            found.append(str(path.relative_to(folder)))
    return found


def contents(path: Path) -> Iterator[bytes]:
    """The file's bytes, and those that a reader makes of them."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.ParquetFile(io.BytesIO(data)).read()
        yield repr(table.to_pylist()).encode() + repr(table.schema.metadata).encode()
    elif "journal" in path.parts and data:
        yield b"".join(frame.body for frame in frames(io.BytesIO(data), origin=path.name))


def keyed(tmp_path: Path, url: str, reference: str) -> Recipe:
    """A recipe whose teacher wants a key."""
    terms = {"training_use": "permitted"}
    teacher = {"name": "t", "base_url": url, "model": "m", "api_key": reference, "terms": terms}
    return recipe_of(tmp_path, teachers=[teacher | {"max_attempts": 1}])


@pytest.mark.parametrize("where", ["env", "file"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200},
        {
            "status": 401,
            "body": '{"error": {"message": "Incorrect API key provided: KEY. See https://host/v1?key=KEY"}}',
        },
        {"status": 400, "share": 0.5, "body": '{"error": {"message": "no such model for KEY"}}'},
        {"status": 503, "share": 0.2, "body": "<html>KEY</html>", "headers": {"x-echo": "KEY"}},
        {"status": 401, "body": "", "headers": {"x-amzn-errortype": "KEY", "content-type": "x; key=KEY"}},
        {"status": 307, "share": 0.5, "body": "", "headers": {"location": "http://host/?key=KEY"}},
    ],
    ids=lambda fault: str(fault["status"]),
)
async def test_a_run_writes_no_key_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], where: str
) -> None:
    """A key echoed in answers, refusals and headers is not in the dataset, its journals, the error, or any repr."""
    key = new_key()
    reference = f"file:{tmp_path}/key"
    if where == "env":
        monkeypatch.setenv("T_KEY", key)
        reference = "env:T_KEY"
    (tmp_path / "key").write_text(key + "\n")
    body = str(fault.get("body", echo(key))).replace("KEY", key)
    headers = {name: value.replace("KEY", key) for name, value in fault.get("headers", {}).items()}
    write_source(tmp_path, questions(30))
    said: list[str] = []

    def crew(workers: Any) -> None:
        for worker in workers:
            said.extend(map(repr, parts_of(worker)))

    told = fault | {"kind": "status", "body": body, "headers": headers}
    async with await serve(SimulatorSettings.model_validate({"api_key": key, "faults": [told]})) as server:
        recipe = keyed(tmp_path, server.url, reference)
        with contextlib.suppress(StillhouseError) if fault["status"] != 200 else contextlib.nullcontext():
            try:
                said.append(repr(await run_in_process(recipe, crew=crew)))
            except StillhouseError as error:
                said.append(repr(error))
                raise
    assert any((tmp_path / "out").rglob("*"))
    assert holding(tmp_path / "out", key) == []
    assert not any(key[:12] in words for words in [*said, repr(recipe), recipe.model_dump_json()])
    if fault["status"] == 200:
        (record,) = pq.read_table(tmp_path / "out" / "data", partitioning=None).slice(0, 1).to_pylist()
        assert record["completion"][0]["content"] == "the key is [key], I think"
        assert (record["model"], record["response_id"]) == ("m-[key]", "id-[key]")


def parts_of(worker: Worker) -> Iterator[object]:
    """The worker and what it holds."""
    yield worker
    yield from vars(worker).values()


async def test_an_ordinary_word_used_as_a_key_stays_in_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers without keys are given `EMPTY`; the same word in an answer is data."""
    monkeypatch.setenv("T_KEY", "EMPTY")
    write_source(tmp_path, questions(1))
    faults = [{"kind": "status", "status": 200, "body": echo("EMPTY")}]
    async with await serve(SimulatorSettings.model_validate({"faults": faults})) as server:
        await run_in_process(keyed(tmp_path, server.url, "env:T_KEY"))
    (record,) = pq.read_table(tmp_path / "out" / "data", partitioning=None).to_pylist()
    assert record["completion"][0]["content"] == "the key is EMPTY, I think"


@pytest.mark.parametrize("status", [200, 401])
def test_processes_write_no_key_anywhere(tmp_path: Path, status: int) -> None:
    """`stillhouse run` with its own Ray leaves no key on its screen, in the dataset or in Ray's session folder."""
    key = new_key()
    write_source(tmp_path, questions(30))
    body = echo(key) if status == 200 else json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}})
    settings = {"faults": [{"kind": "status", "status": status, "body": body}]}
    # Short: the paths of Ray's sockets may have 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as ray,
        simulator.start(SimulatorSettings.model_validate(settings)) as teacher,
    ):
        recipe = keyed(tmp_path, teacher.url, "env:T_KEY").model_dump(mode="json", exclude_none=True)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        ran = subprocess.run(
            [sys.executable, "-m", "stillhouse.cluster.cli", "run", str(tmp_path / "recipe.yaml"), "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"T_KEY": key, "RAY_TMPDIR": ray},
        )
        assert ran.returncode == (0 if status == 200 else 3), ran.stderr
        assert any(Path(ray).rglob("*.log")), "Ray keeps its session elsewhere"
        assert holding(Path(ray), key) == []
    assert key[:12] not in ran.stdout + ran.stderr
    assert holding(tmp_path / "out", key) == []
