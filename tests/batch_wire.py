"""Stands between a run and a simulator's batch API: names each call, hides batches from listings, and ends runs."""

import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from stillhouse.gen.store.local import LocalStore
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.transport import HttpRequest, Reply, Take

_CALLS = (
    ("upload", r"(POST .*(/files|/files/upload|upload_id=.*))|(PUT .*)"),
    ("create", r"POST .*(/batches|:batchGenerateContent|/model-invocation-job|/batch/jobs)"),
    ("cancel", r"POST .*[/:](cancel|stop)"),
    ("list", r"GET .*(/batches|/batch/jobs|/model-invocation-jobs)(\?.*)?"),
    ("download", r"GET .*(/content|/results|:download\?alt=media|\.jsonl\.out)"),
    ("files", r"GET .*/files"),
    ("poll", r"GET .*"),
)


def call_of(request: HttpRequest) -> str:
    """The step of a batch's life that a request belongs to."""
    line = f"{request.method} {request.url}"
    return next((name for name, pattern in _CALLS if re.fullmatch(pattern, line)), "other")


class Wire:
    """A transport to any batch API; all transports that it makes share it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """The calls that were answered, in order."""
        self.hides = False
        """Listings are empty."""
        self.forgets = False
        """No batch is known by its id, as with another account's key."""
        self.results: Callable[[list[bytes]], list[bytes]] = list
        """Makes other lines of a file of results."""
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Called with each call's name before it is sent."""
        self.after: Callable[[str], Awaitable[None]] | None = None
        """Called with each call's name once it is answered; the run does not know yet."""
        self.reading: Callable[[str], None] | None = None
        """Called with each call's name when the first bytes of a reply too large to be held come."""

    def transport(self) -> "Wired":
        """A transport of its own for each run."""
        return Wired(self)


class Wired:
    """See `Wire`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = HttpTransport()

    def prepare(self, urls: Iterable[str]) -> None:
        """See `Transport`."""
        self._http.prepare(urls)

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """See `Transport`."""
        name = call_of(request)
        if self._wire.before is not None:
            await self._wire.before(name)
        reply = await self._http.send(request, timeout_s=timeout_s)
        await self._answered(name)
        if self._wire.forgets and name == "poll":
            return Reply(404, {}, b"")
        hidden = self._wire.hides and name == "list"
        nothing = b"[]" if "/together/" in request.url else b"{}"
        return Reply(200, {"content-type": "application/json"}, nothing) if hidden else reply

    async def receive(self, request: HttpRequest, *, stall_timeout_s: float, take: Take) -> Reply:
        """See `DownloadingTransport`."""
        name = call_of(request)
        if self._wire.before is not None:
            await self._wire.before(name)
        lines: list[bytes] = []

        async def taken(data: bytes) -> None:
            if self._wire.reading is not None:
                self._wire.reading(name)
            lines.append(data)

        reply = await self._http.receive(request, stall_timeout_s=stall_timeout_s, take=taken)
        for line in self._wire.results(b"".join(lines).splitlines()):
            await take(line + b"\n")
        await self._answered(name)
        return reply

    async def close(self) -> None:
        """See `Transport`."""
        await self._http.close()

    async def _answered(self, name: str) -> None:
        self._wire.calls.append(name)
        if self._wire.after is not None:
            await self._wire.after(name)


class WatchedStore(LocalStore):
    """A folder that plays the part of a bucket, and reports each object before and after it is written."""

    is_local = False

    def __init__(self, root: Path, report: Callable[[str, str], None] = lambda _when, _key: None) -> None:
        """`report` is called with `before` or `after` and the key, in whatever thread writes."""
        super().__init__(root)
        self._report = report

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`."""
        self._report("before", key)
        was_new = super().put_new(key, body, seal=seal)
        self._report("after", key)
        return was_new

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        self._report("before", key)
        super().put(key, body)
        self._report("after", key)
