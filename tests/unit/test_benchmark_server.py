"""What the bench reads from a server's log."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmark.server import Storm, Watched, recovered_s, share_used


def line(at: float, status: int = 200, tokens: int = 10) -> dict[str, Any]:
    """A request's line."""
    return {"time": at, "status": status, "completion_tokens": tokens}


def test_the_share_counts_admitted_requests_after_settling() -> None:
    """Five a second of ten, whatever was before and whatever was refused."""
    lines = [line(0.1 * n) for n in range(100)] + [line(10.0 + 0.2 * n) for n in range(101)] + [line(30.1, 429)]
    assert share_used(lines, Watched("requests", 600, after_s=10.0)) == pytest.approx(0.5)
    assert share_used(lines, Watched("output tokens", 6000, after_s=10.0)) == pytest.approx(0.5)


def test_slot_use_is_measured_until_fewer_answers_than_slots_remain() -> None:
    """Two slots: one is always busy, the other half of the time; the last two answers are left out."""
    long = [line(10.0 * n) | {"latency_s": 10.0} for n in range(10)]
    short = [line(10.0 * n) | {"latency_s": 5.0} for n in range(10)]
    lines = sorted([*long, *short], key=lambda each: float(each["time"]))
    assert share_used(lines, Watched("slots", 2, after_s=15.0)) == pytest.approx(0.75)
    assert share_used(lines, Watched("slots", 20, after_s=15.0)) == 0.0


def test_a_run_that_ends_before_it_settles_used_nothing() -> None:
    """There is nothing to judge."""
    assert share_used([line(0.0), line(9.0)], Watched("requests", 60, after_s=10.0)) == 0.0


@pytest.mark.parametrize("rest_s", [0.0, 7.0])
def test_recovery_is_the_first_window_at_full_speed(rest_s: float) -> None:
    """Ten a second before the storm, five for a while after it, then ten again."""
    began = 1000.0
    before = [line(began + 10 + 0.1 * n) for n in range(300)]
    slow = [line(began + 100 + 0.2 * n) for n in range(int(rest_s / 0.2))]
    full = [line(began + 100 + rest_s + 0.1 * n) for n in range(200)]
    found = recovered_s([*before, line(began + 50, 429), *slow, *full], Storm(40.0, 100.0), started_at=began)
    assert found is not None
    assert rest_s - 1.0 <= found <= rest_s + 0.5


def test_no_recovery_is_reported_as_none() -> None:
    """Half the speed forever does not count as a recovery."""
    before = [line(10 + 0.1 * n) for n in range(300)]
    assert recovered_s([*before, *(line(100 + 0.2 * n) for n in range(200))], Storm(40.0, 100.0), started_at=0) is None


def test_a_storm_after_the_run_is_not_judged() -> None:
    """There is no earlier speed to compare with."""
    assert recovered_s([], Storm(40.0, 100.0), started_at=0) is None
    assert recovered_s([line(38.0), line(120.0)], Storm(40.0, 100.0), started_at=0) is None
