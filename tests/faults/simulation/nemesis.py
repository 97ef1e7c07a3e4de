"""What goes wrong, and when: strikes drawn from the seed, each at a write, a message or an await of some process."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping

from .history import History
from .loop import VirtualLoop
from .processes import Node, Process, Processes, check_alive
from .stores import Weather

_PLACES: Mapping[str, int] = {"await": 400, "store": 60, "read": 60, "journal": 40, "post": 30}
"""Where a strike can be, and up to how many of these pass before it."""
_BLOWS: Mapping[str, float] = {
    "kill": 8, "torn": 3, "queue": 3, "limiter": 1, "driver": 2, "everything": 2, "node": 2, "stop": 4, "cut_off": 2,
    "parted": 4, "store_away": 1, "disk_full": 1,
}  # fmt: skip


class Nemesis:
    """Strikes a drawn number of times."""

    def __init__(self, rng: random.Random, *, strikes: int, note: Callable[[str], None]) -> None:
        self._rng = rng
        self._left = strikes
        self._note = note
        self._place, self._count = "", 0
        self._tears = False
        self.blows: Counter[str] = Counter()
        self.loop: VirtualLoop
        self.processes: Processes
        self.history: History
        self.weather: Weather
        self.nodes: list[Node]
        self._aim()

    def _aim(self) -> None:
        if self._left > 0:
            self._place = self._rng.choice(list(_PLACES))
            self._count = 1 + int(_PLACES[self._place] * self._rng.random() ** 2)

    def rest(self) -> None:
        """Never strike again."""
        self._left = 0

    def step(self, process: Process) -> None:
        """A process is about to continue from an await."""
        if self._comes("await"):
            self._strike(process)

    def point(self, place: str) -> None:
        """The running process has reached a point of this kind.

        Raises:
            Killed: it was killed there.
        """
        process = check_alive()
        if process is not None and self._comes(place):
            self._strike(process)
            check_alive()

    def torn(self) -> float | None:
        """For the journal: how much of a frame is written before its process dies; None if it lives."""
        tears, self._tears = self._tears, False
        if not tears:
            return None
        return self._rng.random()

    def _comes(self, place: str) -> bool:
        if self._left <= 0 or place != self._place:
            return False
        self._count -= 1
        return self._count <= 0

    def _strike(self, process: Process) -> None:  # noqa: C901 - one case per blow
        self._left -= 1
        self._aim()
        rng, processes = self._rng, self.processes
        blow = rng.choices(list(_BLOWS), list(_BLOWS.values()))[0]
        self.blows[blow] += 1
        self._note(f"{blow}, while {process.name} is at work")
        match blow:
            case "kill":
                self._kill(process)
            case "torn":
                self._tears = True
            case "queue" | "limiter" | "driver":
                for victim in processes.alive(blow):
                    self._kill(victim)
            case "everything":
                for victim in [p for p in processes.all if p.dead_at is None]:
                    self._kill(victim)
            case "node":
                self._lose(rng.choice(self.nodes))
            case "stop":
                for victim in processes.alive("worker")[: rng.randint(1, 2)]:
                    processes.stop(victim, rng.choice((1.0, 9.0, 20.0, 35.0, 60.0, 120.0)) * rng.uniform(0.5, 1.5))
            case "cut_off":
                for victim in processes.alive("worker")[: rng.randint(1, 2)]:
                    victim.disturbed = True
                    victim.cut_off_until = self.loop.time() + rng.choice((5.0, 15.0, 40.0, 90.0))
            case "parted":
                self._part(rng.choice(self.nodes))
            case "store_away":
                self.weather.away_until = self.loop.time() + rng.choice((1.0, 20.0, 100.0))
            case "disk_full":
                rng.choice(self.nodes).full_until = self.loop.time() + rng.choice((0.5, 5.0, 40.0))

    def _part(self, node: Node) -> None:
        """Cut a node, perhaps with the driver, off from some of queue, limiter and store, but not from the others."""
        rng = self._rng
        lost = rng.sample(("queue", "limiter", "store"), rng.randint(1, 2))
        until = self.loop.time() + rng.choice((3.0, 12.0, 40.0, 90.0))
        kinds = ("worker", "driver") if rng.random() < 0.3 else ("worker",)
        node.cut_from |= dict.fromkeys(lost, until)
        for process in self.processes.all:
            with_node = process.node is node or process.kind == "driver"
            if process.kind in kinds and with_node and process.node.cluster == node.cluster:
                process.cut_from |= dict.fromkeys(lost, until)
                process.disturbed |= "queue" in lost
                self.history.message_lost |= "limiter" in lost
                self.history.store_lost |= "store" in lost

    def _kill(self, process: Process) -> None:
        self.history.upheaval |= process.kind in ("queue", "driver")
        self.history.limiter_died |= process.kind == "limiter"
        self.processes.kill(process)

    def _lose(self, node: Node) -> None:
        """Lose a machine with its disk; another one takes its place."""
        if not node.can_be_lost:
            return
        for process in self.processes.all:
            if process.node is node:
                self._kill(process)
        self.history.lost_disks.append((node, self.loop.time()))
        shutil.rmtree(node.disk, ignore_errors=True)
