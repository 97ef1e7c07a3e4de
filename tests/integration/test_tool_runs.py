"""Runs that offer tools over every protocol: calls, conversations with calls and results, and what trainers read."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.export import Export
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

APIS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}},
    {"name": "now", "parameters": {"type": "object", "properties": {}}},
]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment; the simulator takes any."""
    monkeypatch.setenv("T_KEY", "canary-key-of-the-tests")


def teachers(url: str) -> list[dict[str, Any]]:
    """One of each protocol at the simulator."""
    common: dict[str, Any] = {"api_key": "env:T_KEY", "terms": {"training_use": "permitted"}}
    common |= {"limits": {"in_flight": 4}, "ask": {"max_tokens": 400}}
    bases = {api: url if api == "openai-chat" else url.removesuffix("/v1") for api in APIS}
    return [{"name": api, "api": api, "base_url": bases[api], "model": "m", **common} for api in APIS]


def rows(recipe: Recipe) -> list[dict[str, Any]]:
    """All records."""
    found: list[dict[str, Any]] = pq.read_table(Path(recipe.dataset.path) / "data", partitioning=None).to_pylist()
    return found


async def test_every_protocol_calls_tools_from_a_file(tmp_path: Path) -> None:
    """Each call fits its schema and is inside the assistant's message; streamed ones too."""
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    write_source(tmp_path, questions(60))
    async with await serve(SimulatorSettings()) as server:
        asked = [each | {"stream": number % 2 == 0} for number, each in enumerate(teachers(server.url))]
        changes: dict[str, Any] = {"ask": {"tools": str(tmp_path / "tools.json")}, "dataset": {"messages": True}}
        recipe = recipe_of(tmp_path, teachers=asked, **changes)
        summary = await run_in_process(recipe)
    assert (summary.records, summary.rejected, summary.failed) == (60, 0, 0)
    kept = rows(recipe)
    assert {row["teacher"] for row in kept} == set(APIS)
    for row in kept:
        (call,) = row["completion"][0]["tool_calls"]
        assert call["function"]["name"] in ("add", "now")
        assert row["messages"] == [{**row["prompt"][0], "tool_calls": None}, *row["completion"]]
        assert [json.loads(tool)["function"]["name"] for tool in row["tools"]] == ["add", "now"]
    assert verify(open_dataset(recipe)).ok
    exported = Export(DatasetReader(open_dataset(recipe)), "trl-sft")
    assert all([tool["function"]["name"] for tool in row["tools"]] == ["add", "now"] for row in exported.rows())
    read = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out" / "data"), cache_dir=str(tmp_path / "hf"))
    record = read["train"][0]
    assert record["tools"][0] == TOOLS[0]
    assert isinstance(record["completion"][0]["tool_calls"][0]["function"]["arguments"], dict)


async def test_every_protocol_sends_conversations_with_calls_and_results(tmp_path: Path) -> None:
    """Each row offers its own tools; every turn is kept, and so are the providers' rules on calls and their results."""
    spoken: list[Any] = [
        [
            {"role": "user", "content": f"what is {number} + 1?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": f"c{number}", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
                    {"id": None, "type": "function", "function": {"name": "now", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "content": "noon", "name": "now"},
            {"role": "tool", "content": str(number + 1), "tool_call_id": f"c{number}"},
        ]
        for number in range(40)
    ]
    spoken.append(spoken[0][:3])
    path = tmp_path / "source" / "a.parquet"
    path.parent.mkdir()
    offered = [json.dumps(TOOLS)] * len(spoken)
    ids = [f"q{number}" for number in range(len(spoken))]
    pq.write_table(pa.table({"id": ids, "m": pa.array(spoken), "t": offered}), path)
    async with await serve(SimulatorSettings()) as server:
        source = {"prompt": None, "messages": "m", "tools": "t"}
        recipe = recipe_of(tmp_path, source=source, teachers=teachers(server.url), dataset={"messages": True})
        assert 'add({"a": 1})' in render(preview(recipe))
        summary = await run_in_process(recipe)
    assert (summary.records, summary.bad, summary.failed, summary.rejected) == (40, 1, 0, 0)
    kept = rows(recipe)
    assert {row["teacher"] for row in kept} == set(APIS)
    for row in kept:
        number = int(row["prompt_id"][1:])
        called, now, result = row["prompt"][1:]
        assert called["tool_calls"][0] == spoken[number][1]["tool_calls"][0]
        assert (now["name"], now["tool_call_id"], now["content"]) == ("now", None, "noon")
        assert (result["name"], result["tool_call_id"], result["content"]) == (None, f"c{number}", str(number + 1))
        assert row["messages"][:4] == row["prompt"]
        assert row["messages"][4]["content"] == row["completion"][0]["content"]
    assert verify(open_dataset(recipe)).ok
    exported = list(Export(DatasetReader(open_dataset(recipe)), "trl-sft").rows())
    assert len(exported) == 40
    for row in exported:
        called, now, result = row["prompt"][1:]
        assert [call["function"]["arguments"] for call in called["tool_calls"]] == [{"a": 1}, {}]
        assert "id" not in called["tool_calls"][1]
        assert now == {"role": "tool", "content": "noon", "name": "now"}
        assert result["tool_call_id"] == called["tool_calls"][0]["id"]
