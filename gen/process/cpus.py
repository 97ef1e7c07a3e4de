"""The CPUs that this process may use, of which a machine may have many more: a container is often granted a few."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MINE = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(*, mine: Path = _MINE, cgroups: Path = _CGROUPS) -> int:
    """How many CPUs the process's affinity and its cgroups' quota let it use, in whole CPUs; at least 1.

    Args:
        mine: lists the process's cgroups, in the format of cgroups(7).
        cgroups: where cgroups of version 2 are mounted, or those of version 1 in a folder each.
    """
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas(mine, cgroups)])))


def _quotas(mine: Path, cgroups: Path) -> Iterator[float]:
    """CPUs that the process's cgroups grant. A container may see only its own, as if it were the root."""
    with suppress(OSError):
        for line in mine.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, files = cgroups, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                root, files = cgroups / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(root):
                    yield from _quota([folder / file for file in files])


def _quota(files: list[Path]) -> Iterator[float]:
    with suppress(OSError, ValueError):  # some cgroups lack the files; `max` means no quota
        quota, period = map(int, " ".join(file.read_text() for file in files).split())
        if quota > 0:  # version 1 says -1 instead of `max`
            yield quota / period
