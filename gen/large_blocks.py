"""Makes the C library return large blocks to the system as soon as they are freed.

By default glibc does so only at first: each time a large block is freed, it keeps even larger ones in its heaps, and
each thread has its own heap. Images of a source come and go in several threads, so the heaps would fill up with gaps.
"""

import contextlib
import ctypes

LARGE_BYTES = 2**17
"""glibc's initial threshold; below it, a system call per block would cost more than the gaps."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Return them from now on; does nothing if the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
