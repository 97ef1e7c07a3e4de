"""Rows 33 and 34 of the faults: an account's limit holds by the teacher's own count, in virtual time."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from stillhouse.cluster.actors.rate_limiter import RateLimiter
from stillhouse.gen.clock import ManualClock
from stillhouse.gen.limits.allowance import Allowance
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import LEASE_S, Ceilings, Cost, Report
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat
from stillhouse.gen.simulator.limits import Limits as TeacherLimits
from stillhouse.gen.teachers.limit_headers import ceilings_of
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.simulator import SimulatorLimits

TICK_S = 0.01
LATENCY_S = 0.2
COST = Cost(10, 10)


@dataclass
class Hand:
    """A worker that always has something to ask."""

    renews_at: float
    allowance: Allowance = field(default_factory=Allowance)
    ceilings: Ceilings = field(default_factory=Ceilings)
    out: deque[tuple[float, Mapping[str, str]]] = field(default_factory=deque)
    """(when it is answered, the headers of its admission)."""
    served: int = 0


class Play:
    """Workers, their limiter, the teacher that counts, and another consumer of the same account."""

    def __init__(self, limits: Limits, *, burst_s: float, workers: int) -> None:
        self.clock = ManualClock()
        self.limiter = RateLimiter(limits, clock=self.clock)
        self.hands = {f"w{n}": Hand(renews_at=n / workers) for n in range(workers)}
        real = SimulatorLimits(requests_per_minute=limits.requests_per_minute, burst_s=burst_s)
        self.teacher = TeacherLimits(real, slot_s=1.0, now_s=0.0)
        self.answered: list[float] = []
        self.refused = 0

    async def until(self, end: float, *, others_per_s: float = 0.0) -> None:
        """Run until then, while the other consumer uses this much."""
        owed = 0.0
        while self.clock.now < end:
            self.clock.now += TICK_S
            owed += others_per_s * TICK_S
            while owed >= 1.0:
                owed -= 1.0
                self._admitted()
            for name, hand in self.hands.items():
                await self._step(name, hand)

    def rate(self, start: float, end: float) -> float:
        """Our answers per second in this time."""
        return sum(start <= moment < end for moment in self.answered) / (end - start)

    def _admitted(self) -> bool:
        now = self.clock.now
        refusal = self.teacher.admit(prompt_tokens=10, completion_tokens=10, in_flight=0, model="m", now_s=now)
        self.refused += refusal is not None
        return refusal is None

    async def _step(self, name: str, hand: Hand) -> None:
        now = self.clock.now
        while hand.out and hand.out[0][0] <= now:
            _, headers = hand.out.popleft()
            hand.allowance.settle(COST, COST, now=now)
            hand.served += 1
            hand.ceilings.take(ceilings_of(headers, OPENAI_ERRORS, age_s=LATENCY_S), now=now)
        if now >= hand.renews_at:
            standing = hand.ceilings.standing(now=now)
            report = Report(hand.allowance.peak, 50, Replies(hand.served), ceilings=standing)
            hand.allowance.accept(await self.limiter.renew(name, report), asked_at=now, now=now)
            hand.renews_at, hand.served, hand.allowance.peak = now + LEASE_S / 2, 0, hand.allowance.in_flight
        while hand.allowance.reserve(COST, now=now) == 0.0:
            if self._admitted():
                self.answered.append(now)
            hand.out.append((now + LATENCY_S, OpenAIChat().headers(0, self.teacher.levels(now), now=now)))


async def test_a_dead_limiter_lets_nobody_exceed_the_limit() -> None:
    """Row 33: killed at full load -> no window exceeds the limit; nothing new for one lease; throughput is back."""
    limits = Limits(requests_per_minute=6000, in_flight=500)
    play = Play(limits, burst_s=0.3, workers=8)
    await play.until(10.0)
    play.limiter = RateLimiter(limits, listen_s=LEASE_S, clock=play.clock)
    await play.until(30.0)
    assert play.refused == 0
    assert play.rate(5.0, 10.0) >= 95
    assert play.rate(15.0, 30.0) >= 95


async def test_other_users_of_the_account_keep_their_share() -> None:
    """Row 34: another consumer has the same key -> its use shows in the headers, we take the rest, nobody is refused.

    When it is gone the declared limit is ours again, and no more than that.
    """
    play = Play(Limits(requests_per_minute=600, in_flight=100), burst_s=60.0, workers=2)
    await play.until(60.0)
    assert 9.5 <= play.rate(10.0, 60.0) <= 10.05
    await play.until(660.0, others_per_s=7.0)
    assert play.refused == 0
    assert 2.5 <= play.rate(400.0, 660.0) <= 3.5
    await play.until(900.0)
    assert 9.5 <= play.rate(800.0, 900.0) <= 10.05
    assert play.refused == 0
