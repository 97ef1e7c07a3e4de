"""Reads a streamed reply: raw and whole, at a cost that hardly depends on how many packets it comes in.

Servers send each token in its own packet. So after a packet, the socket is left alone for 3 % of the time that the
stream has taken so far, and what has arrived by then is read at once. When the kernel's buffer is full, it slows the
server down.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from stillhouse.gen.teachers.decoding import TooLarge, is_plain
from stillhouse.gen.teachers.event_stream import Progress
from stillhouse.gen.teachers.transport import Lost

MOST_PAUSE_S = 0.25
"""The longest time for which packets are gathered, and so the most by which the end of a stream is noticed late."""
PAUSE_SHARE = 0.03
"""The same as a share of the time since the stream began."""
LEAST_PAUSE_S = 0.04
"""Shorter pauses gather too little: a server sends some 50 to 200 tokens per second."""
FULL_BYTES = 2**15
"""After this much data at once, nothing needs to be gathered."""
LINGER_S = 1.0
"""How long to wait for the end of the body after the end marker: some servers never end it."""


def is_stream(headers: Mapping[str, str]) -> bool:
    """True if the reply with these headers comes in events."""
    kind = headers.get("content-type", "").lower()
    return kind.startswith(("text/event-stream", "application/vnd.amazon.eventstream"))


async def streamed_body(
    packet: Callable[[], Awaitable[bytes]],
    headers: Mapping[str, str],
    *,
    socket: Callable[[], asyncio.ReadTransport | None],
    stall_timeout_s: float,
    max_bytes: int,
    parts: list[bytes],
) -> bytes:
    """Read the body as it arrives. `packet`: waits for more of it, empty at its end; `socket`: while more may come.

    `parts` is filled meanwhile, so that a caller that cuts it short has what arrived until then.

    A model may think, and a server may queue, for as long as the caller's deadline allows: a silence is a stall only
    after the first event.

    Raises:
        Lost: no event came for `stall_timeout_s` seconds, or it was cut.
        TooLarge: it is larger than `max_bytes`.
    """
    loop = asyncio.get_running_loop()
    # Compressed or binary bytes can't be read on the way, so each packet counts as an event.
    readable = headers["content-type"].lower().startswith("text/") and is_plain(headers.get("content-encoding", ""))
    progress = Progress()
    began_at = loop.time()
    stalls_at: float | None = None
    ended = False
    size = 0
    try:
        while True:
            async with asyncio.timeout_at(stalls_at) as stall:
                part = await packet()
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise TooLarge
            now = loop.time()
            if ended:
                continue
            if not readable or progress.brings(part):
                stalls_at = now + stall_timeout_s
            ended = progress.is_done
            if ended:
                stalls_at = now + LINGER_S
            elif len(part) < FULL_BYTES:
                await _pause(socket(), min(MOST_PAUSE_S, max(LEAST_PAUSE_S, PAUSE_SHARE * (now - began_at))))
    except (Lost, OSError):
        if ended:
            pass  # nothing of the answer is missing
        elif stall.expired():
            raise Lost(
                f"the stream stalled: no event for stall_timeout_s ({stall_timeout_s:g} s), after {size} bytes"
            ) from None
        else:
            raise
    return b"".join(parts)


async def _pause(socket: asyncio.ReadTransport | None, pause_s: float) -> None:
    if socket is None:  # the whole reply is here
        return
    socket.pause_reading()
    try:
        await asyncio.sleep(pause_s)
    finally:
        socket.resume_reading()
