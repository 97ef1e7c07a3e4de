"""The chain of a worker's teachers (`route: fallback`): decides which teacher each sample is sent to, until it is sent.

A sample goes to the next teacher once its own gives up on it, and all samples do while a teacher is down; `Standing`
decides when. A sample that was sent to a teacher never returns to an earlier one. The decision is repeated right before
a sample is sent, so samples that only wait go back as soon as a teacher answers again. It is journalled with the
request (`OpenChunk.sent`).
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import TeacherPaused
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.standing import DOWN_AFTER_S, PROBE_EVERY_S, Standing
from stillhouse.gen.worker.lanes.base import Lane
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.settlements import Settlement
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.completion import Completion

LOOK_S = 1.0
"""How often it checks whether a teacher is down, and whether waiting samples may move on."""

MAX_WORDS = 300
"""Maximum number of characters shown of a teacher's last message."""


class _Probe(NamedTuple):
    """A sample assigned to a teacher that is down."""

    held: LeasedChunk
    ordinal: int
    place: int


class Chain:
    """The chain of a worker's teachers; a `Router` of the lanes."""

    def __init__(
        self,
        tasks: Tasks,
        clients: Sequence[TeacherClient],
        *,
        given_up_on: Callable[[str], None],
        give_up_after_s: float,
        answered_before: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        """Args: tasks: the worker's tasks. clients: the teachers' clients, in the recipe's order. given_up_on: called
        with the name of a teacher that never answered and is no longer waited for. give_up_after_s: how long a teacher
        that never answered is waited for. answered_before: blocks; returns whether the dataset has an answer of the
        teacher with this name. clock: the worker's clock.
        """
        self._tasks = tasks
        self._tell_given_up_on = given_up_on
        self._clients = clients
        self._give_up_after_s = give_up_after_s
        self._answered_before = answered_before
        self._clock = clock
        self._counters = Counters()
        self._lanes: Sequence[Lane[LeasedChunk]] = ()
        self._standings = [Standing(give_up_after_s=give_up_after_s) for _ in clients]
        self._by_name = {
            client.teacher.name: standing for client, standing in zip(clients, self._standings, strict=True)
        }
        self._said = [""] * len(clients)
        """The last reply that was not an answer."""
        self._waiting: list[tuple[LeasedChunk, int]] = []
        """Samples that no teacher may be asked now."""
        self._given_up_on: set[int] = set()
        """Positions of teachers that never answered, and are no longer waited for."""
        self._down: set[int] = set()
        """Positions of teachers that were reported to be down."""
        self._probe: _Probe | None = None
        self._looked_at = -PROBE_EVERY_S
        """When the dataset was last searched for answers."""
        self._answered_at = self._ended_at = clock.monotonic()
        """When any teacher last answered, and when an attempt last ended."""

    def use(self, lanes: Sequence[Lane[LeasedChunk]], *, counters: Counters) -> None:
        """Begin, with the teachers' lanes."""
        self._lanes, self._counters = lanes, counters

    @property
    def lane(self) -> Lane[LeasedChunk]:
        """The lane of the first teacher that is not down."""
        now = self._clock.monotonic()
        up = (place for place, standing in enumerate(self._standings) if not standing.is_down(now=now))
        return self._lanes[next(up, len(self._lanes) - 1)]

    def judged(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Learn from these settlements who has answered; returns those that are final, or whose teachers may not be
        left yet.
        """
        now = self._clock.monotonic()
        for each in settlements:
            self._by_name[each.teacher].has_answered |= each.reason is None
        return [
            each for each in settlements if not (each.moves_on and self._by_name[each.teacher].may_be_left(now=now))
        ]

    def take(self, held: LeasedChunk, ordinal: int, *, waited: bool = False) -> None:
        """Have the sample asked by the teacher whose turn it is, or make it wait. `waited`: it may serve as a probe."""
        if (place := self._turn_of(held, ordinal, waited=waited)) is None:
            self._waiting.append((held, ordinal))
        else:
            self._lanes[place].take(held, (ordinal,))

    # --- called by its lanes, see `Router`

    def leaves(self, held: LeasedChunk, ordinal: int, *, place: int) -> bool:
        """See `Router`."""
        wanted = self._turn_of(held, ordinal)
        if wanted == place:
            return False
        if wanted is None:
            self._waiting.append((held, ordinal))
        else:
            self._lanes[wanted].take(held, (ordinal,))
        return True

    def asked(self, place: int) -> None:
        """See `Router`."""
        self._standings[place].waited_for(now=self._clock.monotonic())

    def not_sent(self, held: LeasedChunk, ordinal: int) -> None:
        """See `Router`."""
        if self._is_probe(held, ordinal):
            self._probe = None

    def ended(self, held: LeasedChunk, ordinal: int, outcome: Outcome, *, place: int, sent_at: float) -> None:
        """See `Router`."""
        now = self._ended_at = self._clock.monotonic()
        self.not_sent(held, ordinal)
        if isinstance(outcome, Completion):
            self._answered_at = now
        else:
            self._said[place] = outcome.message[:MAX_WORDS]
        all_closed = self._clients[place].all_closed
        self._standings[place].ended(outcome, sent_at=sent_at, all_closed=all_closed, now=now)
        self._follow(now=now)

    def out_of_money(self, place: int, reason: str) -> None:
        """See `Router`."""
        now = self._clock.monotonic()
        if not self._standings[place].out_of_money:
            self._standings[place].ran_dry(reason[:MAX_WORDS], now=now)
            if not self._standings[place].may_be_left(now=now):
                wait = f"it has never answered, so it is waited for up to {self._give_up_after_s:.0f} s"
                self._note(place, f"{reason}; {wait} before the next teacher is asked")
            self._follow(now=now)

    # --- which teacher to ask

    def _turn_of(self, held: LeasedChunk, ordinal: int, *, waited: bool = False) -> int | None:
        """The position of the teacher to ask; None if the sample must wait."""
        now, state = self._clock.monotonic(), held.open.state
        first = state.place_of(ordinal) or 0
        if ordinal in state.spent:
            if not self._standings[first].may_be_left(now=now):
                # Perhaps only an earlier owner of the chunk asked it: nothing else would start its time then.
                self._standings[first].waited_for(now=now)
                self._said[first] = self._said[first] or state.spent[ordinal].message[:MAX_WORDS]
                return None
            first += 1
        if self._probe is not None and self._is_probe(held, ordinal) and self._probe.place >= first:
            return self._probe.place
        may_probe = waited or state.tries(ordinal).attempts == 0
        for place in range(first, len(self._standings)):
            standing = self._standings[place]
            is_down = standing.is_down(now=now)
            if not (is_down or standing.out_of_money):
                return place
            if may_probe and not self._clients[place].in_flight and standing.takes_probe(now=now):
                self._probe = _Probe(held, ordinal, place)
                return place
            if not is_down:  # without money, but may not be left yet
                return None
        return self._waits_at(first)

    def _is_probe(self, held: LeasedChunk, ordinal: int) -> bool:
        return self._probe is not None and self._probe.held is held and self._probe.ordinal == ordinal

    # --- periodic checks

    async def watch(self) -> None:
        """Move samples on when a teacher has been down for long enough; ends with the worker."""
        while True:
            await self._ask_dataset()
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Act on everything that depends on time alone."""
        now = self._clock.monotonic()
        self._follow(now=now)
        waiting, self._waiting = self._waiting, []
        for held, ordinal in waiting:
            if not held.abandoned:
                self.take(held, ordinal, waited=True)
        if self._is_over(now=now):
            self._tasks.fail(TeacherPaused(self._why_over()))

    async def _ask_dataset(self) -> None:
        """Look for answers of teachers that fail now and have not answered in this run."""
        now = self._clock.monotonic()
        if now - self._looked_at < PROBE_EVERY_S:
            return
        for place, standing in enumerate(self._standings):
            if self._said[place] and not standing.has_answered:
                self._looked_at = now
                name = self._clients[place].teacher.name
                if await asyncio.to_thread(self._answered_before, name):
                    standing.has_answered = True

    def _follow(self, *, now: float) -> None:
        """Move on samples that wait for a teacher if it is down now, or assign them to it if it no longer is."""
        down = [standing.is_down(now=now) for standing in self._standings]
        waits_at = self._waits_at(0)
        for place, (standing, client) in enumerate(zip(self._standings, self._clients, strict=True)):
            if place not in self._given_up_on and not standing.has_answered and standing.may_be_left(now=now):
                self._given_up_on.add(place)
                self._tell_given_up_on(client.teacher.name)
            if client.is_left != (left := down[place] and place != waits_at):
                client.leave(left=left)
            if down[place] and place not in self._down:
                self._down.add(place)
                standing.went_down(now=now)
                self._note_down(place)
            elif not down[place] and place in self._down:
                self._down.remove(place)
                self._note(place, "answers again; samples that no later teacher was asked go to it")

    def _waits_at(self, first: int) -> int | None:
        """Where a sample waits while all teachers from this position on are down: the last one that may be waited for.

        An unreachable teacher is tried at its circuit; one without money is only probed. It is the same teacher for all
        samples, and it is never left, even if another answers: a sample that returns to a teacher that is left finds no
        endpoint, and would return at once.
        """
        places = [place for place in range(first, len(self._standings)) if not self._standings[place].out_of_money]
        return places[-1] if places else None

    def _note_down(self, place: int) -> None:
        said = self._said[place] or "no reply"
        why = self._standings[place].out_of_money or f"has been out of reach for {DOWN_AFTER_S:.0f} s ({said})"
        if place + 1 < len(self._clients):
            then = f"all samples go to teacher {self._clients[place + 1].teacher.name}"
        else:
            then = "no other teacher replaces it"
        self._note(place, f"{why}; {then}, until it answers again (one is sent to it every {PROBE_EVERY_S:.0f} s)")

    def _note(self, place: int, words: str) -> None:
        """Report it with the time, because it may happen more than once."""
        at = datetime.fromtimestamp(self._clock.time(), UTC)
        self._counters.note(f"{at:%H:%M:%S} UTC: teacher {self._clients[place].teacher.name} {words}")

    def _is_over(self, *, now: float) -> bool:
        """True if no teacher can be expected to answer any more."""
        if all(standing.out_of_money and standing.is_down(now=now) for standing in self._standings):
            return True
        if all(standing.is_down(now=now) for standing in self._standings):
            return now - self._answered_at >= self._give_up_after_s
        # Everything left to ask waits for teachers without money.
        busy = self._counters.in_flight or any(lane.waiting for lane in self._lanes)
        return (
            not busy
            and now - self._ended_at >= PROBE_EVERY_S
            and any(self._waits_for_money(held, ordinal, now=now) for held, ordinal in self._waiting)
        )

    def _waits_for_money(self, held: LeasedChunk, ordinal: int, *, now: float) -> bool:
        state = held.open.state
        first = (state.place_of(ordinal) or 0) + (ordinal in state.spent)
        return all(each.out_of_money and each.is_down(now=now) for each in self._standings[first:])

    def _why_over(self) -> str:
        found = []
        for client, standing, said in zip(self._clients, self._standings, self._said, strict=True):
            found.append(f"{client.teacher.name} {standing.out_of_money or f'said last: {said}'}")
        return f"no teacher of the chain can be asked ({'; '.join(found)}); fix one, then run the same command again"
