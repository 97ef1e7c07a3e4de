"""A teacher that logs every request and every answer that the asker's kernel acknowledged; it refuses nothing.

Lines of its log: {"token", "key", "peer", "at"} when a request is in, {"token", "received_at"} when its answer is at
the other side. A request without the second was lost on its way back, so that nobody can be blamed for asking again.

    python -m tests.hosts.teacher ADDRESS PORT LOG
"""

import asyncio
import fcntl
import hashlib
import json
import random
import socket
import struct
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

LATENCY_S = (1.0, 2.0)
_LOOK_S = 0.02
_GIVE_UP_S = 120.0
_ESTABLISHED, _CLOSE_WAIT = 1, 8


class Teacher:
    """See the module."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._rng = random.Random(17)
        self._watches: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
        body = json.loads(await reader.readexactly(length))
        token, key = uuid4().hex, key_of(body["messages"][-1]["content"])
        self._write({"token": token, "key": key, "peer": writer.get_extra_info("peername")[0], "at": time.time()})
        await asyncio.sleep(self._rng.uniform(*LATENCY_S))
        answer = json.dumps(_completion(token, body)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        writer.write(head.encode() + answer)
        watch = asyncio.create_task(self._received(token, writer))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        await writer.drain()

    async def _received(self, token: str, writer: asyncio.StreamWriter) -> None:
        """Log it once the other side's kernel has acknowledged all that was written."""
        sock, until = writer.get_extra_info("socket"), time.monotonic() + _GIVE_UP_S
        try:
            while time.monotonic() < until and not writer.transport.is_closing():
                state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                if state not in (_ESTABLISHED, _CLOSE_WAIT):
                    return
                (unacknowledged,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
                if unacknowledged == 0 and writer.transport.get_write_buffer_size() == 0:
                    self._write({"token": token, "received_at": time.time()})
                    return
                await asyncio.sleep(_LOOK_S)
        except (OSError, ValueError):
            return  # the connection is gone, and with it what was not acknowledged

    def _write(self, line: Mapping[str, Any]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def key_of(prompt: str) -> str:
    """What the log calls a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _completion(token: str, body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"The answer is {token}."}
    return {
        "id": token,
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40},
    }


async def main(address: str, port: int, log: Path) -> None:
    """Serve until the process is ended."""
    with log.open("a") as file:
        server = await asyncio.start_server(Teacher(file).serve, address, port, backlog=1024)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
