"""Finds how many requests at once a teacher bears that nobody declared a limit of.

A search for the knee, in steps that are judged. Concurrency grows while it is used up; a step stands when hardly more
was refused than before it and the teacher's output grew with it, else it is undone, and the search narrows between what
was borne and what was not. What was found is held, and tried again after a while.

Refusals tell of hosted teachers, at once. One that queues and never refuses gives itself away by the time a token of
output takes: at twice the concurrency twice as long, and nothing is won. (An answer's whole latency follows its length,
and says nothing.) A share of refusals that stays the same at every concurrency is the teacher's everyday failure, and
no sign of too much. Where nearly everything is refused, nothing is learned but that it is to be left alone for a while.
"""

import math
from dataclasses import dataclass, field

FADING_S = 5.0
"""Refusals are weighed against the replies of about so long."""
FEW = 0.01
"""A share of refusals that is nothing to speak of."""
MOST_EVERYDAY = 0.1
"""No more than this is taken for a teacher's everyday refusals."""
FORGET_S = 300.0
"""How fast that is forgotten."""
STORM = 0.9
"""A share of refusals that tells of an outage, not of a limit."""
GROWTH = 1.5
CUT = 0.85
PROBE = 1.1
CLEAR = 0.2
"""The least growth whose gain can be told from chance."""
NARROW = 1.1
"""Between what was borne and what was not, no closer search: hold, and after a while take a step of PROBE."""
HOLD_S = 30.0
MOST_HOLD_S = 120.0
"""Twice as long each time, up to this."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back since the last time."""

    served: int = 0
    refused: int = 0
    """As too much, or without a whole answer."""
    busy_s: float = 0.0
    """Sum of the served ones' latencies."""
    tokens: int = 0
    """Of output, in these."""


@dataclass(slots=True)
class _Faded:
    """Replies, older ones counting less."""

    replies: float = 0.0
    refused: float = 0.0
    at: float = -math.inf

    def add(self, new: Replies, *, now: float) -> None:
        part = math.exp((self.at - now) / FADING_S)
        self.at = now
        self.refused = self.refused * part + new.refused
        self.replies = self.replies * part + new.served + new.refused

    @property
    def share(self) -> float:
        return self.refused / self.replies if self.replies else 0.0


@dataclass(slots=True)
class _Level:
    """What came back at one concurrency, from when replies tell of it alone."""

    since: float
    served: int = 0
    refused: int = 0
    busy_s: float = 0.0
    tokens: int = 0

    def add(self, new: Replies) -> None:
        self.served += new.served
        self.refused += new.refused
        self.busy_s += new.busy_s
        self.tokens += new.tokens

    @property
    def pace(self) -> float:
        """Tokens (answers, where none are told) a second of one slot."""
        return (self.tokens or self.served) / max(self.busy_s, 1e-9)

    @property
    def share(self) -> float:
        return self.refused / max(1, self.served + self.refused)

    def served_per_s(self, now: float) -> float:
        return self.served / max(1.0, now - self.since)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """What was before a cut that is to prove itself.

    Had the teacher refused for want of room, it would now refuse less, or serve as much as before all the same.
    """

    slots: int
    share: float
    served_per_s: float

    def was_unfounded(self, level: _Level, *, now: float) -> bool:
        """Whether the cut only lost output, seen by what came back since."""
        lost = level.served_per_s(now) < (1 + CUT) / 2 * self.served_per_s
        return lost and self.share <= MOST_EVERYDAY and level.share > self.share / 3


@dataclass(frozen=True, slots=True)
class _Knee:
    """The highest concurrency that clearly gave more than those below it."""

    slots: float
    flow: float
    """Tokens a second."""


@dataclass(slots=True)
class Adaptive:
    """See the module."""

    slots: int = 32
    most: int = 2048
    _borne: int = 0
    """The concurrency that was borne last; after an outage it is gone back to."""
    _knee: _Knee = field(default_factory=lambda: _Knee(math.inf, 0.0))
    _not_borne: float = math.inf
    _everyday: float = 0.0
    """The share of refusals that no cut ends."""
    _doubt: _Doubt | None = None
    _faded: _Faded = field(default_factory=_Faded)
    _level: _Level = field(default_factory=lambda: _Level(-math.inf))
    _latency_s: float = 0.0
    _hold_until: float | None = None
    _hold_s: float = HOLD_S
    _at: float = 0.0
    _heard_from: float = -math.inf
    """Replies before tell of another concurrency: workers renew their leases once a second."""

    def __post_init__(self) -> None:
        self._borne = self.slots

    def observe(self, new: Replies, *, saturated: bool, now: float) -> None:
        """Take in what came back; `saturated`: as many requests as were let were under way."""
        self._everyday *= math.exp(-min(FADING_S, now - self._at) / FORGET_S)
        self._at = now
        if new.served and not self._latency_s:
            self._level = _Level(now + new.busy_s / new.served)  # the first to answer are the fast ones
        if new.served:
            self._latency_s = new.busy_s / new.served
        if now < self._heard_from:
            return
        self._faded.add(new, now=now)
        if now >= self._level.since:
            self._level.add(new)
        if new.refused and self._too_many(MOST_EVERYDAY if self._doubt else self._everyday):
            self._cut(now)
        elif self.slots < self._borne:
            if new.served:
                self._go_to(min(self._borne, 2 * self.slots), now)
        elif saturated and self._judged(now):
            self._judge(now)

    def _too_many(self, everyday: float) -> bool:
        """Whether more is refused than every day, and more than chance would have it."""
        usual = max(everyday, FEW)
        chance = 3 * math.sqrt(usual * (1 - usual) / max(1.0, self._faded.replies))
        return self._faded.refused > 2 and self._faded.share > everyday + FEW + chance

    def _cut(self, now: float) -> None:
        share = self._faded.share
        if share > STORM and (self._faded.refused >= 8 or self.slots < self._borne):
            if self._doubt is not None:  # it began with a few
                self._borne, self._doubt = self._doubt.slots, None
            self._go_to(max(1, min(self.slots, self._borne // 16)), now)
        elif self.slots > self._borne:
            self._undo(now)
        else:
            self._doubt = self._doubt or _Doubt(self.slots, share, self._level.served_per_s(now))
            self._not_borne = self.slots
            self._borne = max(1, int(max(0.5, min(CUT, 1 - share)) * self.slots))
            self._hold_until = None
            self._go_to(self._borne, now)

    def _judged(self, now: float) -> bool:
        """Whether enough came back of what was sent at this concurrency."""
        return now >= self._level.since + max(1.0, self._latency_s) and self._level.served >= self.slots / 2

    def _judge(self, now: float) -> None:
        """What came of this concurrency, and which to try next."""
        level, doubt = self._level, self._doubt
        self._doubt = None
        if doubt is not None and doubt.was_unfounded(level, now=now):
            self._everyday = max(level.share, doubt.share)
            self._not_borne = math.inf
            self._borne = doubt.slots
            self._go_to(doubt.slots, now)
        elif self.slots > self._borne and (self._refused_more(level) or not self._pays()):
            self._undo(now)
        else:
            self._stand(now)

    def _refused_more(self, level: _Level) -> bool:
        """Whether more was refused at it than every day, give or take chance."""
        replies = max(1, level.served + level.refused)
        return level.share > self._everyday + FEW + 2 * math.sqrt(self._everyday * (1 - self._everyday) / replies)

    def _pays(self) -> bool:
        """Whether the output grew with the concurrency, at least by a fourth of it, since it last clearly did.

        A small step is not asked: its gain would drown in chance.
        """
        growth = self.slots / self._knee.slots - 1
        flow = self.slots * self._level.pace
        if growth > CLEAR and flow < (1 + growth / 4) * self._knee.flow:
            return False
        if growth > CLEAR:
            self._knee = _Knee(self.slots, flow)
        return True

    def _stand(self, now: float) -> None:
        if self.slots > (1 + CLEAR) * self._borne:
            self._hold_s = HOLD_S
        if self.slots < self._knee.slots:
            self._knee = _Knee(self.slots, self.slots * self._level.pace)
        self._borne = self.slots
        if not self._is_narrow:
            wanted = GROWTH * self.slots + 1 if math.isinf(self._not_borne) else (self.slots + self._not_borne) / 2
            self._go_to(int(wanted), now)
        elif self._hold_until is None:
            self._hold_until = now + self._hold_s
            self._hold_s = min(MOST_HOLD_S, 2 * self._hold_s)
        elif now >= self._hold_until:  # there may be more room now
            self._hold_until = None
            self._not_borne = PROBE * self._borne + 1
            self._go_to(int(self._not_borne), now)

    def _undo(self, now: float) -> None:
        """The step was too much."""
        self._not_borne = self.slots
        self._go_to(self._borne, now + FADING_S)

    @property
    def _is_narrow(self) -> bool:
        return self._not_borne <= max(NARROW * self._borne, self._borne + 1)

    def _go_to(self, slots: int, now: float) -> None:
        self.slots = min(slots, self.most)
        self._faded = _Faded()
        self._heard_from = now + 1.0
        self._level = _Level(now + 1.0 + self._latency_s)
