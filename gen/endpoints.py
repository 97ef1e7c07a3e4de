"""The endpoints of one teacher share its load by least outstanding work; one that fails is left alone but for probes.

An endpoint's circuit opens after a run of requests it did not serve and is tried again after a growing, jittered wait
of at most 5 s, one probe at a time.
"""

import random
from dataclasses import dataclass
from urllib.parse import urlsplit

OPENS_AFTER = 5
"""Requests in a row not served that open a circuit."""

MOST_WAIT_S = 5.0


@dataclass(slots=True)
class Endpoint:
    """One base URL."""

    url: str
    host: str
    in_flight: int = 0
    asked: int = 0
    """Requests in all."""
    not_served: int = 0
    """In a row."""
    probe_at: float = 0.0
    """While its circuit is open: when the next probe may go."""
    probing: bool = False
    """While its circuit is open: whether a probe is out."""

    @property
    def is_open(self) -> bool:
        """Whether its circuit is open."""
        return self.not_served >= OPENS_AFTER


class Endpoints:
    """Chooses where a request goes."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        # In random order, for workers with one request each must not all begin with the first.
        self.all = random.sample([Endpoint(url, urlsplit(url).netloc) for url in urls], k=len(urls))

    def pick(self, *, now: float) -> Endpoint | float:
        """The endpoint to send to, already counted as busy; or seconds until one may be tried."""
        usable = [endpoint for endpoint in self.all if not endpoint.is_open or now >= endpoint.probe_at]
        if not usable:
            return min(endpoint.probe_at for endpoint in self.all) - now
        best = min(usable, key=lambda endpoint: (endpoint.in_flight, endpoint.asked))
        if best.is_open:
            best.probing = True
            best.probe_at = now + MOST_WAIT_S
        best.in_flight += 1
        best.asked += 1
        return best

    def release(self, endpoint: Endpoint) -> None:
        """It was not asked after all."""
        endpoint.in_flight -= 1
        endpoint.asked -= 1
        endpoint.probing = False

    def done(self, endpoint: Endpoint, *, served: bool, now: float) -> None:
        """A request to it ended; `served`: it answered, be it with a refusal of this one request."""
        endpoint.in_flight -= 1
        if served:
            endpoint.not_served = 0
            endpoint.probing = False
        elif endpoint.probing or not endpoint.is_open:  # else it was under way when the circuit opened
            endpoint.probing = False
            endpoint.not_served += 1
            if endpoint.is_open:
                wait = min(MOST_WAIT_S, 0.25 * 2 ** min(endpoint.not_served - OPENS_AFTER, 8))
                endpoint.probe_at = now + wait * random.uniform(0.5, 1.0)
