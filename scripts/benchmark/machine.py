"""What the figures were measured on, without a name of host or path."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("stillhouse", "ray", "httpx", "httpx-aiohttp", "aiohttp", "uvloop", "pyarrow")


def describe() -> dict[str, Any]:
    """Date, machine, versions and load average, as plain JSON."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _after("/proc/cpuinfo", "model name\t:"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_after("/proc/meminfo", "MemTotal:").split()[0]) / 2**20, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line of it."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['date']}, {machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, Linux "
        f"{machine['kernel']}, Python {machine['python']}, {packages}; load average "
        f"{machine['load_average']} at the start"
    )


def _after(path: str, label: str) -> str:
    _, _, rest = Path(path).read_text().partition(label)
    return rest.partition("\n")[0].strip() or "unknown"
