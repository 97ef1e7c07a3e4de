"""Endpoints: load goes where least is outstanding, and away from what does not serve."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.teachers.endpoints import ADMITTED_S, MOST_WAIT_S, OPENS_AFTER, Endpoint, Endpoints

URLS = ("http://a/v1", "http://b/v1", "http://c:8000/v1")


def picked(endpoints: Endpoints, *, now: float = 0.0) -> Endpoint:
    """The endpoint chosen, where one must be."""
    endpoint = endpoints.pick(now=now)
    assert isinstance(endpoint, Endpoint)
    return endpoint


def opened(*, now: float = 0.0) -> tuple[Endpoints, Endpoint]:
    """A single endpoint whose circuit has just opened."""
    endpoints = Endpoints(URLS[:1])
    for _ in range(OPENS_AFTER):
        endpoints.done(picked(endpoints, now=now), served=False, now=now)
    return endpoints, endpoints.all[0]


def test_an_endpoint_knows_its_host() -> None:
    """By the name that records have."""
    assert {endpoint.host for endpoint in Endpoints(URLS).all} == {"a", "b", "c:8000"}


def test_requests_go_to_the_least_loaded_endpoint() -> None:
    """A slow endpoint gets less."""
    endpoints = Endpoints(URLS)
    under_way = [picked(endpoints) for _ in range(9)]
    assert Counter(endpoint.url for endpoint in under_way) == dict.fromkeys(URLS, 3)
    endpoints.done(under_way[0], served=True, now=1.0)
    assert picked(endpoints) is under_way[0]


def test_single_requests_rotate_over_endpoints() -> None:
    """Of idle endpoints the one asked least is next."""
    endpoints = Endpoints(URLS)
    seen = []
    for _ in range(9):
        seen.append(picked(endpoints))
        endpoints.done(seen[-1], served=True, now=0.0)
    assert Counter(endpoint.url for endpoint in seen) == dict.fromkeys(URLS, 3)


def test_workers_start_at_different_endpoints() -> None:
    """Each worker chooses alone."""
    assert {picked(Endpoints(URLS)).url for _ in range(200)} == set(URLS)


def test_a_dead_endpoint_loses_its_load() -> None:
    """The others take it over; the dead one only gets a probe now and then."""
    endpoints = Endpoints(URLS)
    dead = endpoints.all[1]
    asked, now = 0, 0.0
    for _ in range(3000):
        endpoint = picked(endpoints, now=now)
        asked += endpoint is dead
        endpoints.done(endpoint, served=endpoint is not dead, now=now)
        now += 0.02
    assert asked <= OPENS_AFTER + 60 / (MOST_WAIT_S / 2) + 8


def test_unusable_answers_count_while_another_endpoint_serves() -> None:
    """It is the endpoint then; where all answer so it may be the prompts, which have their own bound."""
    endpoints = Endpoints(URLS[:2])
    bad, good = endpoints.all
    for _ in range(4 * OPENS_AFTER):
        endpoint = picked(endpoints)
        endpoints.done(endpoint, served=True if endpoint is good else None, now=0.0)
    assert bad.is_open
    for _ in range(4 * OPENS_AFTER):
        endpoints.done(picked(endpoints), served=None, now=0.0)
    assert not good.is_open


def test_a_served_request_closes_the_circuit() -> None:
    """At the first probe that is answered, all may go again."""
    endpoints, endpoint = opened()
    assert endpoints.pick(now=0.0) is None
    wait = endpoints.wait_s(now=0.0)
    assert 0 < wait <= 0.25
    endpoints.done(picked(endpoints, now=wait), served=True, now=wait)
    assert not endpoint.is_open
    assert all(isinstance(endpoints.pick(now=wait), Endpoint) for _ in range(10))


def test_only_one_probe_is_sent_at_a_time() -> None:
    """While it is unanswered nothing else is sent, except another probe if it takes long."""
    endpoints, _ = opened()
    picked(endpoints, now=1.0)
    assert endpoints.pick(now=1.0) is None
    assert endpoints.wait_s(now=1.0) == MOST_WAIT_S
    picked(endpoints, now=1.0 + MOST_WAIT_S)


def test_a_retried_sample_probes_only_if_no_endpoint_serves() -> None:
    """A run's last sample is not sent to a dead endpoint again and again while another would answer it."""
    endpoints = Endpoints(URLS[:2])
    dead, alive = endpoints.all
    for _ in range(OPENS_AFTER):
        dead.in_flight += 1
        endpoints.done(dead, served=False, now=0.0)
    assert picked(endpoints, now=MOST_WAIT_S) is dead
    endpoints.done(dead, served=False, now=MOST_WAIT_S)
    for now in (3 * MOST_WAIT_S, 6 * MOST_WAIT_S):
        assert endpoints.pick(now=now, again=True) is alive
        endpoints.done(alive, served=True, now=now)
    for _ in range(OPENS_AFTER):
        alive.in_flight += 1
        endpoints.done(alive, served=False, now=6 * MOST_WAIT_S)
    assert endpoints.pick(now=9 * MOST_WAIT_S, again=True) is not None


def test_hanging_requests_do_not_hold_back_probes() -> None:
    """An endpoint that stopped serving is tried again within seconds, whatever else is in flight to it."""
    endpoints = Endpoints(URLS[:1])
    for _ in range(100):
        picked(endpoints)
    for _ in range(OPENS_AFTER):
        endpoints.done(picked(endpoints), served=False, now=0.0)
    assert endpoints.pick(now=0.0) is None
    picked(endpoints, now=1.0)


def test_failures_of_requests_in_flight_do_not_lengthen_the_wait() -> None:
    """A hundred that fail together are one failure."""
    endpoints = Endpoints(URLS[:1])
    for endpoint in [picked(endpoints) for _ in range(100)]:
        endpoints.done(endpoint, served=False, now=0.0)
    assert endpoints.pick(now=0.0) is None
    wait = endpoints.wait_s(now=0.0)
    assert wait <= 0.25


def test_the_wait_grows_up_to_a_limit() -> None:
    """A storm of ten minutes meets a probe every few seconds."""
    endpoints, _ = opened()
    now, probes, last = 0.0, 0, 0.0
    while now < 600.0:
        chosen = endpoints.pick(now=now)
        if chosen is None:
            last = endpoints.wait_s(now=now)
            assert 0 < last <= MOST_WAIT_S
            now += last
        else:
            probes += 1
            endpoints.done(chosen, served=False, now=now)
    assert last >= MOST_WAIT_S / 2
    assert 600 / MOST_WAIT_S <= probes <= 600 / (MOST_WAIT_S / 2) + 20


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.floats(0, 3)), max_size=200))
def test_some_endpoint_is_always_tried_within_the_limit(steps: list[tuple[bool, int, float]]) -> None:
    """Whatever succeeds and fails in whatever order: counts stay right and no wait is longer than the bound."""
    endpoints = Endpoints(URLS[:2])
    out: list[Endpoint] = []
    now = 0.0
    for served, index, passed in steps:
        now += passed
        chosen = endpoints.pick(now=now)
        if isinstance(chosen, Endpoint):
            out.append(chosen)
        else:
            assert 0 < (wait_s := endpoints.wait_s(now=now)) <= MOST_WAIT_S
            assert isinstance(endpoints.pick(now=now + wait_s + 1e-9), Endpoint)
            return
        if index < len(out):
            endpoints.done(out.pop(index), served=served, now=now)
        assert sum(endpoint.in_flight for endpoint in endpoints.all) == len(out)


def test_a_suspected_endpoint_gets_one_request_until_it_is_admitted() -> None:
    """Requests in flight come first, but neither they nor the time of a whole answer delay it for long."""
    endpoints = Endpoints(URLS[:1])
    endpoint = picked(endpoints)
    picked(endpoints)
    endpoint.suspect(0.0, now=10.0)
    endpoints.done(endpoint, served=True, now=10.0)
    assert endpoints.pick(now=10.1) is None
    assert endpoints.wait_s(now=10.1) > 0.0
    picked(endpoints, now=10.0 + ADMITTED_S)
    assert endpoints.pick(now=10.1 + ADMITTED_S) is None
    assert [picked(endpoints, now=10.0 + 2 * ADMITTED_S) for _ in range(3)] == [endpoint] * 3


def test_a_suspected_endpoint_without_requests_in_flight_is_tried_at_once() -> None:
    """And again, once that one was refused as well."""
    endpoints = Endpoints(URLS[:1])
    for sent_at in (0.0, 10.0, 10.1):
        endpoint = picked(endpoints, now=sent_at)
        assert endpoint.suspected_at is None or endpoints.pick(now=sent_at) is None
        endpoint.suspect(sent_at, now=sent_at)
        endpoints.done(endpoint, served=True, now=sent_at)
    endpoint.suspect(None, now=10.2)
    assert [picked(endpoints, now=10.2) for _ in range(2)] == [endpoint] * 2
