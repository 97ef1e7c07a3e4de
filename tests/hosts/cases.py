"""The cases: what happens to two hosts at work, and what must hold nevertheless."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from .host import Host
from .lab import Lab, Run
from .teacher import LATENCY_S
from .verdict import Excuse

Case: TypeAlias = Callable[[Lab], None]

AT_WORK_S = 15.0
"""How long a run asks before anything is done to it."""


def calm(lab: Lab) -> None:
    """Nothing happens."""
    _cluster(lab)
    run = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    lab.story.least_share, lab.story.longest_idle_s = 97.0, 0.0
    run.wait()


def link(seconds: float) -> Case:
    """The second host's link is cut for a while; it has no shared actor, so the first one works on."""

    def case(lab: Lab) -> None:
        _cluster(lab)
        run = lab.run(lab.first)
        lab.asking(for_s=AT_WORK_S)
        cut_at = lab.mark(f"host 2's link is cut for {seconds:g} s")
        lab.net.cut(2)
        time.sleep(seconds)
        lab.net.heal(2)
        lab.story.heals.append((lab.second.address, lab.mark("the link is back")))
        if seconds > 30.0:  # longer than a lease: its chunks are others' by then
            lab.story.excuses.append(Excuse.disk_lost(lab.second.address, cut_at))
        lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
        run.wait()

    return case


def without_store(seconds: float) -> Case:
    """The second host reaches everything but the store for a while."""

    def case(lab: Lab) -> None:
        _cluster(lab)
        run = lab.run(lab.first)
        lab.asking(for_s=AT_WORK_S)
        cut_at = lab.mark(f"host 2 is cut from the store for {seconds:g} s")
        lab.net.lose(2, lab.net.store)
        time.sleep(seconds)
        lab.net.heal(2)
        lab.mark("the store is back")
        lab.story.excuses.append(Excuse.store_lost(lab.second.address, cut_at, latency_s=LATENCY_S[1]))
        lab.story.longest_idle_s = 10.0
        run.wait()

    return case


def full_disk(lab: Lab) -> None:
    """The second host's disk for journals is full for a while: its workers stop, and come back once there is room."""
    lab.journal_dir = "/tmp/journals"
    lab.second = lab.host(2, head=1, journals="96m")
    _cluster(lab)
    run = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    full_at = lab.mark("host 2's disk is full")
    lab.second.run("sh", "-c", "cat /dev/zero > /tmp/journals/filler", output=subprocess.DEVNULL).wait()
    time.sleep(40.0)
    lab.second.run("rm", "/tmp/journals/filler", output=subprocess.DEVNULL).wait()
    room_at = lab.mark("host 2's disk has room again")
    address = lab.second.address
    lab.story.excuses.append(Excuse.disk_full(address, full_at, latency_s=LATENCY_S[1]))
    lab.story.asks += [(address, full_at + 2.0, room_at, False), (address, room_at, math.inf, True)]
    lab.story.words = ["others take its chunks, and a replacement starts in 30 s"]
    lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
    run.wait()


def parted(lab: Lab) -> None:
    """The hosts lose each other for good, but neither the store nor the teacher."""
    _cluster(lab)
    run = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    lab.mark("the hosts are cut from each other")
    lab.net.part(1, 2)
    lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
    run.wait()


def node_lost(*, silently: bool) -> Case:
    """The second host is gone with its disk; `silently`: its kernel says nothing to anybody."""

    def case(lab: Lab) -> None:
        _cluster(lab)
        run = lab.run(lab.first)
        lab.asking(for_s=AT_WORK_S)
        if silently:
            lab.net.cut(2)
        lost_at = lab.mark(f"host 2 is gone with its disk{', silently' if silently else ''}")
        lab.second.kill(with_disk=True)  # on a busy machine its workers receive answers for half a second and more
        lab.story.excuses.append(Excuse.disk_lost(lab.second.address, lost_at, time.time()))
        lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
        run.wait()

    return case


def head_lost(lab: Lab) -> None:
    """The first host, with head and driver, is lost with its disk; another host runs the same command."""
    _cluster(lab)
    lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    lab.net.cut(1)
    lost_at = lab.mark("host 1 is gone with its disk")
    lab.first.kill(with_disk=True)
    lab.story.excuses.append(Excuse.disk_lost(lab.first.address, lost_at))
    # Its cluster goes with it: what the other host received and had not shipped yet is on its disk, and shipped by
    # whoever works there next.
    time.sleep(5.0)
    lab.net.heal(1)
    lab.first.start()
    lab.mark("a new host 1 is up")
    again = lab.run(lab.first)
    lab.story.wanted = (None, 0)
    again.wait()


def drained(lab: Lab) -> None:
    """The second host is drained, and lost with its disk half a minute later: nothing is asked twice."""
    _cluster(lab)
    run = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    lab.second.stay_down()
    node = _node_id(lab.first, lab.second)
    lab.mark("host 2 is drained")
    drain = ["ray", "drain-node", "--address", lab.first.cluster, "--node-id", node]
    drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    said = lab.first.run(*drain, "--deadline-remaining-seconds", "30", output=subprocess.PIPE).communicate()[0]
    assert "error" not in said.lower(), said
    time.sleep(30.0)
    lab.second.kill(with_disk=True)
    lab.mark("host 2 is gone with its disk")
    lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
    run.wait()


def raylet_ended(lab: Lab) -> None:
    """SIGTERM of a raylet kills its workers: their disk stays, but nobody is left to ship from it."""
    _cluster(lab)
    run = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    lab.second.stay_down()
    ended_at = lab.mark("host 2's raylet gets SIGTERM")
    for pid in lab.second.pids(title="/raylet/raylet"):
        os.kill(pid, signal.SIGTERM)
    # Its workers end with it or up to a second later: either way nobody ships from that disk any more.
    lab.story.excuses.append(Excuse.disk_lost(lab.second.address, ended_at, ended_at + 1.0))
    lab.story.least_share, lab.story.longest_idle_s = 95.0, 10.0
    run.wait()


def two_clusters(lab: Lab) -> None:
    """Two clusters, one dataset: the second waits, and finds all done."""
    first, second = _two_runs(lab)
    first.wait()
    second.wait(120.0)
    lab.story.wanted = (0, 0)


def first_cut_off(seconds: float) -> Case:
    """The first of two clusters is cut off: the second takes its dataset over, and the first has to stop."""

    def case(lab: Lab) -> None:
        first, second = _two_runs(lab)
        cut_at = lab.mark(f"the first cluster is cut off for {seconds:g} s")
        lab.net.cut(1)
        time.sleep(seconds)
        lab.net.heal(1)
        lab.story.heals.append((lab.first.address, lab.mark("its link is back")))
        lab.story.excuses.append(Excuse.disk_lost(lab.first.address, cut_at))
        lab.story.wanted = (3, 0)
        first.wait(120.0)
        second.wait()

    return case


def first_without_store(seconds: float) -> Case:
    """The first of two clusters loses the store and not the teacher: it must stop asking before the second starts."""

    def case(lab: Lab) -> None:
        first, second = _two_runs(lab)
        cut_at = lab.mark(f"the first cluster is cut from the store for {seconds:g} s")
        lab.net.lose(1, lab.net.store)
        time.sleep(seconds)
        lab.net.heal(1)
        lab.mark("the store is back")
        lab.story.excuses.append(Excuse.store_lost(lab.first.address, cut_at, latency_s=LATENCY_S[1]))
        lab.story.wanted = (3, 0)
        first.wait(120.0)
        second.wait()

    return case


def _cluster(lab: Lab) -> None:
    lab.first.start()
    lab.second.start()


def _two_runs(lab: Lab) -> tuple[Run, Run]:
    lab.second = lab.host(2, head=2)
    lab.first.start()
    lab.second.start()
    first = lab.run(lab.first)
    lab.asking(for_s=AT_WORK_S)
    second = lab.run(lab.second)
    time.sleep(12.0)
    return first, second


def _node_id(head: Host, host: Host) -> str:
    ask = "import json, ray; ray.init(address='auto', log_to_driver=False); print('NODES', json.dumps(ray.nodes()))"
    said = head.run(sys.executable, "-c", ask, output=subprocess.PIPE).communicate(timeout=60)[0]
    nodes = json.loads(next(line for line in said.splitlines() if line.startswith("NODES"))[5:])
    return next(str(n["NodeID"]) for n in nodes if n["Alive"] and n["NodeManagerAddress"] == host.address)


CASES: Mapping[str, Case] = {
    "none": calm,
    "link20": link(20.0),
    "link90": link(90.0),
    "store75": without_store(75.0),
    "fulldisk": full_disk,
    "parted": parted,
    "nodelost": node_lost(silently=True),
    "nodekilled": node_lost(silently=False),
    "headlost": head_lost,
    "drain": drained,
    "sigterm": raylet_ended,
    "twoclusters": two_clusters,
    "twoparted": first_cut_off(40.0),
    "twostore": first_without_store(45.0),
}
"""By the name that the command takes."""

PROMPTS: Mapping[str, int] = {"none": 2400, "fulldisk": 4800}
"""Where a minute or two are enough; elsewhere three."""
