"""Has the C library return large blocks to the system as soon as they are freed.

By itself glibc does so only at first: with every large block that is freed it keeps larger ones in its heaps, of which
each thread has its own. Images of a source come and go in several threads, so the heaps would fill up with gaps.
"""

import contextlib
import ctypes

LARGE_BYTES = 2**17
"""glibc's own first threshold; below it a system call per block would cost more than gaps do."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Return them from now on; does nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
