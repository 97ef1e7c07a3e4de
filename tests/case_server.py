"""A server of recorded replies: a prompt that names one (`[[05-finish-reasons/null]]`) meets it, others are answered.

A reply is a file `NAME.http` of tests/cases: status line, headers, an empty line, the body. Lines before the status
line that begin with `#` say how it is served, see tests/cases/README.md.
"""

import asyncio
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

CASES = Path(__file__).parent / "cases"
_NAMED = re.compile(r"\[\[([^\]]+)\]\]")
_HEADER_WAIT = re.compile(rb"(retry-after: *)(\d+)", re.IGNORECASE)
_FOR_ALL = re.compile(r"^/all/(.+)/v1/")


@dataclass(frozen=True)
class Script:
    """One recorded reply and how it is served."""

    head: bytes
    body: bytes
    how: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Script":
        """The script in a file."""
        lines = path.read_bytes().split(b"\n")
        how: dict[str, str] = {}
        while lines[0].startswith(b"#"):
            name, _, value = lines.pop(0)[1:].decode().partition(":")
            how[name.strip()] = value.strip()
        head, _, body = b"\n".join(lines).partition(b"\n\n")
        return cls(head, body if "keepnl" in how else body.rstrip(b"\n"), how)

    def compressed(self, body: bytes) -> bytes:
        """The body as `#compress` wants it."""
        match self.how.get("compress"):
            case None:
                return body
            case "gzip":
                return gzip.compress(body)
            case "gzip2":
                return gzip.compress(gzip.compress(body))
            case codec:
                name = {"br": "brotli"}.get(codec, codec)
                return pa.Codec(name).compress(body, asbytes=True)  # type: ignore[no-any-return]


def good(number: int) -> bytes:
    """An answer that is unlike any other."""
    choice = {"index": 0, "message": {"role": "assistant", "content": f"Answer {number}."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 5}
    return json.dumps({"id": f"r-{number}", "model": "made-up-8b", "choices": [choice], "usage": usage}).encode()


def streamed(answer: bytes) -> bytes:
    """The answer as events."""
    document = json.loads(answer)
    (choice,) = document["choices"]
    begun = {"index": 0, "delta": choice["message"], "finish_reason": None}
    ended = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    events = [document | {"choices": [begun], "usage": None}, document | {"choices": [ended]}]
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


@dataclass
class CaseServer:
    """What it serves, and what it was asked."""

    url: str = ""
    latency_s: float = 0.0
    """Of good answers."""
    limit: int | None = None
    """After this many good answers, every reply is `then`."""
    then: str = ""
    per_minute: int | None = None
    """More good answers than these in a minute meet `then`."""
    hurry: float = 1.0
    """Waits and times of recorded replies, and minutes, pass this many times faster."""
    status_for_all: str | None = None
    """The status of replies by address, in place of their own."""
    only_streams: bool = False
    """Requests for a stream are answered by one; the others meet recorded replies."""
    folder: Path = CASES
    asked: list[tuple[float, str, int]] = field(default_factory=list)
    """(when, the prompt, the status that it met)."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The requests themselves."""
    _scripts: dict[str, Script] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)
    _good_at: list[float] = field(default_factory=list)
    _first: dict[str, float] = field(default_factory=dict)

    def requests(self, name: str) -> int:
        """How often a prompt that names this reply was sent."""
        return sum(f"[[{name}]]" in prompt for _, prompt, _ in self.asked)

    def refused(self) -> int:
        """Replies other than 2xx."""
        return sum(status >= 300 for *_, status in self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other side closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                sent = json.loads(await reader.readexactly(int(length[1]) if length else 0))
                self.bodies.append(sent)
                streams = self.only_streams and sent.get("stream") is True
                await self._answer(path, str(sent["messages"][-1]["content"]), writer, streams=streams)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, prompt: str, writer: asyncio.StreamWriter, *, streams: bool) -> None:
        at, number = time.monotonic(), len(self.asked)
        self.asked.append((at, prompt, 200))
        script = None if streams else self._script(path, prompt)
        if streams:
            head, body = b"HTTP/1.1 200 OK\ncontent-type: text/event-stream", streamed(good(number))
        elif script is None:
            self._good_at.append(at)
            await asyncio.sleep(self.latency_s)
            head, body = b"HTTP/1.1 200 OK\ncontent-type: application/json", good(number)
        else:
            await asyncio.sleep(float(script.how.get("delay", 0)) / self.hurry)
            head = _HEADER_WAIT.sub(lambda found: b"%b%g" % (found[1], float(found[2]) / self.hurry), script.head)
            if self.status_for_all and path.startswith("/all/"):
                head = head.replace(b" 404 ", f" {self.status_for_all} ".encode(), 1)
            body = script.compressed(script.body.replace(b"@@N@@", str(number).encode()))
            self.asked[number] = at, prompt, int(head.split(b" ", 2)[1])
        lines = [*head.split(b"\n"), b"content-length: %d" % len(body)]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await writer.drain()

    def _used_up(self, now: float) -> bool:
        if self.limit is not None:
            return len(self._good_at) >= self.limit
        recent = sum(now - at < 60 / self.hurry for at in self._good_at)
        return self.per_minute is not None and recent >= self.per_minute

    def _name(self, path: str, prompt: str) -> str | None:
        """The reply that this request gets; None for a good answer."""
        if found := _FOR_ALL.match(path):
            return found[1]
        if named := _NAMED.search(prompt):
            return named[1]
        return self.then if self._used_up(time.monotonic()) else None

    def _script(self, path: str, prompt: str) -> Script | None:
        now, name = time.monotonic(), self._name(path, prompt)
        if name is None:
            return None
        if name not in self._scripts:
            self._scripts[name] = Script.read(self.folder / f"{name}.http")
        script = self._scripts[name]
        self._times[name] += 1
        self._times[name + prompt] += 1
        if self._times[name] > int(script.how.get("first", 10**9)):
            return None
        if self._times[name + prompt] > int(script.how.get("alternate", 10**9)):
            return None
        if now - self._first.setdefault(name, now) > float(script.how.get("from-s", 10**9)) / self.hurry:
            return None
        return script


@asynccontextmanager
async def serving(server: CaseServer) -> AsyncIterator[CaseServer]:
    """The server on a free port of loopback; `url` then says where."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        yield server
