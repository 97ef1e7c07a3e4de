"""File descriptors: a connection needs one, so they bound what can be in flight in a process."""

import resource
from pathlib import Path

RESERVED = 64
"""For journals, shards, the store's connections and what libraries open."""


def raised_limit() -> int:
    """The number of descriptors this process may have, after its soft limit was raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS has a lower one of its own
            return soft
    return hard


def free_for_connections() -> int:
    """Connections that this process can have at once."""
    limit = raised_limit()
    if limit == resource.RLIM_INFINITY:
        return 2**20
    try:
        taken = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        taken = RESERVED
    return max(1, limit - taken - RESERVED)
