"""Real servers, run against by the real worker: each record is compared with the reply as it passed by."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process
from real_servers import KEY, Recorder, litellm, llama_cpp, recording, why_missing

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator import start
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

pytestmark = pytest.mark.slow

TERMS = {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server."""
    if reason := why_missing("xllamacpp, gguf"):
        pytest.skip(reason)
    with llama_cpp(tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """LiteLLM's proxy."""
    if reason := why_missing("litellm"):
        pytest.skip(reason)
    settings = SimulatorSettings(output_tokens=(20, 40), reasoning="reasoning_content")
    with start(settings) as simulator, litellm(tmp_path_factory.mktemp("litellm"), upstream=simulator.url) as url:
        yield url


def recipe(root: Path, url: str, rows: list[dict[str, Any]], *, model: str, ask: Any = None, **more: Any) -> Recipe:
    """A recipe that asks the server's model, in chunks of one prompt."""
    write_source(root, rows)
    limits = {"in_flight": 4}
    teacher = {"name": "t", "base_url": url, "model": model, "terms": TERMS, "limits": limits, "api_key": "env:SERVER"}
    return recipe_of(root, ask=ask or {}, teachers=[teacher | more], dataset={"prompts_per_shard": 1})


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", KEY)


def stored(root: Path, folder: str) -> list[dict[str, Any]]:
    """The rows of data/, rejected/ or failed/."""
    path = root / "out" / folder
    return ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []


async def test_streams_of_llama_cpp_give_the_same_records(llama: str, tmp_path: Path) -> None:
    """One request at a time with the same seed, and no cache, which moves log-probabilities a little.

    Where a stream ends within a character, the server never sends what it held back for it. And it closes connections
    after streams although it says otherwise: a request may meet one that was just closed, and is sent again.
    """
    ask = {"top_logprobs": 2, "max_tokens": 16, "seed": 5, "temperature": 1.0, "extra": {"cache_prompt": False}}
    twins = []
    for stream in (False, True):
        root = tmp_path / str(stream)
        one = {"finish_reasons": {"length": "stop"}, "limits": {"in_flight": 1}, "stream": stream}
        await run_in_process(recipe(root, llama, questions(10), model="x", ask=ask, **one))
        rows = stored(root, "data") + stored(root, "rejected")
        twins.append(sorted(rows, key=lambda row: str(row["record_id"])))
    assert len(twins[0]) == 10
    for one, other in zip(*twins, strict=True):
        differing = {name for name in one if str(one[name]) != str(other[name])}  # NaN differs from itself
        assert differing <= {"asked_at", "attempts", "latency_s", "response_id", "completion"}, (one, other)
        assert one["completion"][0]["content"].startswith(other["completion"][0]["content"])


async def test_answers_of_llama_cpp_are_recorded(llama: str, tmp_path: Path) -> None:
    """Text, usage, finish, and the ids and alternatives of every token; a prompt too long is a Failure."""
    long = {"id": "long", "question": "why " * 3000}
    ask = {"top_logprobs": 2, "max_tokens": 16, "seed": 5, "temperature": 1.0}
    async with recording(llama) as server:
        rows = [*questions(20), long]
        asked = recipe(tmp_path, server.url, rows, model="x", ask=ask, finish_reasons={"length": "stop"})
        summary = await run_in_process(asked)
    replies = {
        document["id"]: document for each in server.exchanges if "choices" in (document := json.loads(each.body))
    }
    rows = stored(tmp_path, "data") + stored(tmp_path, "rejected")
    assert len(rows) == len(replies) == 20
    assert summary.records >= 15  # noise may look like markup, or like nothing
    for row in rows:
        reply = replies[row["response_id"]]
        (choice,) = reply["choices"]
        assert row["completion"][0]["content"] == choice["message"]["content"]
        assert row["finish_reason_raw"] == choice["finish_reason"]
        usage = reply["usage"]
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert_same_tokens(row, (choice.get("logprobs") or {"content": []})["content"])
    (failed,) = stored(tmp_path, "failed")
    assert (failed["prompt_id"], failed["kind"], failed["attempts"]) == ("long", "too_long", 1)
    assert "exceeds the available context size" in failed["message"]


def assert_same_tokens(row: dict[str, Any], sent: list[dict[str, Any]]) -> None:
    """Ids and log-probabilities, of tokens and of their alternatives."""
    if not sent:
        assert row["token_logprobs"] is None
        return
    assert row["token_ids"] == [token["id"] for token in sent]
    assert row["token_logprobs"] == pytest.approx([token["logprob"] for token in sent])
    assert row["top_ids"] == [[each["id"] for each in token["top_logprobs"]] for token in sent]


async def test_answers_of_a_gateway_are_recorded(gateway: str, tmp_path: Path) -> None:
    """LiteLLM's mock answers, one by one, as they came."""
    async with recording(gateway) as server:
        summary = await run_in_process(recipe(tmp_path, server.url, questions(20), model="noon"))
    assert (summary.records, summary.requests) == (20, 20)
    assert_as_sent(tmp_path, server)


def assert_as_sent(root: Path, server: Recorder) -> None:
    """Each reply that answered is one record, with its text and usage."""
    replies = {document["id"]: document for each in server.exchanges if "id" in (document := json.loads(each.body))}
    rows = {row["response_id"]: row for row in stored(root, "data")}
    assert rows.keys() == replies.keys()
    for key, row in rows.items():
        (choice,), usage = replies[key]["choices"], replies[key]["usage"]
        assert row["completion"][0]["content"] == choice["message"]["content"]
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_two_protocols_behind_one_gateway_share_a_dataset(gateway: str, tmp_path: Path, stream: bool) -> None:
    """Chat completions and Anthropic's messages, by weight: each record comes from one reply."""
    async with recording(gateway) as server:
        chat = {"name": "chat", "base_url": server.url, "model": "chat", "profile": "litellm", "terms": TERMS}
        claude = chat | {"name": "claude", "api": "anthropic", "profile": "auto", "model": "claude", "weight": 2.0}
        both = {"api_key": "env:SERVER", "limits": {"in_flight": 4}, "stream": stream}
        write_source(tmp_path, questions(24))
        claude |= {"ask": {"max_tokens": 500, "reasoning_effort": "low"}}
        claude |= {"extra": {"thinking": {"type": "adaptive", "display": "summarized"}}}
        asked = recipe_of(tmp_path, teachers=[chat | both, claude | both], dataset={"prompts_per_shard": 4})
        summary = await run_in_process(asked)
    assert (summary.records, summary.requests, summary.failed) == (24, 24, 0)
    replies = {exchange.prompt: exchange for exchange in server.exchanges}
    rows = stored(tmp_path, "data")
    assert {row["teacher"] for row in rows} == {"chat", "claude"}
    for row in rows:
        reply = replies[row["prompt"][0]["content"]]
        assert reply.asked["model"] == row["teacher"]
        assert row["finish_reason"] == "stop"
        assert row["completion"][0]["content"].rpartition("#### ")[2].isdecimal()
        assert row["reasoning_source"] == ("reasoning_content" if row["teacher"] == "chat" else "thinking")
        assert row["reasoning_tokens"] == 24
        if not stream:
            assert_same_message(row, json.loads(reply.body))
    assert verify(open_dataset(asked)).ok


def assert_same_message(row: dict[str, Any], reply: dict[str, Any]) -> None:
    """Id, text, thoughts and usage, of either protocol."""
    assert row["response_id"] == reply["id"]
    text, usage = row["completion"][0]["content"], reply["usage"]
    if row["teacher"] == "chat":
        said = reply["choices"][0]["message"]
        assert (row["reasoning"], text) == (said["reasoning_content"], said["content"])
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    else:
        thought, said = reply["content"]
        assert (row["reasoning"], text) == (thought["thinking"], said["text"])
        assert (row["input_tokens"], row["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
        assert json.loads(row["reasoning_signatures"]) == [{"signature": thought["signature"]}]


@pytest.mark.parametrize("api", ["openai-chat", "anthropic"])
async def test_a_key_unknown_to_a_gateway_pauses_the_run(
    gateway: str, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LiteLLM without a database reports it as a 400 about its database."""
    monkeypatch.setenv("SERVER", "sk-unknown-to-the-gateway")
    asked = recipe(tmp_path, gateway, questions(3), model="claude", ask={"max_tokens": 500}, api=api)
    with pytest.raises(Paused, match="check its api_key"):
        await run_in_process(asked)


async def test_a_gateway_s_budget_pauses_the_run(gateway: str, tmp_path: Path) -> None:
    """Exit 3 with LiteLLM's message; the answer that was paid for is a record, and nothing fails."""
    async with recording(gateway) as server:
        with pytest.raises(Paused, match="crossed budget"):
            await run_in_process(recipe(tmp_path, server.url, questions(20), model="poor"))
    assert len(server.exchanges) <= 8
    assert_as_sent(tmp_path, server)
    assert stored(tmp_path, "failed") == []


async def run_for(recipe: Recipe, seconds: float) -> Summary | None:
    """Run it, and stop it as Ctrl-C does if it has not ended by then."""
    workers: list[Worker] = []

    def stop() -> None:
        for worker in workers:
            worker.stop()

    asyncio.get_running_loop().call_later(seconds, stop)
    try:
        return await run_in_process(recipe, crew=workers.extend)
    except Paused:
        return None


async def test_a_gateway_s_rate_limit_is_waited_for(gateway: str, tmp_path: Path) -> None:
    """Three requests in a minute: three records, a handful of refusals, no Failure, and the run continues."""
    async with recording(gateway) as server:
        ended = await run_for(recipe(tmp_path, server.url, questions(20), model="limited"), 6.0)
    assert ended is None
    assert 3 <= server.statuses().count(200) <= 6  # a new minute may have begun
    assert server.statuses().count(429) <= 20
    assert_as_sent(tmp_path, server)
    assert stored(tmp_path, "failed") == []


async def test_a_dead_server_behind_a_gateway_is_waited_for(gateway: str, tmp_path: Path) -> None:
    """Every request fails behind a gateway that lives: nothing fails for good, and little is asked in vain."""
    async with recording(gateway) as server:
        ended = await run_for(recipe(tmp_path, server.url, questions(20), model="dead"), 6.0)
    assert ended is None
    assert set(server.statuses()) == {500}
    assert len(server.exchanges) <= 20
    assert stored(tmp_path, "failed") == stored(tmp_path, "data") == []
