"""A worker's client for one teacher: its protocol, endpoints, key, and share of the account, in one place."""

import asyncio
import contextlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import cast

from stillhouse.gen.clock import Clock
from stillhouse.gen.errors import TeacherPaused
from stillhouse.gen.limits.estimator import Estimator
from stillhouse.gen.limits.shares import Ceiling, Cost, Resource
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.batches.base import Access
from stillhouse.gen.teachers.decoding import in_utf8
from stillhouse.gen.teachers.durations import passed_on
from stillhouse.gen.teachers.endpoints import Endpoint, Endpoints
from stillhouse.gen.teachers.event_stream import is_binary
from stillhouse.gen.teachers.evidence import Evidence
from stillhouse.gen.teachers.google_tokens import GoogleTokens, TokenAway
from stillhouse.gen.teachers.header_trust import HeaderTrust
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials, credentials_of, without_keys
from stillhouse.gen.teachers.limit_headers import ceilings_of
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.protocols.bedrock_stream import is_stream as is_frames
from stillhouse.gen.teachers.protocols.bedrock_stream import rewritten
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.retry import Blame
from stillhouse.gen.teachers.server_clock import ServerClock
from stillhouse.gen.teachers.transport import DownloadingTransport, HttpRequest, Lost, NotSent, Reply, Take, Transport
from stillhouse.schemas.completion import Completion

TOKEN_EARLY_S = 300.0
"""How long before it expires a token is replaced."""
TOKEN_RETRY_S = 30.0
"""How long to wait before fetching again, while the old token is still valid."""
TOKEN_STANDS_S = 60.0
"""A token refused this long after it was fetched has been revoked, so a new one is worth a try."""
MOST_REFUSAL_BYTES = 2**18
"""Four times what the journal keeps of a refusal's body: where a long one is cut, half a key could be left."""


class TeacherClient:
    """Sends a sample's attempts to one teacher."""

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        transport: Transport,
        account: Account,
        clock: Clock,
    ) -> None:
        self.interpreter = interpreter
        self.teacher = teacher = interpreter.teacher
        self.online: TeacherClient | None = None
        """Asks the same teacher online, in `mode: batch-then-online`."""
        self._name = teacher.name
        self.account = account
        self.estimator = Estimator(max_output=interpreter.ask.max_tokens)
        self._endpoints = Endpoints(teacher.urls)
        for endpoint in self._endpoints.all:
            endpoint.streams = interpreter.streaming.begins_with(endpoint.url)
        self._errors = interpreter.protocol.errors
        self.evidence = Evidence()
        self._trust = HeaderTrust()
        self._turn = asyncio.Lock()
        self._served = asyncio.Event()
        self._transport = transport
        transport.prepare(teacher.urls)
        self._clock = clock
        self._keyed_at = clock.monotonic()
        self._server_clock = ServerClock()
        self.is_left = False
        """True while nobody waits for its endpoints, because samples go to another teacher instead."""
        self._credentials = self._found = Credentials()
        self._tokens: GoogleTokens | None = None
        self._token_ends_at = self._renew_at = 0.0
        """When a fetched token expires, and when to renew it, in UTC seconds since 1970."""
        self._renewing = asyncio.Lock()
        self.reload_key()

    @property
    def hosts(self) -> list[str]:
        """The names of its endpoints."""
        return [endpoint.host for endpoint in self._endpoints.all]

    @property
    def awaited(self) -> int:
        """Requests in flight at endpoints whose last request did not fail."""
        return sum(endpoint.in_flight for endpoint in self._endpoints.all if not endpoint.not_served)

    @property
    def all_closed(self) -> bool:
        """True if the circuit of every endpoint is open, so that only probes are sent."""
        return all(endpoint.is_open for endpoint in self._endpoints.all)

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return sum(endpoint.in_flight for endpoint in self._endpoints.all)

    def leave(self, *, left: bool) -> None:
        """Stop everybody from waiting for its endpoints, or let them wait again."""
        self.is_left = left
        self._served.set()

    def reload_key(self, *, sent_at: float = math.inf) -> bool:
        """Resolve the key again; True if a request sent at `sent_at` (monotonic) used another key, or a wrong time.

        Raises:
            UsageError: see `gen.teachers.keys.credentials_of`.
        """
        found = credentials_of(self.teacher)
        if found == self._found:
            if self._tokens is not None and self._clock.monotonic() - self._keyed_at > TOKEN_STANDS_S:
                self._renew_at = 0.0
                return True
            return sent_at < self._keyed_at
        self._found = found
        self._tokens = None if found.google is None else GoogleTokens(found.google, field=f"teachers.{self._name}")
        self._renew_at = 0.0
        self._take(found)
        return True

    def _take(self, credentials: Credentials) -> None:
        """Use these from now on, and redact them everywhere."""
        self.interpreter.keys = tuple(dict.fromkeys((*self.interpreter.keys, *credentials.secrets)))
        self._keyed_at = self._clock.monotonic()
        self._credentials = credentials

    async def _renew(self, tokens: GoogleTokens) -> None:
        """Fetch a token in a thread; callers that come meanwhile wait for it."""
        async with self._renewing:
            while self._clock.time() >= self._renew_at:
                try:
                    token = await asyncio.to_thread(tokens.fetch)
                except TokenAway as error:
                    if self._clock.time() >= self._token_ends_at:
                        said = self.interpreter.redact(str(error))
                        raise TeacherPaused(
                            f"teacher {self._name}: Google's token server is out of reach ({said}); check the network, "
                            "then run the same command again"
                        ) from None
                    self._renew_at = self._clock.time() + TOKEN_RETRY_S
                else:
                    self._token_ends_at = token.ends_at
                    self._renew_at = max(token.ends_at - TOKEN_EARLY_S, self._clock.time() + TOKEN_RETRY_S)
                    self._take(replace(self._found, key=token.text, secrets=(*self._found.secrets, token.text)))

    @property
    def is_usable(self) -> bool:
        """True if an endpoint may be asked now, so that `usable` would not wait."""
        if self._tokens is not None and self._clock.time() >= self._renew_at:
            return False
        return not self._turn.locked() and self._endpoints.wait_s(now=self._clock.monotonic()) <= 0.0

    async def usable(self) -> None:
        """Wait until an endpoint may be asked or `is_left` is set; callers must not hold a share of the account.

        Raises:
            UsageError, TeacherPaused: no token can be had.
        """
        if self._tokens is not None and self._clock.time() >= self._renew_at:
            await self._renew(self._tokens)
        if self.is_usable:
            return
        async with self._turn:  # one caller waits for a circuit to close, not a thousand
            while not self.is_left and (wait_s := self._endpoints.wait_s(now=self._clock.monotonic())) > 0.0:
                self._served.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._served.wait()

    def endpoint(self, *, again: bool, avoid: Sequence[str] = ()) -> Endpoint | None:
        """The endpoint to send to next, which counts as busy until `done`; None if none may be asked."""
        return self._endpoints.pick(now=self._clock.monotonic(), again=again, avoid=avoid)

    def done(self, endpoint: Endpoint, *, served: bool | None) -> None:
        """A request to the endpoint has ended; see `Endpoints.done`."""
        now = self._clock.monotonic()
        endpoint.suspect(self.evidence.suspected_at(endpoint.host), now=now)
        self._endpoints.done(endpoint, served=served, now=now)
        if served or endpoint.suspected_at is not None:
            self._served.set()

    def request(self, ask: Request, endpoint: Endpoint, *, now: float) -> HttpRequest:
        """The request of one attempt at this endpoint; `now`: UTC seconds since 1970."""
        now += self._server_clock.ahead_s
        if not endpoint.streams:
            return self.interpreter.protocol.request(ask, base_url=endpoint.url, key=self._credentials, now=now)
        ask = ask._replace(stream=True)
        request = self.interpreter.protocol.request(ask, base_url=endpoint.url, key=self._credentials, now=now)
        return request._replace(stall_timeout_s=self.teacher.stall_timeout_s)

    def timed_out(self, endpoint: Endpoint) -> bool:
        """A gateway or a time-out cut a request short; True if this makes the endpoint's answers streamed from now on.

        Several requests in flight may report the same endpoint: only the first changes it.
        """
        if endpoint.streams or not self.interpreter.streaming.after_timeout:
            return False
        endpoint.streams = True
        return True

    def stream_from(self, host: str) -> None:
        """An answer of the endpoint with this name timed out elsewhere: treat that as `timed_out` does."""
        for endpoint in self._endpoints.all:
            if endpoint.host == host:
                self.timed_out(endpoint)

    @property
    def clock_note(self) -> str | None:
        """What to tell the user about this machine's clock; None if it is right."""
        return self._server_clock.words()

    async def send(self, request: HttpRequest) -> Reply:
        """Send one attempt; the reply returned has only the headers that the protocol's vocabulary keeps.

        Raises:
            NotSent, Lost: see `gen.teachers.http`.
        """
        sent_at = self._clock.monotonic()
        try:
            reply = await self._transport.send(request, timeout_s=self.teacher.timeout_s)
        except (NotSent, Lost) as error:
            error.args = (self.interpreter.redact(str(error)),)
            if isinstance(error, Lost) and error.cut is not None:
                error.cut = await self._as_kept(error.cut)
            raise
        # Providers count a request when they admit it, so a slow answer reports what was left long ago.
        now = self._clock.monotonic()
        ceilings = ceilings_of(
            reply.headers,
            self._errors,
            age_s=now - sent_at,
            refused=reply.status == 429,
            answers=self._trust.answers(now=now),
        )
        if reply.status < 400:  # a refusal's ceilings apply only once it is clear who is to blame
            if believed := self._trust.answered(ceilings, sent_at=sent_at, now=now):
                self.account.told(believed)
            ceilings = {}
        elif reply.status == 429:
            self._trust.refused()
        if reply.status >= 400 and self._credentials.aws is not None:
            self._see_clock(reply)
        return await self._as_kept(reply, ceilings)

    async def _as_kept(self, reply: Reply, ceilings: Mapping[Resource, Ceiling] = MappingProxyType({})) -> Reply:
        """The reply as the journal stores it: refusals echo keys, even in part."""
        kind = reply.headers.get("content-type", "")
        if len(reply.body) < LARGE_BYTES:
            body = self._kept_body(reply.status, reply.body, kind)
        else:
            body = await reply_threads.keep(partial(self._kept_body, reply.status, reply.body, kind))
        return Reply(reply.status, self._kept(reply), body, 0.0, ceilings)

    def _kept_body(self, status: int, body: bytes, kind: str) -> bytes:
        if status >= 300:
            body = body[:MOST_REFUSAL_BYTES]
        framed = is_frames(body)
        if not (framed or is_binary(kind)):
            body = in_utf8(body, kind)
        if status >= 300:
            return self.interpreter.redact(body.decode("utf-8", "replace")).encode()
        if framed:
            return rewritten(body, partial(without_keys, keys=self.interpreter.keys))
        return without_keys(body, keys=self.interpreter.keys)

    def host_of(self, url: str) -> str:
        """The name of the endpoint with this URL."""
        return next(endpoint.host for endpoint in self._endpoints.all if endpoint.url == url)

    def endpoint_for(self, url: str) -> str:
        """The endpoint with this URL if the teacher still has it, else its first."""
        urls = self.teacher.urls
        return url if url in urls else urls[0]

    @property
    def secret(self) -> str:
        """Differs from one account's key to another's; empty for AWS's keys, which change by themselves."""
        key = self._credentials
        return "" if key.aws is not None else " ".join((key.key or "", *key.secrets)).strip()

    def access(self, url: str) -> Access:
        """What calls of the batch API at this endpoint need."""
        return Access(url, self._credentials, self._clock.time() + self._server_clock.ahead_s)

    async def call(self, request: HttpRequest) -> Reply:
        """Send a call of a batch API and return its whole reply, redacted if it is a refusal.

        Raises:
            NotSent, Lost: see `gen.teachers.http`.
        """
        try:
            reply = await self._transport.send(request, timeout_s=self.teacher.timeout_s)
        except (NotSent, Lost) as error:
            error.args = (self.interpreter.redact(str(error)),)
            raise
        if reply.status < 300:
            return reply
        if self._credentials.aws is not None:
            self._see_clock(reply)
        return reply._replace(body=self.interpreter.redact(reply.body.decode("utf-8", "replace")).encode())

    async def download(self, request: HttpRequest, take: Take) -> Reply:
        """Pass the body of a 2xx reply to `take` as it comes; see `HttpTransport.receive`."""
        transport = cast(DownloadingTransport, self._transport)
        return await transport.receive(request, stall_timeout_s=self.teacher.stall_timeout_s, take=take)

    def told(self, refusal: Reply) -> None:
        """Apply the limits that a refusal of the account states."""
        self._trust.stated(refusal.ceilings, now=self._clock.monotonic())
        self.account.told(refusal.ceilings)

    def _see_clock(self, refusal: Reply) -> None:
        if self._server_clock.refused(refusal.status, refusal.headers, now=self._clock.time()):
            self._keyed_at = self._clock.monotonic()  # what was signed before is worth asking again

    def _kept(self, reply: Reply) -> dict[str, str]:
        headers, names = reply.headers, self._errors.kept_headers
        kept = {name: value for name, value in headers.items() if name in names}
        if reply.status >= 300:
            kept |= passed_on(headers)
        if reply.status < 300:
            said = "\n".join(kept.values())
            if not any(key in said for key in self.interpreter.keys):
                return kept  # nearly always; cheaper than searching for parts of keys
        return {name: self.interpreter.redact(value) for name, value in kept.items()}

    def wait_s(self, prompt: Hashable) -> float:
        """Seconds that this prompt still has to wait, as the teacher ordered."""
        return self.evidence.wait_s(prompt, now=self._clock.monotonic())

    def weigh(self, prompt: Hashable, outcome: Outcome, *, endpoint: Endpoint, sent_at: float) -> Blame | None:
        """Record the outcome of a request sent at that time; returns who is to blame, None if its own words say so."""
        now = self._clock.monotonic()
        if isinstance(outcome, Completion):
            endpoint.answered = True
            self.evidence.served(prompt, endpoint=endpoint.host, sent_at=sent_at, now=now)
            return None
        return self.evidence.weigh(prompt, outcome, endpoint=endpoint.host, now=now, sent_at=sent_at)

    def learn(self, chars: int, completion: Completion) -> Cost | None:
        """The usage an answer states, None if it states none; `chars`, the prompt's size, improves later estimates."""
        usage = completion.usage
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        used = Cost(usage.input_tokens, usage.output_tokens)
        self.estimator.learn(chars, used)
        return used
