"""The simulated provider: every chat request gets a serial, one answer or one fault, and one line in the log.

A line holds `serial`, `id`, `time` (of arrival, seconds since the epoch on a clock that never goes back), `model`,
`prompt` (the prompt key in hex, as in the records of a dataset), `status` (that of the response, whether or not a fault
kept it from the client), `fault`, `delivered` (all of the response was handed to the kernel on a living connection),
`prompt_tokens`, `completion_tokens`, `latency_s`, and `completions` (32 hex digits of the SHA-256 of each content).
Tokens are those that a provider would bill: none for a request that was refused or met a fault of status.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from hashlib import sha256
from typing import Any

from stillhouse.gen.simulator.answers import Answer, Answers
from stillhouse.gen.simulator.batches import site_of
from stillhouse.gen.simulator.batches.base import Batches, BatchSite, Row, TooMany
from stillhouse.gen.simulator.dialects import dialect_of
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Dialect, Error, Spoken
from stillhouse.gen.simulator.dialects.openai_chat import error_body, models
from stillhouse.gen.simulator.draws import draw, lognormal, unit
from stillhouse.gen.simulator.exchange import ChatExchange
from stillhouse.gen.simulator.faults import pick
from stillhouse.gen.simulator.limits import Limits
from stillhouse.gen.simulator.protocol import Connection
from stillhouse.gen.simulator.request_log import RequestLog
from stillhouse.gen.simulator.stats import Stats
from stillhouse.gen.simulator.wire import JSON, Request, Response, chunked, response, sniff
from stillhouse.schemas.simulator import Fault, SilenceFault, SimulatorSettings, StatusFault

_FATE_STREAM = 0
_SLOT_LEAST_S = 0.1
_BROKEN = {
    400: "The request is not HTTP/1.1.",
    413: "The body of the request is too large.",
    431: "The headers of the request are too large.",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """One chat request in progress, with its part of the log."""

    dialect: Dialect
    serial: int
    now_s: float
    keep_alive: bool
    line: dict[str, Any]


class _Refused(Exception):
    """The request is not admitted: no answer, no fault, no latency."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.status)
        self.error = error


class Simulator:
    """Answers requests from any number of connections of one event loop.

    Raises:
        UsageError: the file of answers or the log can't be opened.
    """

    def __init__(self, settings: SimulatorSettings, *, loop: asyncio.AbstractEventLoop) -> None:
        self.connections: set[Connection] = set()
        self._settings = settings
        self._loop = loop
        self._answers = Answers(settings)
        self._log = RequestLog(settings.log, loop=loop)
        self._stats = Stats()
        self._serial = settings.first_serial
        self._start_s = time.monotonic()
        self._epoch_s = time.time() - self._start_s
        slot_s = max(settings.latency_s, _SLOT_LEAST_S)
        self._limits = Limits(settings.limits, slot_s=slot_s, now_s=self._start_s)
        self._reasoning_field = None if settings.reasoning == "think" else settings.reasoning
        self._date = (0, "")
        self._batches = Batches(settings, answer=self._row, clock=time.monotonic, epoch_s=self._epoch_s)

    def handle(self, request: Request, connection: Connection) -> ChatExchange | None:
        """Begin to answer a request; None if it is already answered."""
        if request.broken is None and request.method == "POST" and (dialect := dialect_of(request.path)) is not None:
            return self._chat(request, connection, dialect)
        if request.broken is None and (site := site_of(request)) is not None:
            return self._batch(request, connection, site)
        page = self._page(request)
        return ChatExchange(connection, page, keep_alive=request.keep_alive, loop=self._loop).start(0)

    def close(self) -> None:
        """Abort every connection, log what was in progress as not delivered, and complete the log."""
        for connection in list(self.connections):
            connection.abort()
        self._batches.close()
        self._log.close()

    def _page(self, request: Request) -> Response:
        """Everything but the chat: information about the simulator, and errors."""
        status = 200
        match request:
            case Request(broken=int(broken)):
                status, body = broken, error_body(_BROKEN[broken], code=None)
            case Request(method="GET", path="/v1/models" | "/models"):
                body = models(self._settings.model)
            case Request(method="GET", path="/healthz"):
                body = b'{"status":"ok"}'
            case Request(method="GET", path="/_stats"):
                uptime_s = time.monotonic() - self._start_s
                body = self._stats.as_json(uptime_s=uptime_s, connections=len(self.connections))
            case Request(path=path) if dialect_of(path) is not None:
                message = f"Not allowed to {request.method} on {path} (HINT: Perhaps you meant to POST)"
                status, body = 405, error_body(message, code="method_not_supported")
            case _:
                status, body = 404, error_body(f"Invalid URL ({request.method} {request.path})", code="unknown_url")
        return response(status, body, headers={"date": self._now_date()}, keep_alive=request.keep_alive)

    def _chat(self, request: Request, connection: Connection, dialect: Dialect) -> ChatExchange | None:
        now_s, serial = time.monotonic(), self._serial
        self._serial += 1
        line = {"serial": serial, "id": dialect.response_id(serial), "time": self._epoch_s + now_s, "model": None}
        line |= {"prompt": None, "prompt_tokens": 0, "completion_tokens": 0, "completions": []}
        call = _Call(dialect, serial, now_s, request.keep_alive, line)
        fault, delay_s, admitted = None, 0.0, False
        try:
            asked, answers = self._admit(call, request)
        except _Refused as refused:
            answer = self._plain(call, *refused.error)
        else:
            self._stats.begin()
            admitted = True
            fault, delay_s = self._fate(call, asked)
            answer = self._answer(call, asked, answers, fault)
        ended = partial(self._ended, call, answer.status, fault, admitted)
        exchange = ChatExchange(
            connection, answer, fault=fault, keep_alive=call.keep_alive, loop=self._loop, ended=ended
        )
        return exchange.start(delay_s)

    def _batch(self, request: Request, connection: Connection, site: BatchSite) -> ChatExchange | None:
        """A call of a batch API, which is subject to no limits or faults but those of batches."""
        key, dialect, now = self._settings.api_key, site.dialect, self._batches.now
        headers: dict[str, str] = {"date": self._now_date(), **dialect.headers(self._serial, (), now=now)}
        fault: Fault | None = None
        content_type: str | None = None
        more: Mapping[str, str]
        try:
            if key is not None and (error := dialect.unauthorized(request, key, now=now)) is not None:
                status, body, more = error
            else:
                body, status, content_type, more, fault = site.page(request, self._batches)
        except BadRequest as bad:
            status, body, more = dialect.bad_request(bad)
        except (TypeError, KeyError, AttributeError, ValueError):  # a field with a type that no client sends
            status, body, more = dialect.bad_request(BadRequest("The request is malformed."))
        except TooMany:
            status, body, more = dialect.failure(429)
        headers |= {name.lower(): value for name, value in more.items()}
        kind = sniff(body) if content_type is None else content_type
        answer = response(status, body, headers=headers, content_type=kind, keep_alive=request.keep_alive)
        exchange = ChatExchange(connection, answer, fault=fault, keep_alive=request.keep_alive, loop=self._loop)
        return exchange.start(0)

    def _admit(self, call: _Call, request: Request) -> tuple[Asked, list[Answer]]:
        """The request and its answers, charged to the limits; raises `_Refused`."""
        key, dialect = self._settings.api_key, call.dialect
        if key is not None:
            error = dialect.unauthorized(request, key, now=self._epoch_s + call.now_s)
            if error is not None:
                raise _Refused(error)
        try:
            asked = dialect.parse(request)
        except BadRequest as bad:
            raise _Refused(dialect.bad_request(bad)) from None
        except (TypeError, KeyError, AttributeError):  # a field with a type that no client sends
            raise _Refused(dialect.bad_request(BadRequest("The request is malformed."))) from None
        call.line.update(model=asked.model, prompt=asked.prompt.hex())
        answers = [self._give(call, asked, index) for index in range(asked.n)]
        tokens = sum([answer.completion_tokens for answer in answers])
        refusal = self._limits.admit(
            prompt_tokens=asked.prompt_tokens,
            completion_tokens=tokens,
            in_flight=self._stats.in_flight,
            model=asked.model,
            now_s=call.now_s,
        )
        if refusal is not None:
            raise _Refused(dialect.limited(refusal))
        call.line.update(prompt_tokens=asked.prompt_tokens, completion_tokens=tokens)
        return asked, answers

    def _row(self, row: Row, batch: str) -> Error:
        """The reply to one request of a batch, with its line of the log."""
        dialect = dialect_of(row.request.path)
        assert dialect is not None
        now_s, serial = time.monotonic(), self._serial
        self._serial += 1
        line = {"serial": serial, "id": dialect.response_id(serial), "time": self._epoch_s + now_s, "model": None}
        line |= {"prompt": None, "prompt_tokens": 0, "completion_tokens": 0, "completions": []}
        line |= {"batch": batch, "key": row.key, "fault": None, "delivered": True, "latency_s": 0.0}
        reply = self._row_reply(_Call(dialect, serial, now_s, keep_alive=True, line=line), row)
        line["status"] = reply.status
        self._log.add(line)
        return reply

    def _row_reply(self, call: _Call, row: Row) -> Error:
        dialect = call.dialect
        try:
            asked = dialect.parse(row.request)
        except BadRequest as bad:
            return dialect.bad_request(bad)
        except (TypeError, KeyError, AttributeError):
            return dialect.bad_request(BadRequest("The request is malformed."))
        if asked.stream:
            return dialect.bad_request(BadRequest("A request in a batch can't be streamed.", param="stream"))
        answers = [self._give(call, asked, index) for index in range(asked.n)]
        call.line.update(model=asked.model, prompt=asked.prompt.hex(), prompt_tokens=asked.prompt_tokens)
        call.line["completion_tokens"] = sum(answer.completion_tokens for answer in answers)
        call.line["completions"] = [sha256(each.content.encode()).hexdigest()[:32] for each in answers]
        created = int(self._epoch_s + call.now_s)
        return Error(200, dialect.answer(Spoken(asked, answers, self._reasoning_field, call.serial, created)))

    def _give(self, call: _Call, asked: Asked, index: int) -> Answer:
        return self._answers.give(
            asked.message,
            prompt=asked.prompt,
            serial=call.serial,
            index=index,
            max_tokens=asked.max_tokens,
            tools=asked.tools,
            must_call=asked.must_call,
            thinks=asked.thinks,
            seed=asked.seed,
            schema=asked.schema,
            images=asked.images,
        )

    def _fate(self, call: _Call, asked: Asked) -> tuple[Fault | None, float]:
        """The fault and the latency of an admitted request."""
        settings = self._settings
        if not settings.faults and not settings.latency_spread:
            return None, settings.latency_s
        draws = draw(settings.seed, call.serial, stream=_FATE_STREAM)
        number = call.serial - settings.first_serial
        chance, uptime_s = unit(draws[0]), call.now_s - self._start_s
        fault = pick(settings.faults, chance=chance, uptime_s=uptime_s, number=number)
        delay_s = lognormal(draws[1], median=settings.latency_s, sigma=settings.latency_spread)
        if isinstance(fault, SilenceFault):
            is_cut = delay_s > fault.after_s and not asked.stream
            return (fault, fault.after_s) if is_cut else (None, delay_s)
        return fault, delay_s

    def _answer(self, call: _Call, asked: Asked, answers: list[Answer], fault: Fault | None) -> Response:
        dialect = call.dialect
        if isinstance(fault, StatusFault):
            call.line.update(prompt_tokens=0, completion_tokens=0)
            error = dialect.failure(fault.status) if fault.body is None else Error(fault.status, fault.body.encode())
            return self._plain(call, fault.status, error.body, {**error.headers, **fault.headers})
        if self._log.wanted:
            call.line["completions"] = [sha256(each.content.encode()).hexdigest()[:32] for each in answers]
        if isinstance(fault, SilenceFault):  # the provider works on it anyway, and bills it
            return self._plain(call, *dialect.failure(fault.status))
        created = int(self._epoch_s + call.now_s)
        spoken = Spoken(asked, answers, self._reasoning_field, call.serial, created)
        if not asked.stream:
            return self._plain(call, 200, dialect.answer(spoken), {})
        return chunked(
            200,
            dialect.stream(spoken),
            headers=self._headers(call),
            content_type=JSON if asked.in_array else dialect.stream_type,
            keep_alive=call.keep_alive,
        )

    def _plain(self, call: _Call, status: int, body: bytes, headers: Mapping[str, str]) -> Response:
        headers = self._headers(call) | {name.lower(): value for name, value in headers.items()}
        return response(status, body, headers=headers, content_type=sniff(body), keep_alive=call.keep_alive)

    def _headers(self, call: _Call) -> dict[str, str]:
        levels = self._limits.levels(call.now_s)
        told = call.dialect.headers(call.serial, levels, now=self._epoch_s + call.now_s)
        return {"date": self._now_date(), **told}

    def _ended(self, call: _Call, status: int, fault: Fault | None, admitted: bool, delivered: bool) -> None:
        kind = None if fault is None else fault.kind
        if admitted:
            self._stats.in_flight -= 1
        line = call.line
        tokens = line["prompt_tokens"], line["completion_tokens"]
        now_s = time.monotonic()
        times_s = call.now_s - self._start_s, now_s - self._start_s
        self._stats.end(status=status, fault=kind, delivered=delivered, tokens=tokens, times_s=times_s)
        line.update(status=status, fault=kind, delivered=delivered, latency_s=now_s - call.now_s)
        self._log.add(line)

    def _now_date(self) -> str:
        """The `Date` header, computed once per second."""
        second = int(self._epoch_s + time.monotonic())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]
