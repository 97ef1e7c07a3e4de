"""The endpoints of one teacher share its load by least outstanding work; a failing one gets only probes.

An endpoint's circuit opens after a run of requests that it did not serve. It is tried again after a growing, jittered
wait of at most 5 s, one probe at a time. Useless answers count against an endpoint only while another one serves: if
all endpoints give such answers, the prompts may be the cause, and each sample has its own limit.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

OPENS_AFTER = 5
"""Consecutive unserved requests that open a circuit."""

MOST_WAIT_S = 5.0

SUSPECTED_S = 0.05
"""How soon to check again whether the one request to a suspected endpoint shows anything."""

ADMITTED_S = 4.0
"""A request that is not refused in this time was admitted. A prompt's refusals suspect an endpoint three times at most,
and each costs twice this time: less than half of a minute."""


@dataclass(slots=True)
class Endpoint:
    """One base URL."""

    url: str
    host: str
    """The endpoint's name: the host, with the path if several endpoints are on it."""
    in_flight: int = 0
    asked: int = 0
    """Requests in total."""
    not_served: int = 0
    """Requests not served, in a row."""
    probe_at: float = 0.0
    """While its circuit is open: when the next probe may be sent."""
    probing: bool = False
    """While its circuit is open: whether a probe is in flight."""
    suspected_at: float | None = None
    """When the latest refused request was sent, while nobody can say yet if it refuses all of them."""
    is_tried: bool = False
    """A request was sent since, to see if it is refused too."""
    held_until: float = -math.inf
    answered: bool = False
    """True if an answer came from it."""
    streams: bool = False
    """True if its answers are requested as streams."""

    @property
    def is_open(self) -> bool:
        """True if its circuit is open."""
        return self.not_served >= OPENS_AFTER

    def is_held(self, now: float) -> bool:
        """True if it gets no request: it is suspected, and those in flight may still show something soon.

        A whole answer may take minutes, and one prompt's refusals must not cost the others as long: whatever is not
        refused within `ADMITTED_S` was admitted.
        """
        return self.suspected_at is not None and self.in_flight > 0 and now < self.held_until

    def is_usable(self, now: float) -> bool:
        """True if a request may be sent to it, at least as a probe."""
        return (not self.is_open or now >= self.probe_at) and not self.is_held(now)

    def suspect(self, sent_at: float | None, *, now: float) -> None:
        """Nobody can say if it refuses all; `sent_at`: when the latest refused request was sent, None: it does not."""
        if sent_at is not None and sent_at != self.suspected_at:
            self.is_tried, self.held_until = False, now + ADMITTED_S
        self.suspected_at = sent_at


class Endpoints:
    """Chooses the endpoint for a request."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        # In random order, because workers with one request each must not all begin with the first.
        hosts = [urlsplit(url).netloc for url in urls]
        names = [
            host if hosts.count(host) == 1 else host + urlsplit(url).path for host, url in zip(hosts, urls, strict=True)
        ]
        self.all = random.sample([Endpoint(url, name) for url, name in zip(urls, names, strict=True)], k=len(urls))

    def wait_s(self, *, now: float) -> float:
        """Seconds until one may be tried; 0.0: now."""
        for endpoint in self.all:
            if not (endpoint.not_served or endpoint.is_held(now)):
                return 0.0
        return max(0.0, min(self._free_at(endpoint, now) for endpoint in self.all) - now)

    @staticmethod
    def _free_at(endpoint: Endpoint, now: float) -> float:
        if endpoint.is_open:
            return endpoint.probe_at
        return now + SUSPECTED_S if endpoint.is_held(now) else now

    def pick(self, *, now: float, again: bool = False, avoid: Sequence[str] = ()) -> Endpoint | None:
        """The endpoint to send to, already counted as busy; None if none may be tried yet.

        `again`: for a sample that was asked before. It is no probe while another endpoint serves: a run's last sample,
        with no others in flight, would become every probe there is. `avoid`: names of endpoints that refused it, used
        if there are others.
        """
        best = self.all[0] if len(self.all) == 1 else self._least_busy(now=now, again=again, avoid=avoid)
        if best is None or not best.is_usable(now):
            return None
        if best.is_open:
            best.probing = True
            best.probe_at = now + MOST_WAIT_S
        if best.suspected_at is not None and not best.is_tried:
            best.is_tried, best.held_until = True, now + ADMITTED_S
        best.in_flight += 1
        best.asked += 1
        return best

    def _least_busy(self, *, now: float, again: bool, avoid: Sequence[str]) -> Endpoint | None:
        serving = [endpoint for endpoint in self.all if not endpoint.is_open] if again else []
        usable = [endpoint for endpoint in serving or self.all if endpoint.is_usable(now)]
        usable = [endpoint for endpoint in usable if endpoint.host not in avoid] or usable
        return min(usable, key=lambda endpoint: (endpoint.in_flight, endpoint.asked), default=None)

    def done(self, endpoint: Endpoint, *, served: bool | None, now: float) -> None:
        """A request to it ended; `served`: it answered, even by refusing this one request; None: the answer was
        useless.
        """
        endpoint.in_flight -= 1
        if served is None:
            served = all(other.is_open for other in self.all if other is not endpoint)
        if served:
            endpoint.not_served = 0
            endpoint.probing = False
        elif endpoint.probing or not endpoint.is_open:  # otherwise it was in flight when the circuit opened
            endpoint.probing = False
            endpoint.not_served += 1
            if endpoint.is_open:
                wait = min(MOST_WAIT_S, 0.25 * 2 ** min(endpoint.not_served - OPENS_AFTER, 8))
                endpoint.probe_at = now + wait * random.uniform(0.5, 1.0)
