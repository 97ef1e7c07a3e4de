"""Watches the shared actors for the driver: reports those that can't be reached, and backs up the queue's totals."""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from stillhouse.cluster.actors.plain import pack, unpack
from stillhouse.cluster.progress.display import Display
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.coordination.counters import Counters

TELL_AFTER_S = 5.0
"""A queue that has not answered for this long is reported; the last progress line may be twice as old."""
START_S = 20.0
"""A longer timeout at the start, while the queue's process comes up, perhaps alongside all others on one machine."""
TELL_EVERY_S = 10.0
TOTALS_EVERY_S = 3.0
"""How often the workers' totals are copied. Workers report no more often than this."""
_NEXT = "Ray restarts it, at once if its process ended, within about a minute if its node vanished silently"


class Control:
    """Reports actors that can't be reached, without ever waiting for one."""

    def __init__(self, queue: Any, limiters: Mapping[str, Any]) -> None:
        self._queue = queue
        self._where: dict[str, Any] = {
            "PromptQueue": queue.where.remote(),
            **{f"RateLimiter of account {account}": actor.where.remote() for account, actor in limiters.items()},
        }
        """Each actor's place, or the pending call for it, by the actor's name."""
        self._answered_at = time.monotonic()
        self._tell_at = self._answered_at + START_S
        self._was_told = False
        self._held_up: set[str] = set()
        self._totals: dict[str, Counters] = {}
        self._asked_totals: Any = None
        self._totals_at = 0.0

    def look(self, stats: QueueStats | None, display: Display) -> None:
        """Process the queue's stats; None if it did not answer."""
        now = time.monotonic()
        if stats is None:
            self._not_reached(now, display)
            return
        if self._was_told:
            display.note(f"the PromptQueue answers again, after {now - self._answered_at:.0f} s")
        self._was_told = False
        self._answered_at, self._tell_at = now, now + TELL_AFTER_S
        self._note_held_up(stats, display)
        self._copy_totals(now)

    def _not_reached(self, now: float, display: Display) -> None:
        self._asked_totals = None
        if now >= self._tell_at:
            self._was_told, self._tell_at = True, now + TELL_EVERY_S
            silent_s = now - self._answered_at
            display.note(
                f"the PromptQueue{self._place('PromptQueue')} has not answered for {silent_s:.0f} s; workers that "
                f"can't reach it stop sending; {_NEXT}"
            )

    def _note_held_up(self, stats: QueueStats, display: Display) -> None:
        """Report each reason that keeps workers from sending, once."""
        for reason in stats.held_up.keys() - self._held_up:
            count = stats.held_up[reason]
            who = "1 worker sends" if count == 1 else f"{count} workers send"
            name = next((name for name in self._where if name in reason), None)
            what_next = f"{self._place(name)}; {_NEXT}" if name else "; the others keep working"
            display.note(f"{who} nothing: {reason}{what_next}")
        self._held_up = set(stats.held_up)

    def _place(self, name: str) -> str:
        found = self._where[name]
        if not isinstance(found, str):
            try:
                if not ray.wait([found], timeout=0)[0]:
                    return ""
                found = ray.get(found)
            except RayError:
                return ""
            self._where[name] = found
        return f" on {found}"

    def _copy_totals(self, now: float) -> None:
        """Keep each worker's last totals, and restore them to a queue that lost them."""
        if self._asked_totals is None:
            if now >= self._totals_at:
                self._totals_at, self._asked_totals = now + TOTALS_EVERY_S, self._queue.totals.remote()
            return
        if not ray.wait([self._asked_totals], timeout=0)[0]:
            return
        asked, self._asked_totals = self._asked_totals, None
        try:
            found = {worker: unpack(sent, Counters) for worker, sent in ray.get(asked).items()}
        except RayError:
            return
        if lost := {worker: pack(self._totals[worker]) for worker in self._totals.keys() - found.keys()}:
            self._queue.remember.remote(lost)
        self._totals |= found
