"""A teacher on a virtual wire: what it serves, refuses and loses is drawn from the seed; it knows what it was asked."""

import asyncio
import contextvars
import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import orjson

from stillhouse.gen.limits.stated_wait import TRIAL_AFTER_S, TRIAL_S
from stillhouse.gen.teachers.transport import HttpRequest, Lost, NotSent, Reply, Take

from .history import Broken, History, Request
from .loop import VirtualLoop
from .processes import Process, check_alive
from .provider import Provider

SEEDS_APART = 1000
"""Under `route: each`, teacher n is asked sample k with the seed n x this + k: what history calls the sample."""

FAULTS = (
    "rate", "busy", "failed", "lost", "cut", "unconnected", "torn", "empty", "hang", "bad", "refused", "length",
    "filtered", "broke",
)  # fmt: skip
"""What can become of a request instead of an answer, or of a plain one."""
JUDGE = "judge"
"""The judge's name, and its host's. What it is asked is a sample of its own, for no two such messages are equal."""
MAX_TOKENS = 16
PRICE = {"input": 20.0, "output": 5000.0}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7}
"""Of every answer, as it reports it."""
REFUSALS = frozenset(("rate", "busy", "failed", "broke"))
PROPAGATION_S = 1.5
"""After this time, a wait stated to one worker holds for all: half a lease, and the messages."""


@dataclass(slots=True)
class _Pause:
    """A wait that a refusal stated to a worker."""

    told: Process
    asked: Request
    """What was refused."""
    at: float
    until: float
    own_at: float = math.inf
    """Since when others that this worker asked later were served, or at least admitted: it is the prompt's alone."""
    trial: Request | None = None
    """The one request that this worker sends in the meantime, to see if it is refused too."""
    meanwhile: "list[_Pause]" = field(default_factory=list)
    """Waits stated for other prompts that overlap with it: a worker that knows of one takes this one for the account's,
    whatever else happens."""


class Teacher:
    """A `gen.teachers.transport.Transport`."""

    def __init__(
        self,
        rng: random.Random,
        loop: VirtualLoop,
        history: History,
        *,
        weights: Mapping[str, float],
        latency_s: float,
        in_flight: int | None,
        point: Callable[[str], None],
        outages: Sequence[tuple[str, float, float]] = (),
        loading: bool = False,
        batch_troubles: float = 0.0,
    ) -> None:
        self.provider = Provider(
            rng,
            loop,
            history,
            troubles=batch_troubles,
            judge=JUDGE,
            reply=self._reply,
            billed=lambda sent: history.billed(_bill_usd(sent.sample[0], sent.fate)),
        )
        self._rng = rng
        self._loop = loop
        self._history = history
        self._fates = list(weights)
        self._weights = list(weights.values())
        self._latency_s = latency_s
        self.between_s: tuple[float, float] | None = None
        """The least and the most that an answer takes, where a test says so."""
        self._most = in_flight
        self._point = point
        self._busy = 0
        self._outages = outages
        self._outage = "loading" if loading else "unconnected"
        self._accept = 0
        """Accepted answers wanted of each prompt, or of each teacher to it; 0: all samples are."""
        self._flying: Counter[tuple[Process, str, int]] = Counter()
        """Samples of each prompt, and of each teacher under `route: each`, that a worker asks now."""
        self.odd: Mapping[str, str] = {}
        """Prompts that are always refused for a limit, each with the wait that its refusals state."""
        self._refused: set[str] = set()
        """Prompts that were refused before."""
        self._pauses: list[_Pause] = []

    @property
    def accept(self) -> int:
        """Accepted answers wanted of each prompt, or of each teacher to it; 0: all samples are."""
        return self._accept

    @accept.setter
    def accept(self, wanted: int) -> None:
        self._accept = self.provider.accept = wanted

    def turn(self, weights: Mapping[str, float]) -> None:
        """From now on, draw these fates for requests."""
        self._fates, self._weights = list(weights), list(weights.values())

    def prepare(self, urls: Iterable[str]) -> None:
        """No preparation is needed."""

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """See `gen.teachers.transport.Transport`."""
        self._point("post")
        process = check_alive()
        assert process is not None
        if self.provider.takes(request):
            return await self._served_by_provider(request)
        document = orjson.loads(request.body)
        sample = document["messages"][-1]["content"], document["seed"]
        teacher = request.url.split("/")[2]
        if teacher != JUDGE:  # what it was asked is no row's attempt
            self._history.attempts[sample] += 1
        fate = "rate" if sample[0] in self.odd else self._rng.choices(self._fates, self._weights)[0]
        if any(teacher == name and start <= self._loop.time() < end for name, start, end in self._outages):
            fate = self._outage
        if teacher == JUDGE and fate in ("length", "filtered", "refused"):  # words of a judge, and not of an answer
            fate = "answer"
        if fate == "unconnected":
            await asyncio.sleep(self._draw())
            raise NotSent("no connection")
        try:
            tried = self._check_pauses(process)
            if teacher != JUDGE:
                self.provider.check_free(process, sample)
            sent = self._history.sent(process, sample, fate, teacher=teacher)
            if tried is not None:
                tried.trial = sent
            self._history.billed(_bill_usd(sample[0], fate))
        except Broken as error:
            self._history.broken.append(error)
            raise
        reply = self._loop.create_future()
        self._busy += 1
        series = process, sample[0], sample[1] // SEEDS_APART
        self._flying[series] += 1
        self._check_flying(*series)
        self._check_in_flight()
        if fate != "hang":
            outside = contextvars.Context()
            self._loop.call_at(self._loop.time() + self._draw(), self._serve, sent, reply, context=outside)
        try:
            async with asyncio.timeout(timeout_s):
                served: Reply = await reply
        except TimeoutError:
            sent.fate = "hang"
            raise Lost("no whole reply") from None
        finally:
            self._busy -= 1
            self._flying[series] -= 1
        self._point("post")
        is_first = sample[0] not in self._refused  # of a prompt refused again, nobody knows yet if it holds for others
        if fate in REFUSALS:
            self._refused.add(sample[0])
        if fate == "rate" and is_first and (wait_s := float(served.headers["retry-after"])) > 0:
            self._pause(process, sent, wait_s)
        if served.status == 200:
            self._weigh_pauses(process, sent)
        return served

    async def receive(self, request: HttpRequest, *, stall_timeout_s: float, take: Take) -> Reply:
        """See `gen.teachers.transport.DownloadingTransport`."""
        await self._reach(request)
        reply = await self.provider.results(request, take)
        self._point("post")
        return reply

    async def _served_by_provider(self, request: HttpRequest) -> Reply:
        left_at = self._loop.time()  # a process that is stopped now does not stop what is on its way
        await self._reach(request)
        try:
            reply = self.provider.serve(request, left_at=left_at)
        except Broken as error:
            self._history.broken.append(error)
            raise
        finally:
            await asyncio.sleep(self._rng.uniform(0.01, 0.5))
        self._point("post")
        return reply

    async def _reach(self, request: HttpRequest) -> None:
        """A call is on its way to the provider, which may be away."""
        self._point("post")
        await asyncio.sleep(self._rng.uniform(0.01, 0.5))
        check_alive()
        name = request.url.split("/")[2]
        if any(name == each and start <= self._loop.time() < end for each, start, end in self._outages):
            raise NotSent("no connection")

    async def close(self) -> None:
        """See `gen.teachers.transport.Transport`."""

    def _check_flying(self, process: Process, prompt: str, teacher: int) -> None:
        """A worker never asks more samples of a prompt at a time than accepted answers are wanted."""
        flying = self._flying[process, prompt, teacher]
        if self.accept and flying > self.accept:
            self._history.broken.append(Broken(f"{process.name} asks {flying} samples of {prompt} at once"))

    def _draw(self) -> float:
        if self.between_s is not None:
            return self._rng.uniform(*self.between_s)
        return self._latency_s * self._rng.choice((0.1, 0.5, 1.0, 1.0, 1.5, 4.0)) * self._rng.uniform(0.5, 1.5)

    def _check_in_flight(self) -> None:
        calm = self._history.undisturbed and not self._history.message_lost
        if self._most is not None and self._busy > self._most and calm:
            raise Broken(f"{self._busy} requests in flight, {self._most} are allowed")

    def _pause(self, process: Process, refused: Request, wait_s: float) -> None:
        """Record that a refusal asked a worker to wait."""
        now = self._loop.time()
        new = _Pause(process, refused, now, now + wait_s)
        for other in self._pauses:
            if now < other.until:
                other.meanwhile.append(new)
                new.meanwhile.append(other)
        self._pauses.append(new)

    def _knows(self, process: Process, pause: _Pause) -> bool:
        """True if a worker must know of a wait: it was stated to this worker, or to one that could pass it on."""
        told, history = pause.told, self._history
        return told is process or not (
            self._loop.time() <= pause.at + PROPAGATION_S
            or told.node.cluster != process.node.cluster
            or told.disturbed
            or process.disturbed
            or told.dead_at is not None
            or history.limiter_died
            or history.message_lost
        )

    def _is_shared(self, pause: _Pause) -> bool:
        """True if the worker that was told must know that other prompts were refused too."""
        return any(self._knows(pause.told, other) for other in pause.meanwhile)

    def _weigh_pauses(self, process: Process, served: Request) -> None:
        """A wait is the refused prompt's own if another, asked later, is served."""
        for pause in self._pauses:
            is_later = served.sent_at > pause.asked.sent_at and served.sample[0] != pause.asked.sample[0]
            if pause.told is process and is_later and not self._is_shared(pause):
                pause.own_at = min(pause.own_at, self._loop.time())

    def _check_pauses(self, process: Process) -> _Pause | None:
        """Check that nobody sends while the account has to wait; returns the wait that this request tries."""
        now, tried = self._loop.time(), None
        for pause in self._pauses:
            told, trial = pause.told, pause.trial
            if trial is not None and now >= trial.sent_at + TRIAL_S and not self._is_shared(pause):
                pause.own_at = min(pause.own_at, trial.sent_at + TRIAL_S)
            if not pause.at < now < min(pause.until, pause.own_at) - 1e-6:
                continue
            may_try = told is process and trial is None and now >= pause.at + TRIAL_AFTER_S
            if may_try and not self._is_shared(pause):
                tried = pause
            elif self._knows(process, pause):
                early_s = pause.until - now
                raise Broken(f"{process.name} sends {early_s:.2f} s too early after a 429 to {told.name}")
        return tried

    def check_rates(self, per_s: float) -> float:
        """Over any minute, the refusals of the odd prompts cost at most half of the rate; the least part that was left.

        Only for a calm world: it judges from the first wait to the last request.

        Raises:
            Broken: they cost more.
        """
        times = [request.sent_at for request in self._history.requests if request.sample[0] not in self.odd]
        begins = range(int(self._pauses[0].at) - 60, int(times[-1]) - 60)
        rates = [
            (bisect_left(times, begin + 60.0) - bisect_left(times, begin)) / 60.0 / per_s
            for begin in begins
            if begin >= times[0]
        ]
        if (least := min(rates)) < 0.5:
            raise Broken(f"a minute had {least:.0%} of the rate, for refusals of one prompt")
        return least

    def _serve(self, request: Request, reply: "asyncio.Future[Reply]") -> None:
        if reply.done():
            return
        if request.fate in ("lost", "cut"):
            reply.set_exception(Lost("reset"))
        else:
            reply.set_result(self._reply(request))

    def _reply(self, request: Request) -> Reply:
        rng = self._rng
        match request.fate:
            case "rate":
                wait_s = self.odd.get(request.sample[0]) or rng.choice(("0", "1", "2.5", "6"))
                return _error(429, {"retry-after": wait_s}, request)
            case "busy":
                return _error(503, {"retry-after": "1"} if rng.random() < 0.5 else {}, request)
            case "loading":
                return _error(503, {}, request, message="Loading the model")
            case "failed":
                return _error(500, {}, request)
            case "bad":
                return _error(400, {}, request)
            case "broke":
                return _error(402, {}, request)
            case "refused":
                return _error(400, {}, request, code="content_policy_violation")
        text = f"{request.sample[0]}? {rng.randrange(3)}"
        if request.teacher == JUDGE:
            text = orjson.dumps({"reason": "", "score": 1 + crc32(request.sample[0].encode()) % 4}).decode()
        finish = {"length": "length", "filtered": "content_filter"}.get(request.fate, "stop")
        body = _answer(request, text, finish, choices=request.fate != "empty")
        return Reply(200, {}, body[: rng.randrange(1, len(body))] if request.fate == "torn" else body)


def _bill_usd(prompt: str, fate: str) -> float:
    """What a request costs: as its answer says or, of answers that are lost, all that it can cost."""
    if fate in ("answer", "length", "filtered", "empty"):
        return (USAGE["prompt_tokens"] * PRICE["input"] + USAGE["completion_tokens"] * PRICE["output"]) / 1e6
    if fate in ("lost", "cut", "hang", "torn", "missing"):
        return ((len(prompt) + 1024) * PRICE["input"] + MAX_TOKENS * PRICE["output"]) / 1e6
    return 0.0


def _answer(request: Request, text: str, finish: str, *, choices: bool) -> bytes:
    message = {"role": "assistant", "content": text}
    return orjson.dumps(
        {
            "id": f"r{request.serial}",
            "model": "m",
            "usage": USAGE,
            "choices": [{"finish_reason": finish, "message": message}] if choices else [],
        }
    )


def _error(
    status: int, headers: dict[str, str], request: Request, *, code: str = "some_error", message: str = "refused"
) -> Reply:
    error = {"code": code, "message": f"{message}, says r{request.serial}"}
    return Reply(status, headers, orjson.dumps({"id": f"r{request.serial}", "error": error}))
