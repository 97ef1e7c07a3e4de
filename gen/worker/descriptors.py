"""File descriptors: each connection needs one, so they limit the requests in flight of a process."""

import resource
from pathlib import Path

RESERVED = 64
"""Reserved for journals, shards, store connections and files that libraries open."""


def raised_limit() -> int:
    """Raise the soft limit to the hard one; returns the number of descriptors this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS has another, lower limit
            return soft
    return hard


def free_for_connections() -> int:
    """Connections this process can have at once."""
    limit = raised_limit()
    if limit == resource.RLIM_INFINITY:
        return 2**20
    try:
        taken = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        taken = RESERVED
    return max(1, limit - taken - RESERVED)
