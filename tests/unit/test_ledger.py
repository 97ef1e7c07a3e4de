"""The ledger: leases never add up to more than the limit, and no worker starves."""

import math
from collections import Counter, deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.limits.allowance import Allowance
from stillhouse.gen.limits.ledger import RAMP_S, Ledger, granted_per_s
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import LEASE_S, Ceiling, Cost, Lease, Report, rates_of
from stillhouse.gen.teachers.account import Account
from stillhouse.schemas.limits import Limits

ONE = Cost(0, 0)
"""A request, where no tokens are limited."""


def report(in_flight: int = 0, waiting: int = 0, *, served: int = 0, refused: int = 0, **more: float) -> Report:
    """A worker's report."""
    return Report(in_flight, waiting, Replies(served, refused), **more)  # type: ignore[arg-type]


def granted(per_s: float, *, workers: int = 1) -> float:
    """The leased part of this many requests per second."""
    return granted_per_s("requests", per_s, workers=workers)


def test_limits_are_leased_by_the_second() -> None:
    """The recipe states them by the minute."""
    limits = Limits(
        requests_per_minute=60, tokens_per_minute=600, input_tokens_per_minute=6, output_tokens_per_minute=3
    )
    assert rates_of(limits) == {"requests": 1.0, "total": 10.0, "input": 0.1, "output": 0.05}
    assert rates_of(Limits()) == {}


def test_a_lone_worker_has_everything() -> None:
    """Even before it has anything to do."""
    lease = Ledger(Limits(requests_per_minute=60, in_flight=7), now=0.0).renew("a", report(), now=0.0)
    assert (lease.rates, lease.slots, lease.pause_s) == ({"requests": granted(1.0)}, 7, 0.0)


@pytest.mark.parametrize(
    ("demands", "parts"),
    [
        pytest.param([10, 30], [0.25, 0.75], id="less than there is: by demand"),
        pytest.param([300, 25], [0.75, 0.25], id="who wants little gets it, who wants more gets the rest"),
        pytest.param(
            [300, 5000], [0.5, 0.5], id="both want more than half: alike, for who has ten times as much waits too"
        ),
        pytest.param([300, 5000, 20, 0], [0.4, 0.4, 0.2, 0.0], id="four"),
    ],
)
def test_shares_follow_demand(demands: list[int], parts: list[float]) -> None:
    """Max-min fair within a few renewals, in whatever order they came."""
    ledger = Ledger(Limits(requests_per_minute=60, in_flight=100), now=0.0)
    for second in range(12):
        leases = [
            ledger.renew(f"worker-{n}", report(waiting=waiting), now=second + n / 10)
            for n, waiting in enumerate(demands)
        ]
    assert [lease.slots for lease in leases] == [round(100 * part) for part in parts]
    share = granted(1.0, workers=len(demands))
    assert [lease.rates["requests"] for lease in leases] == pytest.approx([share * part for part in parts])


def test_a_worker_between_two_chunks_loses_nothing() -> None:
    """Its backlog shrinks and is refilled: a share that moved to the others would be unused on its way back."""
    ledger = Ledger(Limits(requests_per_minute=3000, in_flight=64), now=0.0)
    for second in range(60):
        backlogs = [17 + (second * 50 + n * 250) % 1000 for n in range(4)]
        rates = [
            ledger.renew(f"worker-{n}", report(waiting=backlog), now=second + n / 10).rates["requests"]
            for n, backlog in enumerate(backlogs)
        ]
        assert second < 10 or rates == pytest.approx([granted(50.0, workers=4) / 4] * 4)


def test_an_idle_worker_holds_nothing_back() -> None:
    """One that waits for the others to finish leaves them the only slot."""
    ledger = Ledger(Limits(requests_per_minute=60, in_flight=1), now=0.0)
    ledger.renew("idle", report(), now=0.0)
    ledger.renew("busy", report(waiting=5), now=0.5)
    ledger.renew("idle", report(), now=1.0)
    ledger.renew("busy", report(waiting=5), now=1.5)
    ledger.renew("idle", report(), now=2.0)
    lease = ledger.renew("busy", report(waiting=5), now=2.5)
    assert (lease.slots, lease.rates["requests"]) == (1, granted(1.0, workers=2))


def test_slots_are_not_reused_before_their_old_owner_acknowledges() -> None:
    """A worker uses its old lease until the answer to its report arrives; its next report confirms it."""
    ledger = Ledger(Limits(in_flight=1), now=0.0)
    assert ledger.renew("a", report(), now=0.0).slots == 1
    ledger.renew("b", report(waiting=5), now=0.5)
    assert ledger.renew("a", report(waiting=5), now=1.0).slots == 0
    assert ledger.renew("b", report(waiting=5), now=1.5).slots == 0
    ledger.renew("a", report(in_flight=1, waiting=4), now=2.0)
    assert ledger.renew("b", report(waiting=5), now=2.5).slots == 0
    ledger.renew("a", report(waiting=4), now=3.0)
    assert ledger.renew("b", report(waiting=5), now=3.5).slots == 1


def test_a_shrunken_share_is_free_once_its_requests_finished() -> None:
    """Slots are held as long as the request: those of requests in flight are not leased again."""
    ledger = Ledger(Limits(in_flight=10), now=0.0)
    ledger.renew("a", report(waiting=50), now=0.0)
    ledger.renew("b", report(waiting=50), now=0.5)
    assert ledger.renew("a", report(in_flight=10, waiting=40), now=1.0).slots == 5
    assert ledger.renew("b", report(waiting=50), now=1.5).slots == 0
    ledger.renew("a", report(in_flight=7, waiting=43), now=2.0)
    assert ledger.renew("b", report(waiting=50), now=2.5).slots == 3


def test_a_dead_workers_share_is_free_after_its_lease() -> None:
    """But not before."""
    ledger = Ledger(Limits(requests_per_minute=60, in_flight=10), now=0.0)
    ledger.renew("dead", report(waiting=1), now=0.0)
    assert ledger.renew("a", report(waiting=1), now=LEASE_S - 0.1).slots == 0
    lease = ledger.renew("a", report(waiting=1), now=LEASE_S + 0.1)
    assert (lease.slots, lease.rates["requests"]) == (10, granted(1.0))


def test_a_worker_that_leaves_gives_its_share_back() -> None:
    """At once; leaving twice does no harm."""
    ledger = Ledger(Limits(in_flight=10), now=0.0)
    ledger.renew("a", report(), now=0.0)
    ledger.leave("a")
    ledger.leave("a")
    assert ledger.renew("b", report(), now=0.1).slots == 10


def test_a_rate_is_not_reused_before_its_old_owner_acknowledges() -> None:
    """A worker uses its old lease until the answer to its report arrives; its next report confirms it."""
    ledger = Ledger(Limits(requests_per_minute=3000), now=0.0)
    ledger.renew("a", report(waiting=50), now=0.0)
    assert ledger.renew("b", report(waiting=50), now=0.5).rates["requests"] == 0.0
    half = granted(50.0, workers=2) / 2
    assert ledger.renew("a", report(waiting=50), now=1.0).rates["requests"] == pytest.approx(half)
    assert ledger.renew("b", report(waiting=50), now=1.5).rates["requests"] == 0.0
    ledger.renew("a", report(waiting=50), now=2.0)
    assert ledger.renew("b", report(waiting=50), now=2.5).rates["requests"] == pytest.approx(half)


def test_a_killed_workers_rate_is_free_at_once() -> None:
    """It sends no more; its slots are free after its lease, because the teacher may still be at its requests."""
    ledger = Ledger(Limits(requests_per_minute=60, in_flight=10), now=0.0)
    ledger.renew("dead", report(waiting=50), now=0.0)
    ledger.died("dead")
    ledger.died("unknown")
    lease = ledger.renew("a", report(waiting=50), now=0.1)
    assert (lease.slots, lease.rates["requests"]) == (0, granted(1.0, workers=2))
    assert ledger.renew("a", report(waiting=50), now=LEASE_S + 0.1).slots == 10


def test_a_worker_that_must_not_send_leaves_its_share_to_the_others() -> None:
    """What waits behind a closed fence is not demand; once it may send again, it reports so at once."""
    account = Account(ManualClock())
    assert account.report(backlog=7).waiting == 7
    account.want_share()
    assert not account.urgent.is_set()
    assert account.report(backlog=None).waiting == 0
    account.want_share()
    assert account.urgent.is_set()


def test_a_smaller_rate_is_acknowledged_at_once() -> None:
    """Until then no other worker may have the rest; a small reduction is not worth a call."""
    account = Account(ManualClock())
    for rate, urgent in ((40.0, False), (38.0, False), (20.0, True)):
        account.report(backlog=7)
        account.accept(Lease({"requests": rate}, 10, LEASE_S, 0.0))
        assert account.urgent.is_set() == urgent


def test_a_pause_holds_for_every_worker() -> None:
    """Retry-After seen by one reaches each at its next renewal; a shorter one does not shorten it."""
    ledger = Ledger(Limits(), now=0.0)
    ledger.renew("a", report(refused=1, pause_s=7.0), now=1.0)
    assert ledger.renew("b", report(pause_s=0.5), now=2.0).pause_s == pytest.approx(6.0)
    assert ledger.renew("c", report(), now=7.5).pause_s == pytest.approx(0.5)
    assert ledger.renew("c", report(), now=9.0).pause_s == 0.0


def test_a_declared_concurrency_is_never_cut() -> None:
    """A stray 429 changes nothing."""
    ledger = Ledger(Limits(in_flight=512), now=0.0)
    for second in range(60):
        assert ledger.renew("a", report(512, 100, refused=9), now=second).slots == 512


def test_slow_down_halves_and_regrows_slowly() -> None:
    """Half of the rates and of the slots, once an episode; then at most half as much again in 15 minutes."""
    ledger = Ledger(Limits(requests_per_minute=6000, in_flight=100), now=0.0)
    ledger.renew("a", report(100, 50, refused=1, ramped=True), now=0.0)
    lease = ledger.renew("a", report(100, 50, refused=1, ramped=True), now=1.0)
    assert lease.rates["requests"] == pytest.approx(granted(50.0), rel=0.001)
    assert lease.slots == 50
    for minutes in range(60):
        lease = ledger.renew("a", report(50, 50, served=50), now=60.0 * minutes)
        most = 0.5 * 1.5 ** (60.0 * minutes / RAMP_S)
        assert lease.rates["requests"] <= 100.0 * min(1.0, most) + 1e-6
        assert lease.slots <= 100 * min(1.0, most) + 1e-6
    assert (lease.rates["requests"], lease.slots) == (granted(100.0), 100)
    assert ledger.renew("a", report(), now=1e9).slots == 100


def told(rate: float, *, for_s: float = 10.0, age_s: float = 0.0) -> Report:
    """A report of a teacher's header on requests."""
    return replace(report(5, 50), ceilings={"requests": Ceiling(rate, for_s, age_s)})


def test_headers_lower_the_limit_for_every_worker_and_never_raise_it() -> None:
    """The newest applies until it expires; then the declared limit applies again."""
    ledger = Ledger(Limits(requests_per_minute=6000), now=0.0)
    ledger.renew("a", report(5, 50), now=0.0)
    ledger.renew("b", told(20.0), now=0.1)
    for now in (1.0, 1.1):
        rates = [ledger.renew(name, report(5, 50), now=now).rates["requests"] for name in "ab"]
    assert sum(rates) == pytest.approx(20.0)
    ledger.renew("a", told(50.0, age_s=5.0), now=2.0)
    assert ledger.renew("a", report(5, 50), now=2.0).rates["requests"] <= 20.0  # sent before what is known
    ledger.leave("b")
    assert ledger.renew("a", told(1000.0), now=3.0).rates["requests"] == granted(100.0)
    assert ledger.renew("a", told(1.0, for_s=2.0), now=4.0).rates["requests"] == 1.0
    assert ledger.renew("a", report(5, 50), now=6.5).rates["requests"] == granted(100.0)


def test_headers_set_undeclared_limits() -> None:
    """But no longer than they are valid."""
    ledger = Ledger(Limits(), now=0.0)
    assert ledger.renew("a", told(3.0), now=0.0).rates == {"requests": 3.0}
    assert ledger.renew("a", report(5, 50), now=11.0).rates == {}


def test_slow_down_bounds_an_adaptive_concurrency_too() -> None:
    """It may not double its way back within seconds."""
    ledger = Ledger(Limits(), now=0.0)
    ledger.renew("a", report(), now=0.0)
    ledger.renew("a", report(32, 500, served=9, refused=1, ramped=True), now=10.0)
    now = 10.0
    while now < 10.0 + RAMP_S:
        now += 1.0
        lease = ledger.renew("a", report(32, 500, served=9), now=now)
        assert lease.slots <= 24
    assert lease.slots >= 23


@dataclass
class _Worker:
    lease: Lease | None = None
    until: float = -math.inf
    in_flight: int = 0
    peak: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Workers that join, renew, send, finish, die and leave in any order, under one ledger."""

    @initialize(slots=st.integers(1, 40), rate=st.integers(1, 10_000))
    def start(self, slots: int, rate: int) -> None:
        """Draw the limits."""
        self.limits = Limits(in_flight=slots, requests_per_minute=rate, tokens_per_minute=7 * rate)
        self.ledger = Ledger(self.limits, now=0.0)
        self.now = 0.0
        self.workers: dict[str, _Worker] = {}
        self.cut_off = False
        """True if a worker was late while it had requests in flight: then they may overlap with its successors'."""

    @rule(name=st.sampled_from("abcdef"), waiting=st.integers(0, 100))
    def renew(self, name: str, waiting: int) -> None:
        """A worker, perhaps a new one, reports."""
        worker = self.workers.setdefault(name, _Worker())
        slots = worker.lease.slots if worker.lease is not None and self.now < worker.until else 0
        held = max(worker.in_flight, slots)
        worker.lease = self.ledger.renew(name, report(worker.peak, waiting, held=held), now=self.now)
        worker.until = self.now + worker.lease.ttl_s
        worker.peak = worker.in_flight

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), wanted=st.integers(1, 50))
    def send(self, data: st.DataObject, wanted: int) -> None:
        """A worker uses what it has leased."""
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        if worker.lease is not None and self.now < worker.until:
            worker.in_flight = max(worker.in_flight, min(worker.lease.slots, worker.in_flight + wanted))
            worker.peak = max(worker.peak, worker.in_flight)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), done=st.integers(1, 50))
    def finish(self, data: st.DataObject, done: int) -> None:
        """Requests in flight finish."""
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        worker.in_flight = max(0, worker.in_flight - done)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), says_so=st.booleans())
    def end(self, data: st.DataObject, says_so: bool) -> None:
        """A worker dies, or leaves in good order; its requests are gone with it."""
        name = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[name]
        if says_so:
            self.ledger.leave(name)

    @rule(seconds=st.floats(0.01, 1.5))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.cut_off |= any(worker.in_flight and worker.until <= self.now for worker in self.workers.values())

    @invariant()
    def nothing_is_leased_twice(self) -> None:
        """Neither rates nor slots, counting the requests in flight."""
        if not hasattr(self, "workers"):
            return
        leases = [w.lease for w in self.workers.values() if w.lease is not None and self.now < w.until]
        assert self.limits.in_flight is not None
        assert sum(lease.slots for lease in leases) <= self.limits.in_flight
        for name, rate in rates_of(self.limits).items():
            assert sum(lease.rates[name] for lease in leases) <= rate * (1 + 1e-9)
        if not self.cut_off:
            assert sum(worker.in_flight for worker in self.workers.values()) <= self.limits.in_flight


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


@pytest.mark.parametrize(("slots", "workers"), [(1, 2), (1, 5), (2, 3), (3, 8), (8, 8)])
@pytest.mark.parametrize("request_s", [0.3, 7.0])
def test_nobody_starves_for_slots(slots: int, workers: int, request_s: float) -> None:
    """With fewer slots than workers each gets its turn, at some cost for handing over."""
    ledger = Ledger(Limits(in_flight=slots), now=0.0)
    allowances = {f"w{n}": Allowance() for n in range(workers)}
    out: deque[tuple[float, str]] = deque()
    served: Counter[str] = Counter()
    busy = 0.0
    for tick in range(4000):
        now = tick * 0.05
        while out and out[0][0] <= now:
            name = out.popleft()[1]
            allowances[name].settle(ONE, None, now=0.0)
            served[name] += 1
        for index, (name, allowance) in enumerate(allowances.items()):
            if (tick + 3 * index) % 20 == 0:
                lease = ledger.renew(name, report(allowance.peak, 50), now=now)
                allowance.peak = allowance.in_flight
                allowance.accept(lease, asked_at=now, now=now)
            while allowance.reserve(ONE, now=now) == 0.0:
                out.append((now + request_s, name))
        assert len(out) <= slots
        busy += len(out) * 0.05
    assert min(served[name] for name in allowances) >= 0.25 * sum(served.values()) / workers
    assert busy >= 0.3 * slots * 200
