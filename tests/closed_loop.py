"""Workers' accounts and their ledger against a teacher's real limits, in virtual time: minutes take a second."""

import asyncio
import contextlib
import math
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count

from faults.simulation.loop import VirtualLoop

from stillhouse.gen.limits.estimator import Estimator
from stillhouse.gen.limits.ledger import Ledger
from stillhouse.gen.limits.shares import SHARE_RENEW_S, Cost
from stillhouse.gen.limits.stated_wait import Asked
from stillhouse.gen.simulator.limits import Limits as TeacherLimits
from stillhouse.gen.teachers.account import UNUSED, Account
from stillhouse.gen.teachers.evidence import Evidence
from stillhouse.gen.teachers.outcome import Rate
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.simulator import SimulatorLimits

REFUSAL_S = 0.02
"""How soon a teacher says no."""
PROMPT_CHARS, PROMPT_TOKENS = 200, 50
ODD = "odd"
"""The prompt that is always refused."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a teacher answers."""

    limits: SimulatorLimits = field(default_factory=SimulatorLimits)
    latency_s: float = 1.0
    spread: float = 0.3
    """Sigma of the latencies' log-normal distribution."""
    tokens: tuple[int, int] = (50, 50)
    """[least, most] of an answer."""
    parallel: int | None = None
    """Answers worked on at once; others wait their turn, for it never refuses."""
    refuses: float = 0.0
    """A share refused at any load."""
    storm_s: tuple[float, float] = (math.inf, math.inf)
    """When everything is refused."""
    window: tuple[int, float] = (0, math.inf)
    """(answers, seconds) of a fixed window; requests beyond it have to wait for the next one."""
    odd_since: float = math.inf
    """When a worker begins to ask the one prompt that is always refused."""
    odd_wait_s: float = 0.0
    """What each of its refusals states."""
    odd_refusal_s: float = REFUSAL_S
    """How long each of them takes."""
    on_the_way_s: float = 0.0
    """A request takes up to this long to arrive: one that was sent later may come first."""


@dataclass(slots=True)
class Heard:
    """Everything that went over the wire."""

    served: list[tuple[float, int]] = field(default_factory=list)
    """(second, tokens of output)"""
    asked: list[float] = field(default_factory=list)
    """When a request came."""
    refused: list[float] = field(default_factory=list)
    odd: list[float] = field(default_factory=list)
    """Refusals of the odd prompt."""
    slots: int = 0
    """What the ledger lets at the end."""

    def per_s(self, since: float, until: float, *, tokens: bool = False) -> float:
        """Answers per second, or their tokens, in this time."""
        return sum(n if tokens else 1 for at, n in self.served if since <= at < until) / (until - since)

    @property
    def refused_share(self) -> float:
        """The share of requests that got a 429."""
        return len(self.refused) / (len(self.refused) + len(self.served))


class _Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return 1e9 + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


class _Teacher:
    def __init__(self, behaviour: Behaviour, heard: Heard, *, clock: _Clock, seed: int) -> None:
        self._is = behaviour
        self._heard = heard
        self._clock = clock
        self._rng = random.Random(seed)
        self._limits = TeacherLimits(behaviour.limits, slot_s=1.0, now_s=0.0)
        self._in_flight = 0
        self._window, self._used = 0.0, 0
        self._turns = asyncio.Semaphore(behaviour.parallel or 10**9)

    async def ask(self, prompt: Hashable) -> tuple[int, float]:
        """(tokens of the answer, or 0 if it is refused; the wait that the refusal states)"""
        if self._is.on_the_way_s:
            await asyncio.sleep(self._rng.uniform(0.0, self._is.on_the_way_s))
        now, tokens = self._clock.monotonic(), self._rng.randint(*self._is.tokens)
        self._heard.asked.append(now)
        wait_s, refusal_s = None, REFUSAL_S
        if prompt == ODD:
            wait_s, refusal_s = self._is.odd_wait_s, self._is.odd_refusal_s
        elif (left_s := self._window_left_s(now)) > 0.0:
            wait_s = left_s
        elif self._is.storm_s[0] <= now < self._is.storm_s[1]:
            wait_s = 1.0
        elif self._rng.random() < self._is.refuses:
            wait_s = 0.0
        elif refusal := self._limits.admit(
            prompt_tokens=PROMPT_TOKENS, completion_tokens=tokens, in_flight=self._in_flight, model="m", now_s=now
        ):
            wait_s = refusal.retry_after_s  # until there is room for one
        if wait_s is not None:
            await asyncio.sleep(refusal_s)
            (self._heard.odd if prompt == ODD else self._heard.refused).append(now)
            return 0, wait_s
        self._in_flight += 1
        async with self._turns:
            await asyncio.sleep(self._is.latency_s * math.exp(self._rng.gauss(0, self._is.spread)))
        self._in_flight -= 1
        self._heard.served.append((self._clock.monotonic(), tokens))
        return tokens, 0.0

    def _window_left_s(self, now: float) -> float:
        """Seconds until the next window if this one is used up; otherwise 0.0, after using one more of it."""
        most, window_s = self._is.window
        if not most:
            return 0.0
        if now >= self._window + window_s:
            self._window, self._used = now - now % window_s, 0
        self._used += 1
        return self._window + window_s - now if self._used > most else 0.0


class _Worker:
    """The worker's loops over its account, with prompts that never run out."""

    def __init__(self, name: str, *, ledger: Ledger, teacher: _Teacher, clock: _Clock, renewal_s: float) -> None:
        self._name = name
        self._renewal_s = renewal_s
        self._ledger = ledger
        self._teacher = teacher
        self._clock = clock
        self._account = Account(clock)
        self._estimator = Estimator(max_output=None)
        self._evidence = Evidence()
        self._numbers = count()

    async def work(self) -> None:
        slots: list[asyncio.Task[None]] = []
        while True:
            report = self._account.report(backlog=4096)
            await asyncio.sleep(self._renewal_s)
            self._account.accept(self._ledger.renew(self._name, report, now=self._clock.monotonic()))
            slots += [asyncio.create_task(self._slot()) for _ in range(self._account.slots - len(slots))]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHARE_RENEW_S):
                    await self._account.urgent.wait()

    async def ask_odd(self) -> None:
        """Ask one prompt whenever it may be asked, until it is given up."""
        while (wait_s := await self._ask(ODD)) is not None:  # noqa: ASYNC110 - as the teacher says
            await asyncio.sleep(max(wait_s, self._evidence.wait_s(ODD, now=self._clock.monotonic())))

    async def _slot(self) -> None:
        while True:
            await self._ask(next(self._numbers))

    async def _ask(self, prompt: Hashable) -> float | None:
        """Seconds until the prompt may be asked again; None for never."""
        cost = self._estimator.estimate(PROMPT_CHARS, beside=self._account.in_flight)
        grant = await self._account.reserve(cost)
        sent_at = self._clock.monotonic()
        asked = Asked(prompt, "t", sent_at)
        tokens, wait_s = await self._teacher.ask(prompt)
        now = self._clock.monotonic()
        if tokens:
            used = Cost(PROMPT_TOKENS, tokens)
            self._evidence.served(prompt, endpoint="t", sent_at=sent_at, now=now)
            self._account.served(latency_s=now - sent_at, tokens=tokens, asked=asked)
            self._estimator.learn(PROMPT_CHARS, used)
            self._account.settle(cost, used, grant)
            return None
        blame = self._evidence.weigh(prompt, Rate("slow", 429, wait_s), endpoint="t", now=now, sent_at=sent_at)
        if prompt == ODD and blame is not None and (blame.on == "request" or blame.spares_account):
            self._account.settle(cost, UNUSED, grant)
        else:
            self._account.refused(pause_s=wait_s, asked=asked)
            self._account.settle_refused(cost, grant)
        return None if blame is not None and blame.on == "request" else 0.0 if blame is None else blame.wait_s


def play(
    behaviour: Behaviour,
    *,
    told: Limits | None = None,
    workers: int = 4,
    renewal_s: float = 0.002,
    seconds: float,
    seed: int = 0,
) -> Heard:
    """The outcome of this many workers at this teacher, whose account declares the limits in `told`.

    `renewal_s`: how long a report takes to reach the ledger.
    """
    heard, loop = Heard(), VirtualLoop(None, admit=lambda handle: True)
    clock = _Clock(loop)
    ledger = Ledger(told or Limits(), now=0.0)

    async def work() -> None:
        teacher = _Teacher(behaviour, heard, clock=clock, seed=seed)
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for number in range(workers):
                worker = _Worker(f"worker-{number}", ledger=ledger, teacher=teacher, clock=clock, renewal_s=renewal_s)
                group.create_task(worker.work())
                await asyncio.sleep(0.3)
            if behaviour.odd_since < math.inf:
                await asyncio.sleep(behaviour.odd_since - clock.monotonic())
                group.create_task(worker.ask_odd())

    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(work())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(1.0))
    loop.close()
    heard.slots = ledger.slots(now=seconds)
    return heard
