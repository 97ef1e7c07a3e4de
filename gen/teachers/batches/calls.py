"""Drives a batch API's calls, and cuts files of results into lines as they arrive."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from stillhouse.gen.teachers.batches.base import Steps
from stillhouse.gen.teachers.transport import HttpRequest, Reply, Take

MAX_LINE_BYTES = 64 * 2**20
"""The longest line that is read, as long as the largest reply online."""

T = TypeVar("T")


async def called(steps: Steps[T], send: Callable[[HttpRequest], Awaitable[Reply]]) -> T:
    """The result of a call whose requests `send` sends.

    Raises:
        BatchRefused: the provider refused.
        NotSent, Lost: as `send` does; the call's outcome is then unknown.
    """
    try:
        request = next(steps)
        while True:
            request = steps.send(await send(request))
    except StopIteration as ended:
        result: T = ended.value
        return result


class Lines:
    """Cuts a stream into lines, holding at most one of them at a time."""

    def __init__(self, take: Take) -> None:
        """`take` receives each non-empty line; of one that is too long, its head."""
        self._take = take
        self._parts: list[bytes] = []
        self._size = 0

    async def feed(self, data: bytes) -> None:
        """The next bytes."""
        first, *rest = data.split(b"\n")
        self._add(first)
        for part in rest:
            await self.end()
            self._add(part)

    async def end(self) -> None:
        """The line, or the stream, is over."""
        line = b"".join(self._parts).strip()
        self._parts, self._size = [], 0
        if line:
            await self._take(line)

    def _add(self, part: bytes) -> None:
        if part and self._size < MAX_LINE_BYTES:
            self._parts.append(part[: MAX_LINE_BYTES - self._size])
            self._size += len(part)
