"""Makes a process return large blocks to the system as soon as they are freed.

By default glibc does so only at first: each time a large block is freed, it keeps even larger ones in its heaps, and
each thread has its own heap. Images of a source come and go in several threads, so the heaps would fill up with gaps.
Two heaps are enough for threads that hold the interpreter's lock while they work.

Arrow's own allocator keeps what threads have freed: up to 68 MB of a worker, of which 12 were in use at most. So Arrow
uses the C library's. That costs plain answers nothing, and log-probabilities a fifth more CPU from a reply to Parquet
(`scripts/bench labels`).
"""

import contextlib
import ctypes
import os
import sys

LARGE_BYTES = 2**16
"""Half of glibc's initial threshold: small images count too. Below it, a system call per block would cost more than the
gaps."""
_HEAPS = 2
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ARROWS = "ARROW_DEFAULT_MEMORY_POOL"


def return_large_blocks() -> None:
    """Return them from now on; does nothing if the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)


def leave_arrow_to_c_library() -> None:
    """Have Arrow use the C library's allocator, unless the environment names another.

    Does nothing if pyarrow is imported already, for it reads the setting only then.
    """
    if "pyarrow" not in sys.modules:
        os.environ.setdefault(_ARROWS, "system")
