"""The number of workers that a run starts."""

from pathlib import Path

import pytest
from builders import SIMULATED, recipe_of

from stillhouse.cluster.driver import worker_count


@pytest.mark.parametrize(
    ("in_flight", "cpus", "workers"),
    [
        ([None], 64, 1),
        ([512], 64, 1),
        ([513], 64, 2),
        ([1000, 1000], 64, 4),
        ([1000, None], 64, 3),
        ([1000], 2, 1),
        ([5000], 4, 3),
        ([5000], 1, 1),
    ],
)
def test_auto_starts_enough_for_the_requests_in_flight_and_leaves_a_cpu_free(
    in_flight: list[int | None], cpus: int, workers: int, tmp_path: Path
) -> None:
    """One per 512, over all teachers; but at least one."""
    teachers = [SIMULATED | {"name": f"t{n}", "limits": {"in_flight": most}} for n, most in enumerate(in_flight)]
    assert worker_count(recipe_of(tmp_path, teachers=teachers), cpus=cpus) == workers


def test_a_stated_number_is_started_whatever_the_cpus(tmp_path: Path) -> None:
    """The recipe's word counts."""
    assert worker_count(recipe_of(tmp_path, run={"workers": 7}), cpus=2) == 7
