"""Compares what the teacher served with what the dataset holds: no answer is lost, asked again or twice there."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from stillhouse.gen.coordination.leases import TERM_S

WAKE_S = TERM_S
"""What a kill breaks is over after this long: by then, every live worker has new leases. A killed driver's workers live
on for some seconds, so it may have hit requests that were sent after it too."""


def check(
    dataset: Path, log: Path, *, samples: int, in_flight: int, kills: int, killed_at: Sequence[float] | None = None
) -> dict[str, int]:
    """The history's figures; raises AssertionError where a promise is broken.

    An answer that the teacher delivered while its asker was being killed may never have been received: of those there
    can be at most what was in flight at each kill, and none that was delivered at another time, if `killed_at` says
    when these were.
    """
    served = [json.loads(line) for line in log.read_text().splitlines()]
    answered = {e["id"]: e["prompt"] for e in served if e["status"] == 200 and not e["fault"] and e["delivered"]}
    stored: Counter[str] = Counter()
    records: Counter[str] = Counter()
    for folder in ("data", "rejected"):
        if (dataset / folder).exists():
            columns = ["record_id", "response_id", "prompt_key"]
            table = ds.dataset(dataset / folder, format="parquet").to_table(columns=columns)
            for row in table.to_pylist():
                if row["record_id"] is not None:
                    answer = row["response_id"] or row["prompt_key"]  # where replies have no ids, `log` has the keys
                    stored[answer] += 1
                    records[row["record_id"]] += 1
                    assert answered.get(answer) == row["prompt_key"], f"never served: {row}"
    assert max(records.values(), default=1) == 1, "a record is there twice"
    assert max(stored.values(), default=1) == 1, "an answer is there twice"
    unseen = answered.keys() - stored.keys()
    assert len(unseen) <= in_flight * kills, f"{len(unseen)} delivered answers are not stored after {kills} kills"
    if killed_at is not None:
        strange = [e for e in served if e["id"] in unseen and not _spans_a_kill(e, killed_at)]
        assert not strange, f"{len(strange)} answers that came when nothing was killed are not stored: {strange[0]}"
    per_prompt = Counter(answered[i] for i in stored)
    assert set(per_prompt.values()) <= {samples}, "a prompt has more or fewer answers than samples"
    return {"served": len(served), "answered": len(answered), "stored": len(stored), "under way at a kill": len(unseen)}


def check_judged(dataset: Path, log: Path, *, in_flight: int, killed_at: Sequence[float]) -> dict[str, int]:
    """The judge's history; AssertionError where a verdict was paid for twice.

    As in `check`, what was in flight at a kill may be asked again.
    """
    delivered: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        if (e := json.loads(line))["status"] == 200 and e["delivered"]:
            delivered[e["prompt"]].append(e)
    repeated = [e for mine in delivered.values() for e in sorted(mine, key=lambda e: float(e["time"]))[:-1]]
    again, kills = len(repeated), len(killed_at)
    assert again <= in_flight * kills, f"{again} verdicts were delivered again after {kills} kills"
    strange = [e for e in repeated if not _spans_a_kill(e, killed_at)]
    assert not strange, f"{len(strange)} verdicts that came when nothing was killed were asked again: {strange[0]}"
    told = [
        row for folder in ("data", "rejected") if (dataset / folder).exists() for row in _verdicts(dataset / folder)
    ]
    assert all(verdict is not None for verdict in told), "an answer has no verdict"
    assert len(delivered) <= len(told), "verdicts were paid for that no answer has"
    return {"judged": len(told), "verdicts delivered again": again}


def check_limits(log: Path, *, in_flight: int, per_minute: int, killed_at: Sequence[float]) -> dict[str, int]:
    """The most that the server counted at once, in a second and in a minute; AssertionError if that exceeds its limits.

    For a while after a kill, a dead worker's requests are still served along with its successor's.
    """
    served = [json.loads(line) for line in log.read_text().splitlines()]
    times = sorted(e["time"] for e in served)
    edges = sorted((at, step) for e in served for at, step in ((e["time"], 1), (e["time"] + e["latency_s"], -1)))
    counts = list(itertools.accumulate(step for _, step in edges))
    peak = max(counts)
    assert peak <= 2 * in_flight, f"{peak} requests at once, the limit is {in_flight}"
    apart = [
        count
        for (at, _), count in zip(edges, counts, strict=True)
        if not any(killed <= at <= killed + WAKE_S for killed in killed_at)
    ]
    calm = max(apart, default=0)
    assert calm <= in_flight, f"{calm} requests at once when nothing was killed, the limit is {in_flight}"
    most = _most_within(times, 60.0)
    assert most <= per_minute, f"{most} requests in a minute, the limit is {per_minute}"
    return {"in flight": peak, "in a second": _most_within(times, 1.0), "in a minute": most}


def _spans_a_kill(served: dict[str, Any], killed_at: Sequence[float]) -> bool:
    """True if the request was in flight, or had just ended, when something was killed or died of a kill."""
    begin, end = served["time"] - WAKE_S, served["time"] + served["latency_s"] + WAKE_S
    return any(begin <= killed <= end for killed in killed_at)


def _most_within(times: list[float], span_s: float) -> int:
    """The most of these sorted moments in any window of this length."""
    start = most = 0
    for end, moment in enumerate(times):
        while moment - times[start] >= span_s:
            start += 1
        most = max(most, end - start + 1)
    return most


def _verdicts(folder: Path) -> list[object]:
    table = ds.dataset(folder, format="parquet").to_table(columns=["record_id", "checks"])
    return [row["checks"] and row["checks"]["judge"] for row in table.to_pylist() if row["record_id"] is not None]
