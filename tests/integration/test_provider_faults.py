"""Runs over Anthropic's and Bedrock's protocols that do not go smoothly: signatures, clocks, limits and refusals."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.dataset as ds
import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.cluster.commands.doctor import Finding, examine_recipe
from stillhouse.gen.errors import Paused
from stillhouse.gen.simulator import serve, start
from stillhouse.gen.store.local import LocalStore
from stillhouse.gen.views.summary import summarise
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.simulator import SimulatorSettings

PROMPTS = 20
AUTHORISED = {"training_use": "by-authorisation", "authorisation": "letter 7"}
AWS = {
    "region": "us-east-1",
    "access_key_id": "env:TEST_AWS_ID",
    "secret_access_key": "env:TEST_AWS_SECRET",
}
TEACHERS: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "claude-opus-4-8", "api_key": "env:TEST_ANTHROPIC_KEY"},
    "bedrock": {"model": "us.anthropic.claude-opus-4-8-v1:0", "aws": AWS},
}
KEYS = {"anthropic": "sk-ant-test", "bedrock": "AKIDEXAMPLE:the-secret"}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipes look for them."""
    monkeypatch.setenv("TEST_ANTHROPIC_KEY", KEYS["anthropic"])
    for name, value in zip(("ID", "SECRET"), KEYS["bedrock"].split(":"), strict=True):
        monkeypatch.setenv(f"TEST_AWS_{name}", value)


class Shifted:
    """A machine's clock that is off by this many seconds."""

    def __init__(self, off_s: float, *, machine: Callable[[], float] = time.time) -> None:
        self._off_s = off_s
        self._machine = machine

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, as this machine has them."""
        return self._machine() + self._off_s


async def asked(root: Path, api: str, *, simulated: dict[str, Any] | None = None, **how: Any) -> list[dict[str, Any]]:
    """The records of a run against this protocol's simulator."""
    write_source(root, questions(PROMPTS))
    settings = {"api_key": KEYS[api], "log": str(root / "log.jsonl")} | (simulated or {})
    async with await serve(SimulatorSettings.model_validate(settings)) as server:
        teacher = {"name": "t", "api": api, "terms": AUTHORISED} | TEACHERS[api]
        teacher |= {"base_url": server.url.removesuffix("/v1"), "limits": {"in_flight": 8}} | how.pop("teacher", {})
        ask = {"system": "Be brief.", "max_tokens": 400, "reasoning_effort": "low"} | how.pop("ask", {})
        await run_in_process(recipe_of(root, teachers=[teacher], ask=ask), **how)
    return rows(root, "data")


def rows(root: Path, folder: str) -> list[dict[str, Any]]:
    """What a folder of the dataset holds."""
    found: list[dict[str, Any]] = ds.dataset(root / "out" / folder, format="parquet").to_table().to_pylist()
    return found


def served(root: Path) -> Counter[int]:
    """How many requests the teacher answered with which status."""
    return Counter(orjson.loads(line)["status"] for line in (root / "log.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("api", TEACHERS)
async def test_fields_of_single_providers_are_kept(tmp_path: Path, api: str) -> None:
    """Who wrote the reasoning, its signatures, and the tokens written to and read from the cache."""
    system = "Be brief. " * 500
    records = await asked(tmp_path, api, ask={"system": system, "max_tokens": 400, "reasoning_effort": "low"})
    assert len(records) == PROMPTS
    for record in records:
        assert record["reasoning_is_summary"] is True
        (signed,) = orjson.loads(record["reasoning_signatures"])
        assert signed["signature"]
        assert record["refusal_category"] is None
        assert record["input_tokens"] > record["cached_tokens"] + record["cache_write_tokens"] == 1250
    assert sum(record["cache_write_tokens"] for record in records) == 1250


@pytest.mark.parametrize("days", [1, -1])
async def test_a_clock_a_day_off_is_corrected_once(tmp_path: Path, days: int) -> None:
    """By the server's clock, with a report; only requests sent before that are refused."""
    crew: list[Worker] = []
    records = await asked(tmp_path, "bedrock", clock=Shifted(86_400 * days), crew=crew.extend)
    assert len(records) == PROMPTS
    assert served(tmp_path)[403] <= 8
    (note,) = crew[0].counters.notes
    assert "24.0 hours " + ("ahead of" if days > 0 else "behind") in note


async def test_a_wrong_secret_pauses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AWS's message, and without the secret."""
    monkeypatch.setenv("TEST_AWS_SECRET", "another-secret-of-some-length")
    with pytest.raises(Paused, match="signature we calculated does not match") as caught:
        await asked(tmp_path, "bedrock")
    assert "another-secret" not in str(caught.value)
    assert served(tmp_path)[403] < 2 * PROMPTS


@pytest.mark.parametrize("api", TEACHERS)
async def test_limits_and_storms_are_waited_out(tmp_path: Path, api: str) -> None:
    """429 in each provider's words, and an overload."""
    overload = {"kind": "status", "status": 529 if api == "anthropic" else 503, "share": 0.2, "stop_request": 15}
    limits = {"requests_per_minute": 1200, "burst_s": 0.2}
    records = await asked(tmp_path, api, simulated={"faults": [overload], "limits": limits})
    assert len(records) == PROMPTS
    assert served(tmp_path)[429]


def refusing(category: str) -> str:
    """A refusal's body."""
    details = {"type": "refusal", "category": category, "explanation": "It builds a competitor."}
    body: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-8",
        "content": [],
    }
    body |= {"stop_reason": "refusal", "stop_details": details, "usage": {"input_tokens": 9, "output_tokens": 0}}
    return orjson.dumps(body).decode()


@pytest.mark.parametrize(("category", "alarms"), [("frontier_llm", True), ("cyber", False)])
async def test_refusals_are_kept_and_never_asked_again(tmp_path: Path, category: str, alarms: bool) -> None:
    """In rejected/; those that speak of distillation raise an alarm in the log, in status, report and card."""
    crew: list[Worker] = []
    fault = {"kind": "status", "status": 200, "body": refusing(category), "share": 0.3}
    records = await asked(tmp_path, "anthropic", simulated={"faults": [fault]}, crew=crew.extend)
    rejected = rows(tmp_path, "rejected")
    assert len(records) + len(rejected) == PROMPTS == served(tmp_path).total()
    said_so = {(row["reject_reason"], row["refusal"], row["refusal_category"]) for row in rejected}
    assert said_so == {("refused", "It builds a competitor.", category)}
    said = [*crew[0].counters.notes, *summarise(LocalStore(tmp_path / "out")).warnings()]
    assert [("distillation" in words, "do not reword" in words) for words in said] == [(True, True)] * 2 * alarms


def examined(root: Path, api: str, *, simulated: dict[str, Any] | None = None) -> list[Finding]:
    """What doctor finds of the teacher."""
    write_source(root, questions(3))
    with start(SimulatorSettings.model_validate({"api_key": KEYS[api]} | (simulated or {}))) as server:
        teacher = {"name": "t", "api": api, "terms": AUTHORISED} | TEACHERS[api]
        teacher |= {"base_url": server.url.removesuffix("/v1")}
        recipe = recipe_of(root, teachers=[teacher], ask={"max_tokens": 400, "reasoning_effort": "low"})
        return [finding for finding in examine_recipe(recipe) if finding.name == "teacher t"]


def test_doctor_signs_by_the_teachers_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this machine's clock is a day off, and says so."""
    monkeypatch.setattr("stillhouse.cluster.commands.doctor.time.time", Shifted(-86_400, machine=time.time).time)
    asked, clock = examined(tmp_path, "bedrock")
    assert (asked.state, "sent two requests" in asked.message) == ("ok", True), asked
    assert (clock.state, "behind the teacher's" in clock.message) == ("warn", True), clock


def test_doctor_judges_a_refusal_as_a_run_would(tmp_path: Path) -> None:
    """It is an answer, and no record."""
    body: dict[str, object] = {"id": "msg_1", "type": "message", "model": "m", "content": [], "stop_reason": "refusal"}
    fault = {"kind": "status", "status": 200, "body": orjson.dumps(body).decode()}
    (finding,) = examined(tmp_path, "anthropic", simulated={"faults": [fault]})
    assert (finding.state, "would not keep it" in finding.message) == ("warn", True), finding
