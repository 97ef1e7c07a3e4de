"""A teacher as a worker asks it: its protocol, its endpoints, its account's share and its key, in one place."""

import asyncio
import contextlib
import math

from stillhouse.gen.clock import Clock
from stillhouse.gen.limits.shares import Cost, Estimator
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.endpoints import Endpoint, Endpoints
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import resolve, without_keys
from stillhouse.gen.teachers.signals import KEPT_HEADERS, ceilings_of
from stillhouse.gen.teachers.transport import Lost, NotSent, Reply, Transport
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Message


class TeacherClient:
    """Sends a sample's attempts to one teacher."""

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        max_tokens: int | None,
        transport: Transport,
        account: Account,
        clock: Clock,
    ) -> None:
        self.interpreter = interpreter
        self.teacher = teacher = interpreter.teacher
        self.account = account
        self.estimator = Estimator(max_output=max_tokens)
        self._endpoints = Endpoints(teacher.urls)
        self._urls = {url: url + interpreter.api.path for url in teacher.urls}
        self._turn = asyncio.Lock()
        self._served = asyncio.Event()
        self._transport = transport
        self._clock = clock
        self._keyed_at = clock.monotonic()
        self.reload_key()

    def reload_key(self, *, sent_at: float = math.inf) -> bool:
        """Resolve the key again; whether it is another one than a request of `sent_at` (monotonic) carried.

        Raises:
            UsageError: see `gen.teachers.keys.resolve`.
        """
        key = resolve(self.teacher.api_key, teacher=self.teacher.name)
        keys = self.interpreter.keys
        if keys and key == keys[-1]:
            return sent_at < self._keyed_at
        self.interpreter.keys = (*keys, key)
        self._keyed_at = self._clock.monotonic()
        self._headers = self.interpreter.api.headers(key)
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
        """Send one attempt; of the reply's headers, those in `KEPT_HEADERS` are returned.

        Raises:
            NotSent, Lost: see `gen.teachers.http`.
        """
        sent_at = self._clock.monotonic()
        try:
            reply = await self._transport.post(
                self._urls[endpoint.url], body, headers=self._headers, timeout_s=self.teacher.timeout_s
            )
        except (NotSent, Lost) as error:
            error.args = (self.interpreter.redact(str(error)),)
            raise
        # Providers count when they let a request in, so an answer that took long says what was left long ago.
        if told := ceilings_of(reply.headers, age_s=self._clock.monotonic() - sent_at):
            self.account.told(told)
        # The journal keeps what is returned here; refusals echo keys, even in part.
        if reply.status < 300:
            body = without_keys(reply.body, keys=self.interpreter.keys)
        else:
            body = self.interpreter.redact(reply.body.decode("utf-8", "replace")).encode()
        return Reply(reply.status, self._kept(reply), body)

    def _kept(self, reply: Reply) -> dict[str, str]:
        headers = reply.headers
        kept = {name: value for name in KEPT_HEADERS if (value := headers.get(name)) is not None}
        said = "\n".join(kept.values())
        if reply.status < 300 and not any(key and key in said for key in self.interpreter.keys):
            return kept  # nearly always, and cheaper than looking for parts of keys
        return {name: self.interpreter.redact(value) for name, value in kept.items()}

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
