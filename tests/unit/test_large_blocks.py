"""Large blocks: a process keeps no gaps of their size, and no copy of them in an allocator of Arrow's."""

import os
import platform
import subprocess
import sys

import pytest

POOL = "ARROW_DEFAULT_MEMORY_POOL"
BLOCKS = 100
CODE = f"""
import ctypes
from stillhouse.gen.process.large_blocks import LARGE_BYTES, return_large_blocks

class Use(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Use
RETURNS and return_large_blocks()
largest = bytes(64 * LARGE_BYTES)
del largest  # glibc takes this as a sign to keep blocks of up to this size
blocks = [bytes(LARGE_BYTES) for _ in range({BLOCKS})]
print(mallinfo().hblks)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("returns", [True, False])
def test_large_blocks_are_mapped_one_by_one(returns: bool) -> None:
    """So that each is returned when it is freed; without that they are in a heap."""
    code = CODE.replace("RETURNS", str(returns))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (int(done.stdout) >= BLOCKS) is returns


@pytest.mark.parametrize("actor", ["teacher_worker", "prompt_queue_actor"])
@pytest.mark.parametrize(
    ("stated", "first", "pool"), [(None, "", "system"), ("mimalloc", "", "mimalloc"), (None, "import pyarrow; ", None)]
)
def test_arrow_leaves_an_actors_memory_to_the_c_library(
    actor: str, stated: str | None, first: str, pool: str | None
) -> None:
    """Unless the environment names another allocator. A driver has imported pyarrow, and starts others without it."""
    code = f"{first}import os, stillhouse.cluster.actors.{actor}, pyarrow; print(os.environ.get('{POOL}'))"
    env = {name: value for name, value in os.environ.items() if name != POOL} | ({POOL: stated} if stated else {})
    code += "; print(pyarrow.default_memory_pool().backend_name)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    set_to, in_use = done.stdout.split()
    assert set_to == str(pool)
    assert pool is None or in_use == pool
