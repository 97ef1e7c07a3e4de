"""Runs over each protocol against the simulator: every column that the reply fills, and a key that never shows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.cluster.commands.doctor import examine_recipe
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator import serve, start
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

KEY = "canary-key-4f9d-for-the-tests"
TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
APIS: dict[str, dict[str, Any]] = {
    "openai-responses": {"ask": {"reasoning_effort": "low"}, "extra": {"reasoning": {"summary": "auto"}}},
    "gemini": {"ask": {"reasoning_effort": "low", "seed": 3}},
    "anthropic": {"ask": {"max_tokens": 2000}, "extra": {"thinking": {"type": "enabled", "budget_tokens": 1024}}},
    "bedrock": {
        "ask": {"max_tokens": 2000},
        "extra": {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}},
    },
}
"""What each teacher is asked with, by its protocol."""
SOURCES = {
    "openai-responses": "reasoning_item",
    "gemini": "thought_part",
    "anthropic": "thinking",
    "bedrock": "reasoningContent",
}
SUMMARIES = {"openai-responses": True, "gemini": True, "anthropic": None, "bedrock": None}
"""Of Claude's models it depends on the model."""
WITH_LOGPROBS = ("openai-chat", "openai-responses", "gemini")


def teacher(api: str, url: str, **changes: Any) -> dict[str, Any]:
    """A teacher of this protocol at the simulator, whose version may be left out."""
    given: dict[str, Any] = {"name": api, "api": api, "base_url": url.removesuffix("/v1"), "model": f"{api}-model"}
    given |= {"api_key": "env:T_KEY", "limits": {"in_flight": 4}, "price": {"input": 1, "output": 10}}
    return given | {"terms": {"training_use": "permitted"}} | APIS.get(api, {}) | changes


def settings(**changes: Any) -> SimulatorSettings:
    """One that wants the key."""
    return SimulatorSettings.model_validate({"api_key": KEY, "output_tokens": (20, 40)} | changes)


def rows(recipe: Recipe, folder: str = "data") -> list[dict[str, Any]]:
    """All rows of a folder of the dataset."""
    path = Path(recipe.dataset.path) / folder
    return pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment."""
    monkeypatch.setenv("T_KEY", KEY)


async def test_all_protocols_share_one_dataset(tmp_path: Path) -> None:
    """By weight, each record with what its protocol says; verified, and without the key."""
    write_source(tmp_path, questions(80))
    async with await serve(settings()) as server:
        recipe = recipe_of(tmp_path, teachers=[teacher(api, server.url) for api in APIS])
        summary = await run_in_process(recipe)
        again = await run_in_process(recipe)
    assert (summary.records, summary.failed, summary.rejected, again.requests) == (80, 0, 0, 0)
    by_teacher = {api: [row for row in rows(recipe) if row["teacher"] == api] for api in APIS}
    assert all(len(kept) > 5 for kept in by_teacher.values())
    for api, kept in by_teacher.items():
        for row in kept:
            assert row["completion"][0]["content"].rpartition("#### ")[2].isdecimal()
            assert row["reasoning"]
            assert row["reasoning_source"] == SOURCES[api]
            assert row["reasoning_tokens"] == (None if api == "bedrock" else 24)
            assert row["cost_usd"] == pytest.approx((row["input_tokens"] + 10 * row["output_tokens"]) / 1e6)
            assert (row["model"], row["finish_reason"]) == (None if api == "bedrock" else f"{api}-model", "stop")
            assert row["response_id"]
            assert row["reasoning_is_summary"] == SUMMARIES[api]
            assert json.loads(row["reasoning_signatures"])
            assert row["refusal_category"] is None
            assert row["cache_write_tokens"] == (None if api == "gemini" else 0)
    assert verify(open_dataset(recipe)).ok
    assert not any(KEY.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


NOT_KEPT = {
    "openai-chat": {"object", "created", "system_fingerprint", "usage.total_tokens"},
    "openai-responses": {"object", "created_at", "max_output_tokens", "tool_choice", "truncation", "text.format.type"}
    | {"output.id", "output.type", "output.summary.type", "output.content.type", "usage.total_tokens"},
    "gemini": {"usageMetadata.totalTokenCount", "usageMetadata.candidatesTokenCount"},
    "anthropic": {"type", "content.type", "usage.service_tier"},
    "bedrock": {"usage.totalTokens"},
}
"""What of a reply is in raw/ alone: kinds of objects, echoes of the request, and sums of what the record has."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in a document with its path; elements of lists have no path of their own."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, path)
    elif value not in (None, "", 0, False, True):
        yield path, value


@pytest.mark.parametrize("api", NOT_KEPT)
async def test_a_record_holds_what_its_reply_said(tmp_path: Path, api: str) -> None:
    """Every value that is not empty, of answers with reasoning and of tool calls."""
    write_source(tmp_path, questions(12))
    async with await serve(settings(tool_calls=0.5, reasoning="reasoning_content")) as server:
        base_url = server.url if api == "openai-chat" else server.url.removesuffix("/v1")
        asked = teacher(api, server.url, base_url=base_url)
        recipe = recipe_of(tmp_path, teachers=[asked], ask={"tools": [TOOL]})
        await run_in_process(recipe)
    records = {row["record_id"]: row for row in rows(recipe)}
    replies = rows(recipe, "_stillhouse/raw")
    assert len(records) == len(replies) == 12
    calls = [record["completion"][0]["tool_calls"] for record in records.values()]
    assert any(calls)
    assert not all(calls)
    for reply in replies:
        record = records[reply["record_id"]]
        said = json.dumps(record, default=str)
        lost = {path for path, value in leaves(json.loads(reply["body"])) if not is_in(said, value)}
        assert lost <= NOT_KEPT[api], record


def is_in(text: str, value: Any) -> bool:
    """True if the JSON text holds the value, as a number or as a text within another one."""
    plain = re.escape(json.dumps(value).strip('"'))
    return re.search(rf"(?<![\w.]){plain}(?![\w.])", text) is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_claude_on_vertex_works(tmp_path: Path, stream: bool) -> None:
    """Its records are those of Anthropic's own API."""
    write_source(tmp_path, questions(12))
    async with await serve(settings()) as server:
        url = f"{server.url.removesuffix('/v1')}/projects/p/locations/us-east5"
        fields = {"base_url": url, "model": "claude-opus-4-8@20260401", "extra": {}, "stream": stream}
        asked = teacher("anthropic", server.url, ask={"max_tokens": 2000, "reasoning_effort": "low"}) | fields
        terms = {"training_use": "by-authorisation", "authorisation": "letter 7"}
        recipe = recipe_of(tmp_path, teachers=[asked | {"terms": terms}])
        summary = await run_in_process(recipe)
    assert (summary.records, summary.requests) == (12, 12)
    for row in rows(recipe):
        assert (row["model"], row["finish_reason_raw"]) == ("claude-opus-4-8@20260401", "end_turn")
        assert (row["reasoning_source"], row["reasoning_is_summary"]) == ("thinking", True)
        assert row["reasoning"]
    assert verify(open_dataset(recipe)).ok


async def test_the_columns_do_not_depend_on_the_protocols(tmp_path: Path) -> None:
    """One that was bound to chat completions lacks those of other protocols, also after a change of protocol."""
    write_source(tmp_path, questions(12))
    async with await serve(settings()) as server:
        other = teacher("gemini", server.url, ask={}, name="t", model="m")
        recipe = recipe_of(tmp_path, teachers=[other | {"api": "openai-chat", "base_url": server.url}])
        await run_in_process(recipe, limit=5)
        summary = await run_in_process(recipe_of(tmp_path, teachers=[other]))
    assert summary.records == 12
    assert all("reasoning_is_summary" not in row for row in rows(recipe))
    assert len({row["response_id"].partition("-")[0] for row in rows(recipe)}) == 2
    assert verify(open_dataset(recipe)).ok


@pytest.mark.parametrize("api", WITH_LOGPROBS)
async def test_log_probabilities_are_kept(tmp_path: Path, api: str) -> None:
    """With as many alternatives as asked; by their bytes, and by ids where the server gives them."""
    write_source(tmp_path, questions(3))
    async with await serve(settings()) as server:
        asked = teacher(api, server.url, ask={"top_logprobs": 3}, extra={})
        with_ids = teacher("openai-chat", server.url, ask={"top_logprobs": 3, "token_ids": True}, name="ids", extra={})
        recipe = recipe_of(tmp_path, teachers=[asked, with_ids], route="each")
        await run_in_process(recipe)
    found = rows(recipe)
    assert len(found) == 6
    for row in found:
        has_ids = api == "gemini" or row["teacher"] == "ids"
        assert (row["tokens"] is None) == (row["top_tokens"] is None) == has_ids
        assert (row["token_ids"] is None) == (row["top_ids"] is None) != has_ids
        if not has_ids:
            assert b"".join(row["tokens"]).decode() == row["completion"][0]["content"]
        tops = zip(row["top_ids"] or row["top_tokens"], row["token_ids"] or row["tokens"], strict=True)
        assert all(len(top) == 3 and top[0] == chosen for top, chosen in tops)
        assert [logprobs[0] for logprobs in row["top_logprobs"]] == row["token_logprobs"]


@pytest.mark.parametrize("api", APIS)
async def test_tool_calls_are_kept(tmp_path: Path, api: str) -> None:
    """All in the same form."""
    write_source(tmp_path, questions(3))
    schema = {"name": "add", "input_schema": TOOL["parameters"]}
    spec = {"toolSpec": {"name": "add", "inputSchema": {"json": TOOL["parameters"]}}}
    given: dict[str, dict[str, Any]] = {
        "openai-responses": {"tools": [{"type": "function", **TOOL}]},
        "gemini": {"tools": [{"functionDeclarations": [TOOL]}]},
        "anthropic": {"tools": [schema]},
        "bedrock": {"toolConfig": {"tools": [spec]}},
    }
    async with await serve(settings()) as server:
        recipe = recipe_of(tmp_path, teachers=[teacher(api, server.url, extra=given[api])])
        await run_in_process(recipe)
    kept = rows(recipe)
    assert len(kept) == 3
    for row in kept:
        (call,) = json.loads(row["tool_calls"])
        assert call["function"]["name"] == "add"
        assert json.loads(call["function"]["arguments"]).keys() == {"a"}
        assert row["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("api", APIS)
async def test_limits_are_waited_out_and_failures_retried(tmp_path: Path, api: str) -> None:
    """In each provider's own words."""
    write_source(tmp_path, questions(20))
    faults = [{"kind": "status", "status": status, "share": 0.1} for status in (500, 503)]
    limits = {"requests_per_minute": 1200}
    async with await serve(settings(faults=faults, limits=limits)) as server:
        summary = await run_in_process(recipe_of(tmp_path, teachers=[teacher(api, server.url)]))
    assert (summary.records, summary.failed) == (20, 0)


@pytest.mark.parametrize("api", APIS)
async def test_a_refused_key_pauses_the_run(tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not shown."""
    monkeypatch.setenv("T_KEY", "canary-wrong-key-for-the-tests")
    write_source(tmp_path, questions(3))
    async with await serve(settings()) as server:
        with pytest.raises(Paused, match="check its api_key") as caught:
            await run_in_process(recipe_of(tmp_path, teachers=[teacher(api, server.url)]))
    assert "canary-wrong" not in str(caught.value)


@pytest.mark.parametrize("api", APIS)
def test_doctor_tests_every_protocol(tmp_path: Path, api: str) -> None:
    """And judges its answer as a run would."""
    write_source(tmp_path, questions(3))
    with start(settings()) as server:
        recipe = recipe_of(tmp_path, teachers=[teacher(api, server.url)], ask={"tools": [TOOL]})
        *_, finding = examine_recipe(recipe)
    assert finding.state == "ok", finding
    assert f"answers as {api}-model" in finding.message


async def test_answers_of_all_protocols_fit_one_schema(tmp_path: Path) -> None:
    """Whole or streamed; teachers without structured output are asked too, and rejected by name."""
    bounded = {"type": "integer", "minimum": 0, "maximum": 999}
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": {"type": "string"}, "minItems": 2}, "answer": bounded},
        "required": ["steps", "answer"],
    }
    write_source(tmp_path, questions(48))
    async with await serve(settings()) as server:
        asked = [teacher(api, server.url, ask={"max_tokens": 2000}, extra={}, stream=api == "bedrock") for api in APIS]
        asked.append(teacher("openai-chat", server.url, ask={}, extra={}, base_url=server.url))
        asked.append(asked[-1] | {"name": "prose", "profile": "deepseek"})
        recipe = recipe_of(tmp_path, teachers=asked, ask={"schema": schema, "accept": 1, "at_most": 3})
        summary = await run_in_process(recipe)
        again = await run_in_process(recipe)
    assert (summary.failed, again.requests, verify(open_dataset(recipe)).ok) == (0, 0, True)
    kept = rows(recipe)
    assert len({row["teacher"] for row in kept}) == len(APIS) + 1
    for row in kept:
        answer = json.loads(row["completion"][0]["content"])
        assert answer["answer"] == int(row["prompt"][0]["content"].split()[2]) + 1
        assert row["checks"]["schema"]["accepted"]
    rejected = rows(recipe, "rejected")
    assert {row["reject_reason"] for row in rejected} == {"check:schema"}
    assert "prose" in {row["teacher"] for row in rejected}
    assert summary.rejected == len(rejected) > 3
