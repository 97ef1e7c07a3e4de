"""The CPUs that a process may use, by its affinity and by the quotas of its cgroups."""

import os
from pathlib import Path

import pytest

from stillhouse.gen.process.cpus import usable_cpus


@pytest.mark.parametrize(
    ("mine", "files", "cpus"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 16),
        ("0::/jobs/7\n", {"jobs/7/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3),
        ("0::/jobs/7\n", {"cpu.max": "400000 100000"}, 4),  # a container that sees only its own
        ("4:cpu,cpuacct:/docker/9\n3:cpuset:/\n", {"cpu/docker/9/cpu.cfs_quota_us": "300000"}, 3),
        ("4:cpu,cpuacct:/docker/9\n", {"cpu/cpu.cfs_quota_us": "300000"}, 3),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1"}, 16),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "300000"}, 16),
        ("0::/\n", {"cpu.max": "not a quota"}, 16),
    ],
)
def test_a_quota_counts_wherever_it_is_set(
    mine: str, files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either version of cgroups, above the process's own, or at the root of what a container sees."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "mine").write_text(mine)
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("quota_us"):
            path.with_name("cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(mine=tmp_path / "mine", cgroups=tmp_path / "cgroups") == cpus


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    """As on a system that has none."""
    assert usable_cpus(mine=tmp_path / "none", cgroups=tmp_path) == len(os.sched_getaffinity(0))
