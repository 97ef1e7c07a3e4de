"""The protocol between a pool and its children: frames of a length and a value, over a socket.

Values are serialised with `marshal`: both ends are the same Python, any text can be sent, and nothing is faster.
"""

import marshal
import socket
import struct
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import asyncio  # processes below a pool don't need it

Duty: TypeAlias = Literal["check", "state", "compare"]
"""What a child does with an answer: run the recipe's checks or, for a vote, state it or compare two statements."""
DONE, REPLACE_ME = "done", "replace me"
"""How a child ends a batch; with the second value, another child must judge the answers that it did not report."""
_LENGTH = struct.Struct(">I")


def packed(value: Any) -> bytes:
    """A message as a frame: its length, then its bytes."""
    data = marshal.dumps(value)
    return _LENGTH.pack(len(data)) + data


async def read_frame(reader: "asyncio.StreamReader") -> Any:
    """The next frame's value; raises asyncio.IncompleteReadError if the other end is gone."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return marshal.loads(await reader.readexactly(length))  # noqa: S302 - the other end is our own code


def receive_frame(link: socket.socket) -> Any:
    """The next frame's value; raises EOFError if the other end is gone."""
    (length,) = _LENGTH.unpack(_receive(link, _LENGTH.size))
    return marshal.loads(_receive(link, length))  # noqa: S302 - the other end is our own code


def _receive(link: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = link.recv_into(view[at:])
        if count == 0:
            raise EOFError
        at += count
    return bytes(data)
