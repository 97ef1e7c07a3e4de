"""Rows 1 to 8 of the faults: limits and balances that a teacher reports hold for all workers of the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from faults.wire import at, most_at_once, served, setup, status
from harness import run_in_process

from stillhouse.gen.errors import Paused

PROPAGATION_S = 1.2
"""After this time, a wait stated to one worker holds for all: half a lease, and the calls."""

GEMINI_PER_DAY = json.dumps(
    [
        {
            "error": {
                "code": 429,
                "message": "You exceeded your current quota.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
                    {"retryDelay": "1s"},
                ],
            }
        }
    ]
)


def gemini_wait(seconds: float) -> str:
    """A 429 of Gemini's OpenAI-compatible endpoint: no header, and the wait in RetryInfo."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}]
    return json.dumps(
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota", "details": details}}]
    )


def openai_error(code: str) -> str:
    """An error body of OpenAI's."""
    return json.dumps({"error": {"message": "no", "type": code, "code": code}})


@pytest.mark.parametrize(
    "order",
    [{"headers": {"retry-after": "3"}}, {"headers": {"retry-after-ms": "3000"}}, {"body": gemini_wait(3.0)}],
    ids=["seconds", "milliseconds", "RetryInfo"],
)
async def test_a_wait_holds_for_every_worker(tmp_path: Path, order: dict[str, Any]) -> None:
    """Rows 1, 2, 5: 429 with a wait, in a header or in Gemini's body -> nobody sends before it ends.

    No attempt is used up: one is all that each sample has.
    """
    recipe = setup(tmp_path, prompts=40, per_shard=5, max_attempts=1, limits={"in_flight": 4})
    log = tmp_path / "log"
    async with at(
        recipe, {"log": str(log), "latency_s": 0.02, "faults": [status(429, stop_request=4, **order)]}
    ) as asked:
        summary = await run_in_process(asked, workers=2)
    assert (summary.records, summary.failed, summary.maybe_billed) == (40, 0, 0)
    lines = served(log)
    first = min(line["time"] for line in lines if line["status"] == 429)
    between = [line["time"] - first for line in lines if PROPAGATION_S < line["time"] - first < 3.0]
    assert not between
    assert any(line["status"] == 200 for line in lines)


@pytest.mark.parametrize("value", ["soon", "0"])
async def test_a_wait_of_zero_does_not_cause_a_busy_loop(tmp_path: Path, value: str) -> None:
    """Row 4: an unusable or tiny Retry-After -> no crash, and the teacher gets a break."""
    recipe = setup(tmp_path, prompts=8, limits={"in_flight": 8})
    faults = [status(429, body="", stop_s=3.0, headers={"retry-after": value})]
    log = tmp_path / "log"
    async with at(recipe, {"log": str(log), "faults": faults}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed) == (8, 0)
    refused = sum(line["status"] == 429 for line in served(log))
    assert refused <= 8 * 8


@pytest.mark.parametrize(
    "fault",
    [
        status(429, body=GEMINI_PER_DAY),
        status(429, body=openai_error("insufficient_quota")),
        status(429, body=openai_error("credit_balance_exhausted")),
        status(402),
    ],
    ids=["per day", "insufficient_quota", "credit_balance_exhausted", "402"],
)
@pytest.mark.parametrize("workers", [1, 2])
async def test_an_empty_account_pauses_the_run(tmp_path: Path, fault: dict[str, Any], workers: int) -> None:
    """Rows 6, 7: daily quota or money used up -> nothing is sent after those in flight; exit 3; answers kept;
    resumable.

    A worker stops at the first refusal that it gets itself. The first to stop leaves its share of the limit to the
    other, which may use all of it before its own first refusal arrives.
    """
    recipe = setup(tmp_path, prompts=200, limits={"in_flight": 4})
    log = tmp_path / "log"
    broke = {"log": str(log), "latency_s": 0.05, "faults": [fault | {"start_request": 30}]}
    async with at(recipe, broke) as asked:
        with pytest.raises(Paused) as raised:
            await run_in_process(asked, workers=workers)
    assert raised.value.exit_code == 3
    refused = [line for line in served(log) if line["fault"]]
    answered = sum(line["status"] == 200 for line in served(log))
    assert 1 <= len(refused) <= 4 * workers
    assert answered == 30
    async with at(recipe, {"first_serial": 1000}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.requests, summary.maybe_billed) == (200, 200 - answered, 0)


async def test_slow_down_halves_the_requests_in_flight(tmp_path: Path) -> None:
    """Row 8: 429 `slow_down` -> half, and no quick way back; the regrowth is in tests/unit/test_ledger.py."""
    recipe = setup(tmp_path, prompts=60, limits={"in_flight": 8})
    body, log = openai_error("slow_down"), tmp_path / "log"
    fault = status(429, body=body, stop_request=8, headers={"retry-after-ms": "1500"})
    async with at(recipe, {"log": str(log), "latency_s": 0.05, "faults": [fault]}) as asked:
        assert (await run_in_process(asked)).records == 60
    assert 1 <= most_at_once([line for line in served(log) if line["status"] == 200]) <= 4
