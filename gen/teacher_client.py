"""A teacher as a worker asks it: its protocol, its endpoints, its account's share and its key, in one place."""

import asyncio
import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stillhouse.gen.clock import Clock
from stillhouse.gen.concurrency import Replies
from stillhouse.gen.endpoints import Endpoint, Endpoints
from stillhouse.gen.keys import redacted, resolve, without_keys
from stillhouse.gen.limits import Allowance, Ceiling, Ceilings, Cost, Estimator, Lease, Report, Resource
from stillhouse.gen.outcome import Outcome
from stillhouse.gen.teachers import api_of
from stillhouse.gen.teachers.signals import ceilings_of
from stillhouse.gen.transport import Lost, NotSent, Reply, Transport
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.recipe import Ask
from stillhouse.schemas.record import RecordIds
from stillhouse.schemas.teacher import Teacher

LEAST_PAUSE_S = 0.05
MOST_LEAST_PAUSE_S = 1.0
"""A 429 that orders no wait to speak of is a pause all the same; the next one, with no answer since, a longer one."""

MOST_HELD_S = 2.0
"""A refused request keeps its slot for as long as an answer takes, at most this."""

UNUSED = Cost(0, 0)
"""What a request used that was never sent, or refused unserved."""


class Account:
    """A worker's side of an account: requests wait here, in turn, for their share of the limits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowance = Allowance()
        self._waiting: deque[tuple[Cost, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._reported_at = clock.monotonic()
        self._served = 0
        self._refused = 0
        self._busy_s = 0.0
        self._tokens = 0
        self._answer_s = 0.0
        """How long answers take lately."""
        self._ramped = False
        self._least_pause_s = LEAST_PAUSE_S
        self._told_to_wait_until = 0.0
        self._ceilings = Ceilings()
        self.urgent = asyncio.Event()
        """Set when the ledger should hear of us at once."""

    async def reserve(self, cost: Cost) -> None:
        """Wait for the right to send a request of this cost; `settle` gives the slot back."""
        if not self._waiting and self._allowance.reserve(cost, now=self._clock.monotonic()) == 0.0:
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        self._pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._pump()  # those behind may be let now
            else:
                self.settle(cost, UNUSED)
            raise

    @property
    def is_paused(self) -> bool:
        """Whether the teacher told the account to wait, which holds for what is reserved too."""
        return self._allowance.is_paused(now=self._clock.monotonic())

    def settle(self, reserved: Cost, used: Cost | None) -> None:
        """The request ended; see `Allowance.settle`."""
        self._allowance.settle(reserved, used, now=self._clock.monotonic())
        self._pump()

    def settle_refused(self, reserved: Cost) -> None:
        """The request was refused as too much: its slot is free when an answer would have come.

        Freed at once, a handful above the limit would be sent again every few milliseconds, and refused.
        """
        hold_s = min(self._answer_s, MOST_HELD_S)
        asyncio.get_running_loop().call_later(hold_s, self.settle, reserved, UNUSED)

    def served(self, *, latency_s: float, tokens: int) -> None:
        """An answer came, after so long, with so many tokens of output."""
        self._served += 1
        self._busy_s += latency_s
        self._answer_s += 0.1 * (latency_s - self._answer_s)
        self._tokens += tokens
        self._least_pause_s = LEAST_PAUSE_S

    def refused(self, *, pause_s: float | None = None, ramped: bool = False) -> None:
        """A request was refused as too much, or got no whole answer; perhaps with a wait for the whole account.

        `ramped`: as growing too fast.
        """
        self._refused += 1
        self._ramped = self._ramped or ramped
        if pause_s is not None:
            now = self._clock.monotonic()
            if not self.is_paused:
                pause_s = max(pause_s, self._least_pause_s)
                self._least_pause_s = min(2 * self._least_pause_s, MOST_LEAST_PAUSE_S)
            self._allowance.pause(pause_s, now=now)
            self._told_to_wait_until = max(self._told_to_wait_until, now + pause_s)
            self.urgent.set()

    def told(self, ceilings: Mapping[Resource, Ceiling]) -> None:
        """A reply says what is left of the account's limits."""
        self._ceilings.take(ceilings, now=self._clock.monotonic())
        # Half of what we may use alone: too much to wait for the next renewal, and no reason to renew at every reply.
        if any(ceiling.rate < self._allowance.rate(name) / 2 for name, ceiling in ceilings.items()):
            self.urgent.set()

    def report(self, *, backlog: int) -> Report:
        """What happened since the last report; `backlog`: requests beside those that wait here.

        A wait that the teacher ordered is told until it is over, for a report may get lost.
        """
        now = self._reported_at = self._clock.monotonic()
        report = Report(
            in_flight=self._allowance.peak,
            waiting=backlog + len(self._waiting),
            replies=Replies(self._served, self._refused, self._busy_s, self._tokens),
            pause_s=max(0.0, self._told_to_wait_until - now),
            ramped=self._ramped,
            ceilings=self._ceilings.standing(now=now),
        )
        self._allowance.peak = self._allowance.in_flight
        self._served = self._refused = self._tokens = 0
        self._busy_s = 0.0
        self._ramped = False
        self.urgent.clear()
        return report

    def accept(self, lease: Lease) -> None:
        """Take over the lease that came for the last report."""
        self._allowance.accept(lease, asked_at=self._reported_at, now=self._clock.monotonic())
        self._pump()

    @property
    def slots(self) -> int:
        """Requests that may be under way at once here."""
        return self._allowance.slots

    def _pump(self) -> None:
        """Let those in front go, as far as the share reaches, and come back when it reaches further."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            cost, turn = self._waiting[0]
            wait = 0.0 if turn.done() else self._allowance.reserve(cost, now=self._clock.monotonic())
            if wait > 0.0:
                if wait < 3600.0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                return
            self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)


class TeacherClient:
    """Sends a sample's attempts to one teacher."""

    def __init__(self, teacher: Teacher, ask: Ask, *, transport: Transport, account: Account, clock: Clock) -> None:
        self.teacher = teacher
        self.api = api_of(teacher, ask)
        self.account = account
        self.estimator = Estimator(max_output=ask.max_tokens)
        self.ids = RecordIds(teacher=teacher.name, model=teacher.model_name, parameters=ask.parameters())
        self._endpoints = Endpoints(teacher.urls)
        self._urls = {url: url + self.api.path for url in teacher.urls}
        self._turn = asyncio.Lock()
        self._served = asyncio.Event()
        self._transport = transport
        self._clock = clock
        self._keys: tuple[str | None, ...] = ()
        """All that were in use, the last one now."""
        self._keyed_at = clock.monotonic()
        self.reload_key()

    def reload_key(self, *, sent_at: float = math.inf) -> bool:
        """Resolve the key again; whether it is another one than a request of `sent_at` (monotonic) carried.

        Raises:
            UsageError: see `gen.keys.resolve`.
        """
        key = resolve(self.teacher.api_key, teacher=self.teacher.name)
        if self._keys and key == self._keys[-1]:
            return sent_at < self._keyed_at
        self._keys = (*self._keys, key)
        self._keyed_at = self._clock.monotonic()
        self._headers = self.api.headers(key)
        return True

    async def usable(self) -> None:
        """Wait until an endpoint may be asked; who waits here must hold nothing of the account's share."""
        async with self._turn:  # one waits for a closed circuit, not a thousand
            while (wait_s := self._endpoints.wait_s(now=self._clock.monotonic())) > 0.0:
                self._served.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._served.wait()

    def endpoint(self, *, again: bool) -> Endpoint | None:
        """The endpoint to send to next, counted as busy until `done`; None where none may be asked any more."""
        return self._endpoints.pick(now=self._clock.monotonic(), again=again)

    def done(self, endpoint: Endpoint, *, served: bool | None) -> None:
        """The request to the endpoint ended; see `Endpoints.done`."""
        self._endpoints.done(endpoint, served=served, now=self._clock.monotonic())
        if served:
            self._served.set()

    async def post(self, endpoint: Endpoint, body: bytes) -> Reply:
        """Send one attempt.

        Raises:
            NotSent, Lost: see `gen.http`.
        """
        sent_at = self._clock.monotonic()
        try:
            reply = await self._transport.post(
                self._urls[endpoint.url], body, headers=self._headers, timeout_s=self.teacher.timeout_s
            )
        except (NotSent, Lost) as error:
            error.args = (self.redact(str(error)),)
            raise
        # Providers count when they let a request in, so an answer that took long says what was left long ago.
        if told := ceilings_of(reply.headers, age_s=self._clock.monotonic() - sent_at):
            self.account.told(told)
        # The journal keeps what is returned here; refusals echo keys, even in part.
        if reply.status < 300:
            body = without_keys(reply.body, keys=self._keys)
            return reply if body is reply.body else replace(reply, body=body)
        return replace(reply, body=self.redact(reply.body.decode("utf-8", "replace")).encode())

    def read(self, reply: Reply) -> Outcome:
        """What the reply says, with no key in its words."""
        outcome = self.api.read(reply)
        return outcome if isinstance(outcome, Completion) else replace(outcome, message=self.redact(outcome.message))

    def redact(self, text: str) -> str:
        """The text without this teacher's keys."""
        return redacted(text, keys=self._keys)

    def estimate(self, messages: tuple[Message, ...]) -> Cost:
        """What asking this is expected to use."""
        return self.estimator.estimate(sum(len(content) for _, content in messages))

    def learn(self, messages: tuple[Message, ...], completion: Completion) -> Cost | None:
        """What the answer used, where it says; remembered for later estimates."""
        usage = completion.usage
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        used = Cost(usage.input_tokens, usage.output_tokens)
        self.estimator.learn(sum(len(content) for _, content in messages), used)
        return used

    def cost_usd(self, completion: Completion) -> float | None:
        """The answer's price by the recipe."""
        price, usage = self.teacher.price, completion.usage
        if price is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = usage.cached_tokens or 0
        cached_price = price.input if price.cached_input is None else price.cached_input
        fresh = max(0, usage.input_tokens - cached)
        return (fresh * price.input + cached * cached_price + usage.output_tokens * price.output) / 1e6


class Assigner:
    """Says which teacher a sample is asked of: by weight, and for ever the same for the same sample."""

    def __init__(self, clients: Sequence[TeacherClient]) -> None:
        self._clients = list(clients)
        self._total = sum(client.teacher.weight for client in clients)

    def __call__(self, key: bytes, sample: int) -> TeacherClient:
        """The teacher for the sample of the prompt with this key."""
        if len(self._clients) == 1:
            return self._clients[0]
        drawn = hashlib.blake2b(key + sample.to_bytes(4, "big"), digest_size=8, person=b"stillhouse-who").digest()
        point = int.from_bytes(drawn, "big") / 2**64 * self._total
        for client in self._clients:
            point -= client.teacher.weight
            if point < 0:
                return client
        return self._clients[-1]
