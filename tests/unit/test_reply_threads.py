"""Large replies have threads of their own."""

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

from stillhouse.gen.teachers import reply_threads


async def test_a_large_reply_does_not_wait_for_the_loop_s_threads() -> None:
    """All of them are sealing or shipping: the reply is still journalled and read."""
    is_over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    seal = asyncio.create_task(asyncio.to_thread(is_over.wait))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(60.0):
            assert await reply_threads.keep(lambda: "journalled") == "journalled"
            assert await reply_threads.read(lambda: "read") == "read"
        assert not seal.done()
    finally:
        is_over.set()
    assert await seal


async def test_one_reply_is_read_at_a_time() -> None:
    """Others are journalled meanwhile."""
    may_end, reads = threading.Event(), list[int]()

    def read(number: int) -> None:
        reads.append(number)
        may_end.wait(60.0)

    first, second = (asyncio.create_task(reply_threads.read(functools.partial(read, n))) for n in (1, 2))
    await asyncio.sleep(0)
    assert await reply_threads.keep(lambda: "journalled") == "journalled"
    assert len(reads) <= 1
    may_end.set()
    await asyncio.gather(first, second)
    assert reads == [1, 2]
