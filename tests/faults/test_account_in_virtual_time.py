"""Use of an account's limits over minutes, by the real worker and limiter in virtual time."""

import asyncio
import math
from bisect import bisect_left
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean

import pytest
from faults.simulation.loop import VirtualLoop
from faults.simulation.processes import Process
from faults.simulation.services import VirtualClock
from faults.simulation.spec import PER_S, Spec
from faults.simulation.world import World
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillhouse.cluster.actors.prompt_queue import LEASE_WAIT_S
from stillhouse.gen.coordination.leases import FENCE_S
from stillhouse.gen.limits.shares import BURST_S, LEASE_S, Cost, Lease
from stillhouse.gen.teachers.account import Account

WAIT_S = 60.0
LOST_AT = 20.0
ONE = Cost(0, 0)


@pytest.mark.parametrize("latency_s", [None, 0.02], ids=["others in flight", "nothing else in flight"])
def test_refusals_of_one_prompt_do_not_stop_the_others(tmp_path: Path, latency_s: float | None) -> None:
    """Every 429 to one prompt states a wait: all stop for the first, until others that are asked later get through.

    The teacher checks that nobody sends before that but one request, and that no minute loses more than half of the
    rate. The prompt itself is never asked before it may be.
    """
    odd = "question 40"
    world = World(1, tmp_path, spec=Spec.calm(prompts=1700, per_shard=200))
    world.teacher.odd = {odd: f"{WAIT_S:g}"}
    world.teacher.between_s = None if latency_s is None else (latency_s, latency_s)
    world.run()
    asked = [request.sent_at for request in world.services.history.requests if request.sample[0] == odd]
    assert len(asked) >= 3, "it was given up at once: this proves nothing"
    assert all(b - a >= WAIT_S for a, b in pairwise(asked))
    assert world.teacher.check_rates(PER_S) < 0.98, "nothing was held back: this proves nothing"


def served_per_s(world: World, begin: float, end: float) -> float:
    """Requests per second in this time, as a fraction of the limit."""
    times = [request.sent_at for request in world.services.history.requests]
    return (bisect_left(times, end) - bisect_left(times, begin)) / (end - begin) / PER_S


def most_in_a_second(world: World) -> int:
    """Requests in the fullest second."""
    times = [request.sent_at for request in world.services.history.requests]
    return max(bisect_left(times, at + 1.0) - n for n, at in enumerate(times))


def of_node(world: World, name: str) -> list[Process]:
    """The node's live workers."""
    return [process for process in world.services.processes.alive("worker") if process.node.name == name]


@pytest.mark.parametrize(("limiter_s", "least"), [(0.0, 0.95), (1.0, 0.91)], ids=["a quick limiter", "a slow limiter"])
def test_dead_workers_shares_go_to_the_others(tmp_path: Path, limiter_s: float, least: float) -> None:
    """Half of the workers are killed: within a lease the others use the whole limit, and no second exceeds it.

    How much is lost until then depends on when in its lease a worker dies, so several worlds are judged together.
    """
    served, settled = [], []
    for seed in range(1, 5):
        (folder := tmp_path / f"{seed}").mkdir()
        world = World(seed, folder, spec=Spec.calm(workers=4, prompts=900, per_shard=25))
        world.services.limiter_s = limiter_s
        world.at(LOST_AT, partial(_kill_node, world, "node-0"))
        world.run()
        assert served_per_s(world, 10.0, LOST_AT) >= 0.95, "it never used the limit: this proves nothing"
        served.append(served_per_s(world, LOST_AT, LOST_AT + 30.0))
        settled.append(served_per_s(world, LOST_AT + LEASE_S + 2 * limiter_s, LOST_AT + 30.0))
        assert most_in_a_second(world) <= PER_S * (1 + BURST_S) + 4  # a bucket of each worker may hold one more
    assert fmean(served) >= least
    assert fmean(settled) >= 0.96


def _kill_node(world: World, name: str) -> None:
    for process in of_node(world, name):
        world.services.processes.kill(process)


def test_workers_that_must_not_send_have_no_share(tmp_path: Path) -> None:
    """A node without its store stops after ten seconds: the others have all of the limit while it waits."""
    world = World(1, tmp_path, spec=Spec.calm(workers=4, prompts=1100, per_shard=25))
    world.part("store", at=LOST_AT, for_s=40.0, driver=False, node="node-0")
    world.run()
    stopped_at = LOST_AT + FENCE_S
    cut_off = [r for r in world.services.history.requests if r.process.node.name == "node-0" and r.sent_at < LOST_AT]
    assert cut_off, "nobody was there: this proves nothing"
    assert served_per_s(world, stopped_at, LOST_AT + 40.0) >= 0.95


@settings(max_examples=40, deadline=None)
@example(stalls=[(0.0, 0.0), (0.0, 0.0), (0.5, 0.5), (0.5, 0.5), (0.5, 0.125)])
@given(stalls=st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 0.6)), min_size=5, max_size=40))
def test_a_stalled_process_does_not_catch_up_with_a_burst(stalls: list[tuple[float, float]]) -> None:
    """Whenever its event loop stands still, also between a grant and its request: no second exceeds rate and burst."""
    loop, rate, sent = VirtualLoop(None, admit=lambda handle: True), 40.0, list[float]()

    async def send(account: Account) -> None:
        while True:
            await account.reserve(ONE)
            sent.append(loop.time())
            account.settle(ONE, None)

    async def live() -> None:
        account = Account(VirtualClock(loop))
        account.accept(Lease({"requests": rate}, 100, math.inf, 0.0))
        tasks = [asyncio.create_task(send(account)) for _ in range(20)]
        starts = accumulate(after_s for after_s, _ in stalls)
        for at, (_, stall_s) in zip(starts, stalls, strict=True):  # one that is due within another follows it at once
            loop.call_at(at, loop.stall, stall_s)
        await asyncio.sleep(sum(map(sum, stalls)) + 2.0)
        for task in tasks:
            task.cancel()

    loop.run_until_complete(live())
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()
    most = max(bisect_left(sent, at + 1.0) - n for n, at in enumerate(sent))
    assert most <= rate * (1 + BURST_S) + 1
    assert len(sent) >= rate / 2


def test_rounds_with_few_accepted_answers_use_the_whole_limit(tmp_path: Path) -> None:
    """Three answers in ten are accepted, and eight are asked at most: a chunk's last rounds keep few slots busy."""
    weights = {"answer": 0.45, "length": 0.55}  # of whole answers the check accepts two thirds
    spec = Spec.calm(prompts=300, per_shard=20, accept=1, samples=8, checks=True, weights=weights)
    world = World(1, tmp_path, spec=spec)
    world.run()
    assert max(seed for _, seed in world.services.history.attempts) == 7, "nothing took eight rounds"
    assert served_per_s(world, 5.0, 60.0) >= 0.95


def use_of_slots(world: World, *, since: float, until: float) -> float:
    """The mean number of requests in flight in this time, as a fraction of what is allowed."""
    flights = [(request.sent_at, request.kept_at or until) for request in world.services.history.requests]
    used_s = sum(max(0.0, min(end, until) - max(start, since)) for start, end in flights)
    return used_s / (until - since) / (world.spec.in_flight or 1)


def test_long_answers_fill_the_slots_until_fewer_samples_remain(tmp_path: Path) -> None:
    """5 to 60 s with 200 in flight: a worker that has no more to ask leaves its slots to those that have."""
    spec = Spec.calm(workers=4, prompts=1500, per_shard=600, in_flight=200, per_minute=None, timeout_s=300.0)
    world = World(1, tmp_path, spec=spec)
    world.teacher.between_s = 5.0, 60.0
    world.run()
    requests = world.services.history.requests
    few_left_at = sorted(request.kept_at or 0.0 for request in requests)[-200]
    workers = {request.process for request in requests}
    idle_from = min(max(request.sent_at for request in requests if request.process is each) for each in workers)
    assert few_left_at - idle_from > 20.0, "all ran dry at once: this proves nothing"
    assert use_of_slots(world, since=10.0, until=few_left_at) >= 0.95
    assert use_of_slots(world, since=idle_from, until=few_left_at) >= 0.95


def test_idle_workers_poll_the_queue_no_more_often_than_it_allows(tmp_path: Path) -> None:
    """One of two has work, and its lane has fewer samples than slots: each that leaves calls for another chunk."""
    spec = Spec.calm(workers=2, prompts=500, per_shard=500, in_flight=200, per_minute=None)
    world = World(1, tmp_path, spec=spec)
    world.teacher.between_s = 5.0, 20.0
    world.run()
    seconds = max(request.kept_at or 0.0 for request in world.services.history.requests)
    workers = [process for process in world.services.processes.all if process.kind == "worker"]
    assert len(workers) == 2
    # Once per wait, and once more for each chunk of its own.
    assert max(worker.leases for worker in workers) <= seconds / LEASE_WAIT_S + 10


def test_a_worker_presumed_dead_under_a_budget_is_replaced(tmp_path: Path) -> None:
    """It may not spend what others were granted meanwhile: it stops when it is back, and another takes its place."""
    world = World(1, tmp_path, spec=Spec.calm(prompts=500, per_shard=25, budget={"requests": 5000}))
    world.part("queue", at=5.0, for_s=40.0, driver=False, node="node-0")
    world.run()
    workers = [process for process in world.services.processes.all if process.kind == "worker"]
    assert len(workers) == 3, "expected two workers, and one in the place of the one that was cut off"
