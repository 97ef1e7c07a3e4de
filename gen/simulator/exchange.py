"""One chat request from its arrival to its end: whatever happens to the connection, it ends exactly once."""

import asyncio
from collections.abc import Callable
from math import ceil
from typing import assert_never

from stillhouse.gen.simulator.protocol import Connection
from stillhouse.gen.simulator.wire import Response
from stillhouse.schemas.simulator import (
    Fault,
    HangFault,
    ResetFault,
    SilenceFault,
    StatusFault,
    TrickleFault,
    TruncateFault,
)

_TRICKLE_EVERY_S = 0.05
_STREAM_EVERY_S = 0.05
"""A stream's events are written no more often than this, several at once if necessary."""


def _ignore(_delivered: bool) -> None:  # noqa: FBT001 - a callback
    """Does not count this request."""


class ChatExchange:
    """Plays a response, or a fault, after a delay; owns at most one timer and no task."""

    __slots__ = (
        "_connection",
        "_ended",
        "_fault",
        "_keep_alive",
        "_loop",
        "_pieces",
        "_response",
        "_timer",
        "_written",
    )

    def __init__(
        self,
        connection: Connection,
        response: Response,
        *,
        keep_alive: bool,
        loop: asyncio.AbstractEventLoop,
        fault: Fault | None = None,
        ended: Callable[[bool], None] = _ignore,
    ) -> None:
        """`ended` is called with whether the whole response reached the kernel on a live connection."""
        self._connection = connection
        self._response = response
        self._fault = fault
        self._keep_alive = keep_alive
        self._loop = loop
        self._ended: Callable[[bool], None] | None = ended
        self._timer: asyncio.TimerHandle | None = None
        self._pieces: list[bytes] = []
        self._written = False

    def start(self, delay_s: float) -> "ChatExchange | None":
        """Answer after `delay_s`, or stream until then; None if the answer is already complete."""
        events = self._response.events
        if delay_s > 0 and events and self._fault is None:
            self._connection.write(self._response.head)
            steps = max(1, min(len(events), int(delay_s / _STREAM_EVERY_S)))
            bounds = [len(events) * step // steps for step in range(steps + 1)]
            self._pieces = [b"".join(events[bounds[n] : bounds[n + 1]]) for n in reversed(range(steps))]
            self._timer = self._loop.call_later(delay_s / steps, self._drip, delay_s / steps)
        elif delay_s > 0:
            self._timer = self._loop.call_later(delay_s, self._play)
        else:
            self._play()
        return None if self._ended is None else self

    def drained(self) -> None:
        """The kernel has everything that was written so far."""
        if self._written:
            self._end(delivered=True)

    def lost(self) -> None:
        """The client went away."""
        self._end(delivered=False)

    def _play(self) -> None:
        self._timer = None
        response, half = self._response, len(self._response.body) // 2
        match self._fault:
            case None | StatusFault() | SilenceFault():
                self._write_last(response.head + response.body)
            case ResetFault(when=when):
                if when != "before":
                    self._connection.write(response.head + (response.body[:half] if when == "body" else b""))
                self._connection.reset()
                self._end(delivered=False)
            case TruncateFault():
                self._connection.write(response.head + response.body[:half])
                self._keep_alive = False
                self._end(delivered=False)
            case HangFault():
                pass
            case TrickleFault(over_s=over_s):
                self._connection.write(response.head)
                size = max(1, ceil(len(response.body) * _TRICKLE_EVERY_S / over_s))
                starts = range(0, len(response.body), size)
                self._pieces = [response.body[start : start + size] for start in reversed(starts)]
                self._drip(over_s / len(self._pieces))
            case _:
                assert_never(self._fault)

    def _drip(self, every_s: float) -> None:
        self._timer = None
        piece = self._pieces.pop()
        if self._pieces:
            self._connection.write(piece)
            self._timer = self._loop.call_later(every_s, self._drip, every_s)
        else:
            self._write_last(piece)

    def _write_last(self, data: bytes) -> None:
        self._written = True
        if self._connection.write(data):
            self._end(delivered=True)

    def _end(self, *, delivered: bool) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        ended(delivered)
        self._connection.finished(keep_alive=self._keep_alive)
