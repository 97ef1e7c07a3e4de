"""The checks of a history: what they accept, and what they don't."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.history import WAKE_S, check, check_judged, check_limits

KILLED_AT = 1_000.0
LONG_AFTER = KILLED_AT + 2 * WAKE_S


def served(prompt: str, at: float, *, latency_s: float = 0.1) -> dict[str, Any]:
    """An answer that was delivered."""
    more = {"status": 200, "fault": None, "delivered": True}
    return {"id": f"r-{prompt}-{at}", "prompt": prompt, "time": at, "latency_s": latency_s} | more


def written(root: Path, *lines: dict[str, Any]) -> Path:
    """A server's log; of what it served last to each prompt, a dataset in `root`."""
    last = {line["prompt"]: line for line in lines}
    rows = [
        {"record_id": key, "response_id": line["id"], "prompt_key": key, "checks": {"judge": {"score": 1.0}}}
        for key, line in last.items()
    ]
    (root / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "a.parquet")
    log = root / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return log


@pytest.mark.parametrize("at", [KILLED_AT - 0.05, KILLED_AT + 5.0])
def test_requests_in_flight_at_a_kill_may_be_repeated(tmp_path: Path, at: float) -> None:
    """This applies to the teacher's answers and to the judge's verdicts."""
    log = written(tmp_path, served("p", at), served("p", LONG_AFTER))
    assert check(tmp_path, log, samples=1, in_flight=4, kills=1, killed_at=[KILLED_AT])["under way at a kill"] == 1
    assert check_judged(tmp_path, log, in_flight=4, killed_at=[KILLED_AT])["verdicts delivered again"] == 1


@pytest.mark.parametrize("at", [KILLED_AT - 2 * WAKE_S, LONG_AFTER])
def test_requests_at_any_other_time_may_not_be_repeated(tmp_path: Path, at: float) -> None:
    """Not even once."""
    log = written(tmp_path, served("p", at), served("p", LONG_AFTER + 1.0))
    with pytest.raises(AssertionError, match="1 answers that came when nothing was killed are not stored"):
        check(tmp_path, log, samples=1, in_flight=4, kills=1, killed_at=[KILLED_AT])
    with pytest.raises(AssertionError, match="1 verdicts that came when nothing was killed were asked again"):
        check_judged(tmp_path, log, in_flight=4, killed_at=[KILLED_AT])


def test_a_limit_may_be_exceeded_only_after_a_kill(tmp_path: Path) -> None:
    """By what the dead workers had asked, so by a factor of two at most."""
    at_once = [served(f"p{n}", KILLED_AT + 1.0) for n in range(6)]
    limits = {"in_flight": 4, "per_minute": 100}
    log = written(tmp_path, *at_once)
    assert check_limits(log, **limits, killed_at=[KILLED_AT])["in flight"] == 6
    for killed_at in ([], [KILLED_AT - WAKE_S], [KILLED_AT + 5.0]):
        with pytest.raises(AssertionError, match="6 requests at once when nothing was killed, the limit is 4"):
            check_limits(log, **limits, killed_at=killed_at)
    with pytest.raises(AssertionError, match="6 requests at once, the limit is 2"):
        check_limits(log, in_flight=2, per_minute=100, killed_at=[KILLED_AT])
    with pytest.raises(AssertionError, match="6 requests in a minute, the limit is 5"):
        check_limits(log, in_flight=8, per_minute=5, killed_at=[])
