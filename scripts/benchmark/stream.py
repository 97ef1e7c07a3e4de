"""What an event of a streamed answer costs beyond the unstreamed answer, in CPU of this process: scripts/bench stream

Another process serves answers of a token an event, each event in a packet of its own. Here they are sent for, framed
for the journal, folded and read, as a worker does. The bar: at most 20 µs.
"""

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from benchmark.bars import judged
from stillhouse.gen.journal.frames import COMPRESSED, EVENT_STREAM, Frame, Kind, encode
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.teacher import Teacher

STREAMS, EVENTS, EVERY_S, MOST_US = 100, 500, 0.01, 20.0
REPEATS = 3
_FRAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764000000, "model": "m"}
_USAGE = {"prompt_tokens": 20, "completion_tokens": EVENTS}


def main() -> int:
    """Print the figure; 1 if it misses the bar."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    server.start()
    try:
        cost_us = asyncio.run(_measure(f"http://127.0.0.1:{here.recv()}/v1"))
    finally:
        server.terminate()
    return report(cost_us)


def report(cost_us: float) -> int:
    """Print what an event costs; 1 if that misses the bar."""
    said = f"stream: CPU an event beyond the unstreamed answer: {cost_us:.1f} µs (bar: at most {MOST_US:g})"
    return judged(said, met=cost_us <= MOST_US)


async def _measure(url: str) -> float:
    """Microseconds an event, the least of the repeats: others only ever add to it."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    transport = HttpTransport()
    teacher = Teacher.model_validate(
        {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}}
    )
    interpreter = Interpreter(teacher, Ask())
    for _ in range(1 + REPEATS):  # the first one warms up
        for stream, found in spent.items():
            began = time.process_time()
            await asyncio.gather(*(_ask(transport, interpreter, url, stream=stream) for _ in range(STREAMS)))
            found.append(time.process_time() - began)
    await transport.close()
    return (min(spent[True][1:]) - min(spent[False][1:])) / (STREAMS * EVENTS) * 1e6


async def _ask(transport: HttpTransport, interpreter: Interpreter, url: str, *, stream: bool) -> None:
    asked = Request((("user", "hello"),), stream=stream)
    request = interpreter.protocol.request(asked, base_url=url, key=Credentials(), now=0.0)
    reply = await transport.send(request, timeout_s=120.0)
    flags = EVENT_STREAM | COMPRESSED if stream else 0
    encode(Frame(Kind.ANSWERED, 0, 1.0, 1.0, reply.status, "h", reply.body, flags=flags))
    answer = interpreter.read(reply)
    assert isinstance(answer, Completion)
    assert answer.text == "word" * EVENTS


def _serve(told: Connection) -> None:
    asyncio.run(_server(told))


async def _server(told: Connection) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await _head(reader):
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if b'"stream":true' not in await reader.readexactly(length):
            body = json.dumps(_FRAME | {"choices": [_choice("message", "word" * EVENTS, "stop")], "usage": _USAGE})
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body.encode()))
            continue
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in _events():
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(EVERY_S)
        writer.write(b"0\r\n\r\n")


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; empty once there is none."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return b""


def _events() -> Sequence[bytes]:
    choices = [*[_choice("delta", "word", None)] * EVENTS, {"index": 0, "delta": {}, "finish_reason": "stop"}]
    documents = [*[_FRAME | {"choices": [choice]} for choice in choices], _FRAME | {"choices": [], "usage": _USAGE}]
    return [b"data: %b\n\n" % text.encode() for text in [*map(json.dumps, documents), "[DONE]"]]


def _choice(name: str, text: str, finish: str | None) -> dict[str, object]:
    message = {"content": text}
    return {"index": 0, name: message, "logprobs": None, "finish_reason": finish}


if __name__ == "__main__":
    sys.exit(main())
