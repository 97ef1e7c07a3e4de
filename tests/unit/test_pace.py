"""How fast a run goes against its limits, and how long it has to go."""

from pathlib import Path

import pytest
from builders import queue_stats, recipe_of

from stillhouse.cluster.progress.pace import Pace, settled, unsealed
from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.dataset.shard_meta import ShardCounts

LIMITS = {"requests_per_minute": 600, "tokens_per_minute": 60_000, "in_flight": 50}


def test_teachers_of_one_account_share_its_limit(tmp_path: Path) -> None:
    """Requests, tokens and slots of both count against the account's limits."""
    two = [{"name": name, "api": "simulator", "account": "shared", "limits": LIMITS} for name in ("a", "b")]
    pace = Pace(recipe_of(tmp_path, teachers=two))
    pace.add(queue_stats(), now=100.0)
    tally = Tally(requests=10, input_tokens=500, output_tokens=1000, in_flight=5)
    now = queue_stats(teachers={"a": tally, "b": tally})
    pace.add(now, now=110.0)
    assert pace.limits_used(now) == pytest.approx(
        {("shared", "requests"): 0.2, ("shared", "total"): 0.3, ("shared", "in_flight"): 0.2}
    )


def test_the_time_left_follows_from_the_recent_pace(tmp_path: Path) -> None:
    """Answers count before their chunk is sealed; no time is shown without a pace, and none is left at the end."""
    pace = Pace(recipe_of(tmp_path))
    pace.add(queue_stats(), now=0.0)
    assert pace.time_left_s(queue_stats()) is None
    later = queue_stats(teachers={"sim": Tally(answers=300)}, counts=ShardCounts(records=200), samples_left=800)
    pace.add(later, now=10.0)
    assert pace.time_left_s(later) == pytest.approx(700 / 30)
    assert pace.time_left_s(queue_stats(finished=True)) == 0.0


def test_recovered_answers_count_as_settled() -> None:
    """Of 70 samples settled this run asked 10; 20 are sealed."""
    stats = queue_stats(teachers={"sim": Tally(answers=10)}, open_settled=50, counts=ShardCounts(records=20))
    assert (settled(stats), unsealed(stats)) == (70, 50)
