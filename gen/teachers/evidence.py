"""Decides whether the account or a single request is to blame for a refusal, from what other requests got meanwhile.

Pure: times are arguments. One per teacher of a worker; a `prompt` is any value that identifies one.

    429          the account honours a wait the first time (`limits/stated_wait.py`); it is the prompt's own if the
                 prompt gets the 429 again although others, sent after the earlier refusal, were served and hardly any
                 were refused
    429, 503     the request's own if, judging by the other requests since then, an ordinary request would not have
                 been refused so often in a row by chance; a 503 has to last `OVERLOAD_S` too, since what is overloaded
                 may be the part of the teacher that serves such prompts
    402, 403     the request's own after `MIN_REFUSALS`, while others that were sent after it are served; the account's
                 if several prompts are refused and none sent after them is served; until then it is unclear
    500          the teacher's own if several prompts fail and none is served, for `OUTAGE_S`
"""

import itertools
import random
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from stillhouse.gen.teachers.outcome import Auth, Money, Outcome, Overload, Ramp, Rate, ServerError
from stillhouse.gen.teachers.retry import Blame
from stillhouse.schemas.completion import Completion

MIN_REFUSALS = 3
"""Fewer refusals than this are never held against a request."""

BY_CHANCE = 1e-6
"""Refusals in a row less likely than this are not chance; a wrong verdict costs one Failure, which can be retried."""

OUTAGE_S = 60.0
"""After this long, shared failures are given up on like any other: a server may be unable to handle many prompts."""

OVERLOAD_S = 120.0
"""An overload that hits a single prompt is waited out for this long; the waits grow, and nobody else has to wait."""

WINDOW_S = 65.0
"""Limits are per minute: a single refusal this long afterwards was not caused by other requests."""

MAX_OTHERS_REFUSED = 0.1
"""If more than this share of the others is refused, a wait is the account's, whichever prompt got it."""

LONG_WAIT_S = 1.0
"""A prompt told to wait this long goes behind the others: whether they are served then shows whose wait it was."""

BEHIND_S = 1.5
"""How long after its wait such a prompt is asked again, besides two answers' time: by then another has been served."""

SERVED_LATELY_S = 60.0
MIN_LONE_REFUSALS = 5
MIN_FAILING = 3
"""This many failing prompts in a row, with nobody served in between, are an outage."""

_SUSPECTS: dict[type, int] = {Money: 3, Auth: 5}
"""This many prompts refused while none is served point to the account: no proxy rule refuses five in a row, and words
about money rarely come by mistake."""
_MAX_KNOWN = 10_000
_ENOUGH = 200
"""More prompts than this are not better evidence."""


@dataclass(slots=True)
class _Refused:
    """Refusals of one prompt."""

    first_at: float
    served_before: int
    """Others served until its first refusal, and refusals of those served."""
    resolved_before: int
    last_at: float = 0.0
    times: int = 0
    between: int = 0
    """Refusals after which other prompts, sent later than the refusal before, had been served."""
    served_lately: bool = False
    """True if others were served in the minute before its first refusal."""
    wait_until: float = float("-inf")
    """The prompt is not asked before this time, because a wait was stated for it."""


@dataclass(slots=True)
class _Place:
    """Recent history of one endpoint."""

    served_sent_at: float = float("-inf")
    """When the most recently sent of the served requests was sent."""
    served_at: float = float("-inf")
    answer_s: float = 0.0
    """Recent average latency of answers."""
    suspects: set[Hashable] = field(default_factory=set)
    """Prompts refused for account reasons, with no request served that was sent after them."""
    suspected_at: float = float("-inf")
    """When the latest of these refused requests was sent."""
    failing: set[Hashable] = field(default_factory=set)
    """Prompts that failed since any prompt was last served."""


class Evidence:
    """Weighs the answers of a teacher's endpoints."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._refused: OrderedDict[Hashable, _Refused] = OrderedDict()
        self._resolved = 0
        """Refusals of prompts that were served in the end."""
        self._served_total = 0

    def served(self, prompt: Hashable, *, endpoint: str, sent_at: float, now: float) -> None:
        """Record an answer to a request sent at that time."""
        place = self._place(endpoint)
        place.served_sent_at = max(place.served_sent_at, sent_at)
        place.served_at = now
        place.answer_s += (0.1 if place.answer_s else 1.0) * (now - sent_at - place.answer_s)
        place.failing.clear()
        if sent_at > place.suspected_at:
            place.suspects.clear()
        self._served_total += 1
        if self._refused and (refused := self._refused.pop(prompt, None)) is not None:
            self._resolved += refused.times

    def suspected_at(self, endpoint: str) -> float | None:
        """When the latest refused request was sent, while it is unclear if the endpoint refuses everyone; else None."""
        place = self._place(endpoint)
        return place.suspected_at if place.suspects else None

    def wait_s(self, prompt: Hashable, *, now: float) -> float:
        """Seconds until the teacher may be asked this prompt again, by the waits stated for it."""
        refused = self._refused.get(prompt) if self._refused else None
        return 0.0 if refused is None else max(0.0, refused.wait_until - now)

    def weigh(
        self, prompt: Hashable, outcome: Outcome, *, endpoint: str, now: float, sent_at: float | None = None
    ) -> Blame | None:
        """Count the outcome of a request sent at that time (by default now) and decide who is to blame.

        None if the reply itself decides.
        """
        if isinstance(outcome, Completion):
            return None
        place = self._place(endpoint)
        if isinstance(outcome, ServerError) and (outcome.status or 0) >= 500:
            refused = self._count(prompt, place, now=now)
            place.failing.add(prompt)
            lasts = now - refused.first_at < OUTAGE_S and place.served_at < refused.first_at
            return Blame("account") if lasts and len(place.failing) >= MIN_FAILING else None
        if isinstance(outcome, (Rate, Ramp, Overload)) and not (isinstance(outcome, Overload) and outcome.loading):
            refused = self._count(prompt, place, now=now)
            place.failing.add(prompt)
            return self._weigh_limit(refused, outcome, place, now=now)
        if isinstance(outcome, Money) or (isinstance(outcome, Auth) and outcome.status == 403):
            refused = self._count(prompt, place, now=now)
            return self._weigh_account(prompt, refused, outcome, place, sent_at=now if sent_at is None else sent_at)
        return None

    def _place(self, endpoint: str) -> _Place:
        if (place := self._places.get(endpoint)) is None:
            place = self._places[endpoint] = _Place()
        return place

    def _count(self, prompt: Hashable, place: _Place, *, now: float) -> _Refused:
        if (refused := self._refused.get(prompt)) is None:
            refused = self._refused[prompt] = _Refused(now, self._served_total, self._resolved)
            refused.served_lately = now - place.served_at < SERVED_LATELY_S
            if len(self._refused) > _MAX_KNOWN:
                self._refused.popitem(last=False)
        elif place.served_sent_at > refused.last_at:
            refused.between += 1
        refused.times += 1
        refused.last_at = now
        return refused

    def _weigh_limit(
        self, refused: _Refused, outcome: Rate | Ramp | Overload, place: _Place, *, now: float
    ) -> Blame | None:
        stated_s, wait_s = outcome.retry_after_s or 0.0, _wait_s(refused.times)
        refused.wait_until = max(refused.wait_until, now + stated_s)
        served = self._served_total - refused.served_before
        # For prompts served in the end every refusal counts, for others one: a few hopeless prompts stay a few.
        others_refused = self._resolved - refused.resolved_before + self._others_waiting(refused)
        usual = (others_refused + 1) / (served + others_refused + 2)
        times = refused.times if refused.between else 1
        # Others refused since any was served, or more than a few in total: then the account is at its limit.
        is_own = refused.between > 0 and len(place.failing) == 1 and others_refused <= MAX_OTHERS_REFUSED * served
        is_patient = isinstance(outcome, Overload) and now - refused.first_at < OVERLOAD_S
        if times >= MIN_REFUSALS and usual**times < BY_CHANCE and not is_patient:
            return Blame("request", words=_alone(refused))
        if isinstance(outcome, Overload):
            return Blame("unclear", spares_account=True) if is_own else None
        lone = refused.served_lately and others_refused == 0 and now - refused.first_at > WINDOW_S
        if lone and refused.times >= MIN_LONE_REFUSALS:
            return Blame("request", words=_alone(refused))
        if refused.times == 1 and stated_s < LONG_WAIT_S:
            return None
        if stated_s:
            wait_s = stated_s + 2 * place.answer_s + max(BEHIND_S, wait_s)
            refused.wait_until = max(refused.wait_until, now + wait_s)
        return Blame("unclear", wait_s=wait_s, spares_account=is_own)

    def _others_waiting(self, this: _Refused) -> int:
        """Other prompts refused since this one's first refusal and not served yet, among the latest `_ENOUGH`."""
        latest = itertools.islice(reversed(self._refused.values()), _ENOUGH)
        return sum(other is not this and other.last_at >= this.first_at for other in latest)

    def _weigh_account(
        self, prompt: Hashable, refused: _Refused, outcome: Money | Auth, place: _Place, *, sent_at: float
    ) -> Blame:
        if place.served_sent_at <= sent_at:  # an account without money serves no later request
            place.suspected_at = max(place.suspected_at, sent_at)
            place.suspects.add(prompt)
        if refused.times >= MIN_REFUSALS and refused.between:
            place.suspects.discard(prompt)
            return Blame("request", words=_alone(refused))
        if len(place.suspects) >= _SUSPECTS[type(outcome)]:
            return Blame("account")
        if refused.times < MIN_REFUSALS:
            return Blame("unclear", wait_s=_wait_s(refused.times))
        if place.served_at > refused.first_at - SERVED_LATELY_S and isinstance(
            outcome, Auth
        ):  # at the end of a run there are no others
            place.suspects.discard(prompt)
            return Blame("request", words=_alone(refused))
        return Blame("account")


def _alone(refused: _Refused) -> str:
    return f"refused {refused.times} times, while others were served"


def _wait_s(times: int) -> float:
    return float(min(30.0, 0.2 * 2 ** min(times, 10)) * random.uniform(0.75, 1.25))
