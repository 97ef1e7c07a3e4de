"""What happened when, in a bounded number of time slots, which double in length when there are too many.

A run that was paused for a month is drawn as its stretches of work one after the other, with the pause marked between
them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

MOST_SLOTS = 20_000
PAUSE_S = 1800
"""A silence this long is a pause, and is left out."""
POINTS = 120
"""About this many points are drawn."""


@dataclass(slots=True)
class Slot:
    """What happened in one slot of time."""

    asked: int = 0
    """Answered requests that were sent in the slot."""
    answered: int = 0
    """Answers that ended in the slot; the following fields are their tokens."""
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "Slot") -> None:
        """Add another slot."""
        self.asked += other.asked
        self.answered += other.answered
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


@dataclass(frozen=True, slots=True)
class Point:
    """A point to draw: rates over a stretch of working time."""

    at_s: float
    """Seconds of work from the start to the beginning of the stretch."""
    length_s: float
    answers_per_minute: float
    input_tokens_per_minute: float
    output_tokens_per_minute: float
    in_flight: float
    """Seconds of work at its end."""

    @property
    def tokens_per_minute(self) -> float:
        """Input and output tokens together."""
        return self.input_tokens_per_minute + self.output_tokens_per_minute


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch of time that is left out."""

    at_s: float
    length_s: float


class Timeline:
    """Collects answers; `points` and `pauses` give the result."""

    def __init__(self) -> None:
        self._length_s = 1
        self._slots: dict[int, Slot] = {}

    def add(self, answers: pa.Table) -> None:
        """Add answers with asked_at, latency_s, input_tokens and output_tokens."""
        asked = pc.divide(pc.cast(pc.cast(answers["asked_at"], pa.int64()), pa.float64()), 1e6)
        ended = pc.add(asked, pc.cast(answers["latency_s"], pa.float64()))
        for slot, count in _grouped(self._slot_of(asked), {}):
            self._slots.setdefault(slot, Slot()).asked += count
        tokens = {name: answers[name] for name in ("input_tokens", "output_tokens")}
        for slot, count, *used in _grouped(self._slot_of(ended), tokens):
            self._slots.setdefault(slot, Slot()).add(Slot(0, count, *(number or 0 for number in used)))
        while len(self._slots) > MOST_SLOTS:
            self._double()

    def _slot_of(self, seconds: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.cast(pc.floor(pc.divide(seconds, self._length_s)), pa.int64())

    def _double(self) -> None:
        merged: dict[int, Slot] = {}
        for number, slot in self._slots.items():
            merged.setdefault(number // 2, Slot()).add(slot)
        self._slots, self._length_s = merged, self._length_s * 2

    @property
    def span(self) -> tuple[float, float] | None:
        """Unix time of the first request and the last answer, to the nearest slot; None if there are none."""
        if not self._slots:
            return None
        return min(self._slots) * self._length_s, (max(self._slots) + 1) * self._length_s

    @property
    def working_s(self) -> float:
        """The time without the pauses."""
        return sum(last - first + 1 for first, last in self._stretches()) * self._length_s

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """(first, last) slot of each stretch of work between pauses."""
        first = last = None
        in_flight = 0
        for number in sorted(self._slots):
            silent_s = (number - last - 1) * self._length_s if last is not None else 0
            if first is not None and last is not None and silent_s >= PAUSE_S and in_flight <= 0:
                yield first, last
                first = None
            first, last = number if first is None else first, number
            in_flight += self._slots[number].asked - self._slots[number].answered
        if first is not None and last is not None:
            yield first, last

    def pauses(self) -> Iterator[Pause]:
        """The stretches of time without any request."""
        at, before = 0, None
        for first, last in self._stretches():
            if before is not None:
                yield Pause(at_s=at * self._length_s, length_s=(first - before - 1) * self._length_s)
            at, before = at + last - first + 1, last

    def points(self) -> Iterator[Point]:
        """The points to draw, in order."""
        each = max(1, round(self.working_s / self._length_s / POINTS))
        """Slots a point."""
        at = in_flight = 0
        for first, last in self._stretches():
            for start in range(first, last + 1, each):
                stop = min(start + each, last + 1)
                total = Slot()
                for number in range(start, stop):
                    total.add(self._slots.get(number, Slot()))
                in_flight += total.asked - total.answered
                yield self._point(at, stop - start, total, in_flight)
                at += stop - start

    def _point(self, at: int, slots: int, total: Slot, in_flight: int) -> Point:
        minutes = slots * self._length_s / 60
        return Point(
            at_s=at * self._length_s,
            length_s=slots * self._length_s,
            answers_per_minute=total.answered / minutes,
            input_tokens_per_minute=total.input_tokens / minutes,
            output_tokens_per_minute=total.output_tokens / minutes,
            in_flight=in_flight,
        )


def _grouped(slots: pa.ChunkedArray, values: dict[str, pa.ChunkedArray]) -> Iterator[tuple[int, ...]]:
    """(slot, rows, sum of each of the values) for each slot."""
    table = pa.table({"slot": slots} | values)
    found = table.group_by("slot").aggregate([([], "count_all"), *((name, "sum") for name in values)])
    columns = ("slot", "count_all", *(f"{name}_sum" for name in values))
    yield from zip(*(found[name].to_pylist() for name in columns), strict=True)
