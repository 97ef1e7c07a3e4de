"""The actors of one run: its PromptQueue and its TeacherWorkers. The driver owns them, and they end with it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.cluster.actors.handles import start_limiter, start_queue, unique
from stillhouse.cluster.actors.places import head_node
from stillhouse.cluster.actors.plain import pack_recipe, unpack
from stillhouse.cluster.actors.startup import check_started
from stillhouse.cluster.actors.teacher_worker import TeacherWorker
from stillhouse.cluster.control import Control
from stillhouse.cluster.progress.display import Display
from stillhouse.cluster.progress.metrics import RunMetrics
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.cluster.runtime import draining_nodes, this_node, why_none_started
from stillhouse.gen.coordination.messages import End, node_of
from stillhouse.gen.errors import StillhouseError
from stillhouse.schemas.recipe import Recipe

_log = logging.getLogger("stillhouse")

CALL_TIMEOUT_S = 5.0
STATS_TIMEOUT_S = 3.0
"""Shorter than other timeouts, because the display stands still meanwhile."""
DRAIN_POLL_S = 2.0
WAVE = 50
"""How many workers start at a time. Starting all at once would slow each of them down."""
MOST_SAID = 300
"""Maximum number of characters shown of a worker's last message."""
AWAY_S, MOST_AWAY_S = 30.0, 300.0
"""Delay before replacing a worker whose store or disk failed; doubles each time, up to the second value."""
MOST_DEATHS = 20
"""Workers that may die in a row without a chunk sealed in between."""


@dataclass(slots=True)
class _Hand:
    """A worker, and what is known about its actor."""

    actor: Any
    name_ref: Any
    run_ref: Any
    name: str | None = None
    leaving: bool = False
    """Its node is about to go away: it was asked to stop, and another worker takes its place."""


@dataclass(frozen=True, slots=True)
class _Death:
    """A worker's call that failed."""

    cause: str
    is_certain: bool
    """True if its process is gone; otherwise it may only be unreachable."""


@dataclass(slots=True)
class _Aways:
    """Workers that stopped because their store or disk failed, and when to start their replacements."""

    hire_at: list[float] = field(default_factory=list)
    in_a_row: int = 0
    """Count since a chunk was last sealed."""

    def add(self, now: float) -> float:
        """Add one; returns how long to wait before replacing it."""
        wait_s: float = min(AWAY_S * 2**self.in_a_row, MOST_AWAY_S)
        self.in_a_row += 1
        self.hire_at.append(now + wait_s)
        return wait_s

    def due(self, now: float) -> int:
        """Number of replacements to start now."""
        count = sum(at <= now for at in self.hire_at)
        self.hire_at = [at for at in self.hire_at if at > now]
        return count


class Crew:
    """Starts the actors, replaces workers that die, and reports how the work ended."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        opened: Sequence[int],
        known: int,
        workers: int,
        node: str | None,
        finish: bool = False,
        follow: bool = False,
    ) -> None:
        """`opened`, `known`, `finish`, `follow`: see `PromptQueue`; `node`: the node that all workers must run on, if
        any.
        """
        self._recipe = recipe
        self._shared = pack_recipe(recipe)
        self._node = node
        self._metrics = RunMetrics(recipe)
        self._head = head_node()
        self._queue = start_queue(
            recipe, opened=opened, known=known, workers=workers, finish=finish, follow=follow, node=this_node()
        )
        self._started = time.monotonic()
        self._number = 0
        self._deaths = 0
        self._sealed = -1
        self._stopping = False
        self._warned = False
        self._stats: QueueStats | None = None
        self._is_reached = True
        self._look_for_drains_at = 0.0
        # A node starts only as many processes at once as it has CPUs, and a worker's is the slowest: start the first
        # now.
        self._hands = [self._hire()]
        # Started alongside the workers rather than by them: this saves a process's start, and they outlive any worker.
        limiters = {key: start_limiter(key, limits, node=self._head) for key, limits in recipe.accounts.items()}
        self._limiters = list(limiters.values())
        self._limiters_up = [limiter.__ray_ready__.remote() for limiter in self._limiters]
        self._control = Control(self._queue, limiters)
        self._aways = _Aways()
        self._to_hire = workers - 1
        self._hire_wave()
        self.ends: list[End] = []
        """How the workers ended that did not die."""

    def _hire_wave(self) -> None:
        wave = 0 if self._stopping else min(WAVE, self._to_hire)
        self._to_hire -= wave
        self._hands += [self._hire() for _ in range(wave)]

    def _hire(self) -> _Hand:
        strategy = NodeAffinitySchedulingStrategy(self._node, soft=False) if self._node else "SPREAD"
        options = ray.remote(TeacherWorker).options(
            name=unique(f"worker-{self._number} {self._recipe.name}"),
            num_cpus=1,
            max_restarts=0,
            max_concurrency=64,
            scheduling_strategy=strategy,
        )
        actor: Any = options.remote(self._shared, self._queue, number=self._number, head=self._head)
        self._number += 1
        return _Hand(actor, actor.identify.remote(), actor.run.remote())

    def hold(self, good_for_s: float) -> None:
        """Stop all sending after this long, unless called again before then; safe to call from any thread."""
        self._queue.hold.remote(good_for_s)

    def stats(self) -> QueueStats | None:
        """The run's progress, also shown on the Ray dashboard; None while the queue can't be reached.

        Raises:
            StillhouseError: the queue can't be started.
        """
        try:
            stats = unpack(ray.get(self._queue.stats.remote(), timeout=STATS_TIMEOUT_S), QueueStats)
        except (RayActorError, GetTimeoutError) as error:
            check_started(error)
            self._is_reached = False
            return None
        self._is_reached = True
        if stats.sealed > self._sealed:
            self._sealed, self._deaths = stats.sealed, 0
            self._aways.in_a_row = 0
        self._metrics.update(stats, workers=len(self._hands))
        self._stats = stats
        return stats

    def planned(self, *, last: bool) -> None:
        """Tell the queue that a generation was planned, or that none will follow the `last` one."""
        self._queue.planned.remote(last=last)

    def tend(self, display: Display) -> None:
        """Record which workers ended, and replace those that died.

        Raises:
            StillhouseError: workers die one after the other, or an actor can't be started.
        """
        for ref in _ready(self._limiters_up):
            self._limiters_up.remove(ref)
            _result(ref)
        started = _ready([hand.name_ref for hand in self._hands if hand.name is None])
        ended = _ready([hand.run_ref for hand in self._hands])
        self._control.look(self._stats if self._is_reached else None, display)
        for hand in list(self._hands):
            if hand.name_ref in started:
                hand.name = _name(hand.name_ref)
            if hand.run_ref not in ended:
                continue
            self._hands.remove(hand)
            end = _result(hand.run_ref)
            if isinstance(end, _Death):
                self._bury(hand, end, display)
            elif end.kind == "away":
                self._away(hand, end, display)
            elif end.kind == "stopped" and not (self._stopping or hand.leaving):
                display.note(f"{hand.name or 'a worker'} was considered dead and stopped; another takes its place")
                self._hands.append(self._hire())
            elif not (hand.leaving and end.kind == "stopped"):
                self.ends.append(end)
        self._leave_draining_nodes(display)
        self._hire_wave()
        if not self._stopping:
            self._hands += [self._hire() for _ in range(self._aways.due(time.monotonic()))]
        self._note_slow_start(display)

    def _away(self, hand: _Hand, end: End, display: Display) -> None:
        """A worker's store or disk failed: the others continue, and a replacement starts after a delay.

        If no other is left, the fault affects the whole run, which pauses.
        """
        if self._stopping or hand.leaving:
            return
        if not self._hands:
            self.ends.append(End("paused", end.message))
            return
        wait_s = self._aways.add(time.monotonic())
        display.note(
            f"{hand.name or 'a worker'} stopped ({end.message[:MOST_SAID]}); others take its chunks, and a "
            f"replacement starts in {wait_s:.0f} s"
        )

    def _leave_draining_nodes(self, display: Display) -> None:
        """Have workers on nodes that are about to go away give their chunks back; others resume them elsewhere."""
        now = time.monotonic()
        if self._stopping or now < self._look_for_drains_at:
            return
        self._look_for_drains_at = now + DRAIN_POLL_S
        draining = {node[:8] for node in draining_nodes()}
        for hand in list(self._hands):
            if hand.name is not None and not hand.leaving and node_of(hand.name) in draining:
                hand.leaving = True
                hand.actor.stop.remote()
                display.note(f"{hand.name}: its node is about to go away; another worker takes over its chunks")
                self._hands.append(self._hire())

    def _note_slow_start(self, display: Display) -> None:
        """Report that no worker is up: soon if no node has a free CPU, later if the workers are only slow."""
        waited_s = time.monotonic() - self._started
        if self._warned or self._any_started():
            return
        if (why := why_none_started(waited_s)) is not None:
            self._warned = True
            display.note(why)

    def _any_started(self) -> bool:
        return bool(self.ends) or any(hand.name is not None for hand in self._hands)

    def _bury(self, hand: _Hand, death: _Death, display: Display) -> None:
        """A worker died: free what it held, and start another in its place."""
        ray.kill(hand.actor)  # it may have failed without dying, and its journals must be free
        if hand.name is not None:
            if death.is_certain:
                for limiter in self._limiters:  # a limiter that misses this call waits until the lease expires
                    limiter.died.remote(hand.name)
            self._tell_queue("worker_died", hand.name)
        if not hand.leaving:
            self._replace(hand, death.cause, display)

    def _replace(self, hand: _Hand, cause: str, display: Display) -> None:
        self._deaths += 1
        if self._stopping:
            return
        if self._deaths >= MOST_DEATHS:
            raise StillhouseError(
                f"{self._deaths} workers died one after the other without sealing a chunk; the last: {cause}"
            )
        display.note(f"{hand.name or 'a worker'} died ({cause}); another takes over its chunks")
        self._hands.append(self._hire())

    def _tell_queue(self, method: str, *args: Any) -> None:
        """Repeat the call until it arrives; a queue that is restarting answers after a while."""
        for _ in range(10):
            try:
                ray.get(getattr(self._queue, method).remote(*args), timeout=CALL_TIMEOUT_S)
            except (RayActorError, GetTimeoutError):
                time.sleep(0.5)
            else:
                return

    @property
    def working(self) -> bool:
        """True if any worker is working or starting."""
        return bool(self._hands)

    def stop(self) -> None:
        """Have the workers finish the requests in flight and give the rest back."""
        self._stopping = True
        for hand in self._hands:
            hand.actor.stop.remote()

    def dismiss(self) -> None:
        """End all actors of the run."""
        for actor in [*(hand.actor for hand in self._hands), self._queue]:
            ray.kill(actor)


def _ready(refs: list[Any]) -> set[Any]:
    """Results of the calls that have ended."""
    return set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()


def _name(ref: Any) -> str | None:
    """The worker's name; None if it died before it had one.

    Raises:
        StillhouseError: it can't be started.
    """
    try:
        return str(ray.get(ref))
    except RayError as error:
        check_started(error)
        return None


def _result(ref: Any) -> Any:
    """The call's value, or the `_Death` of its actor.

    Raises:
        StillhouseError: the actor can't be started.
    """
    try:
        return ray.get(ref)
    # a traceback, with the error in its last line; the process is alive, so this is not a death
    except RayTaskError as error:
        _log.error("a worker failed: %s", error)
        return End("failed", (str(error).strip().splitlines() or ["?"])[-1][:MOST_SAID])
    except RayError as error:
        check_started(error)
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:MOST_SAID]
        return _Death(cause, is_certain=isinstance(error, ActorDiedError))
