"""Makes the C library return large blocks to the system as soon as they are freed.

By default glibc does so only at first: each time a large block is freed, it keeps even larger ones in its heaps, and
each thread has its own heap. Images of a source come and go in several threads, so the heaps would fill up with gaps.
Two heaps are enough for threads that hold the interpreter's lock while they work.
"""

import contextlib
import ctypes

LARGE_BYTES = 2**16
"""Half of glibc's initial threshold: small images count too. Below it, a system call per block would cost more than the
gaps."""
_HEAPS = 2
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def return_large_blocks() -> None:
    """Return them from now on; does nothing if the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
