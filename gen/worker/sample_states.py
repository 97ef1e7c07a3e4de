"""Which of a chunk's samples may be asked now, and which it still needs. Pure: no clock, no frames, no teachers.

If K accepted answers to a prompt are wanted out of at most M, its samples are asked in order, and samples that are out
(handed out and not decided) and accepted ones together never exceed K. So the samples asked are always the first n,
where n is the smallest number with K accepted, or M. Whoever recovers a chunk from its journals decides the same
samples, in any order, and gets the same ones next. Under `route: each`, all of this applies to each prompt and teacher,
that is to each series; the names below call it a prompt.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

_WAITS, _OUT, _ANSWERED, _DECIDED = range(4)


class SampleStates(Protocol):
    """A chunk's samples, by ordinal."""

    left: int
    """Samples that are needed and not decided; when none is left, the chunk is sealed."""

    @property
    def is_ready(self) -> bool:
        """True if `take` may have samples to hand out."""
        ...

    @property
    def out(self) -> int:
        """Samples that were handed out, and are neither answered nor decided."""
        ...

    def take(self) -> Iterator[int]:
        """Hand out the samples that may be asked now: each once, in order."""
        ...

    def lacks(self, ordinal: int) -> bool:
        """True if the sample is not decided, and its prompt still needs more."""
        ...

    def is_first(self, ordinal: int) -> bool:
        """True if the sample is asked whatever becomes of others."""
        ...

    def answered(self, ordinal: int) -> None:
        """The sample has its answer, whose verdict is awaited."""
        ...

    def decide(self, ordinal: int, *, accepted: bool, answer: bytes | None = None) -> None:
        """The sample is accepted, or not; a rejection may become an acceptance later.

        `answer`: distinguishes accepted answers to the same prompt, because equal ones count once; None: it always
        counts.
        """
        ...

    def reopen(self, ordinal: int) -> None:
        """The sample, which was not accepted, must be asked after all."""
        ...


class AllSamples:
    """Every sample is wanted, and may be asked at once."""

    def __init__(self, count: int, *, asked: Collection[int] | None = None) -> None:
        """`asked`: the ordinals to ask; by default all below `count`."""
        self._states = bytearray([_WAITS]) * count if asked is None else bytearray([_DECIDED]) * count
        for ordinal in asked or ():
            self._states[ordinal] = _WAITS
        self.left = count if asked is None else len(asked)
        self.is_ready = True

    @property
    def out(self) -> int:
        """See `SampleStates`."""
        return 0 if self.is_ready else self._states.count(_WAITS)

    def take(self) -> Iterator[int]:
        """See `SampleStates`."""
        if self.is_ready:
            self.is_ready = False
            yield from [ordinal for ordinal, state in enumerate(self._states) if state == _WAITS]

    def lacks(self, ordinal: int) -> bool:
        """See `SampleStates`."""
        return self._states[ordinal] != _DECIDED

    def is_first(self, ordinal: int) -> bool:
        """See `SampleStates`."""
        return True

    def answered(self, ordinal: int) -> None:
        """See `SampleStates`."""
        if self._states[ordinal] != _DECIDED:
            self._states[ordinal] = _ANSWERED

    def decide(self, ordinal: int, *, accepted: bool, answer: bytes | None = None) -> None:
        """See `SampleStates`."""
        if self._states[ordinal] != _DECIDED:
            self._states[ordinal] = _DECIDED
            self.left -= 1

    def reopen(self, ordinal: int) -> None:
        """See `SampleStates`; only before `take`, or for the next owner."""
        self._states[ordinal] = _WAITS
        self.left += 1


class UntilAccepted:
    """Samples are wanted until this many of each prompt are accepted."""

    def __init__(
        self,
        candidates: Sequence[Sequence[int]],
        *,
        samples: int,
        needs: Sequence[int],
        kept: Sequence[Collection[bytes]] = (),
    ) -> None:
        """Everything by prompt.

        Args:
            candidates: the ordinals that may be asked, in order.
            samples: ordinals per prompt.
            needs: how many accepted answers are wanted beyond those that earlier chunks keep.
            kept: distinguishes those answers; equal new ones don't count again.
        """
        self._candidates = candidates
        self._samples = samples
        self._needs = needs
        self._missing = list(needs)
        """Accepted answers still wanted."""
        self._seen = [set(answers) for answers in kept] or [set() for _ in candidates]
        self._out = [0] * len(candidates)
        """Samples handed out, or answered, and not decided."""
        self._answered = [0] * len(candidates)
        """The answered samples among them."""
        self._undecided = [len(ordinals) for ordinals in candidates]
        self._next = [0] * len(candidates)
        """Index of the first candidate that may still wait."""
        self._states = bytearray(len(candidates) * samples)
        self._ready = dict.fromkeys(number for number, need in enumerate(needs) if need > 0)
        """Prompts that may have samples to hand out, in order."""
        self.left = sum(map(self._left_of, range(len(candidates))))

    @property
    def is_ready(self) -> bool:
        """See `SampleStates`."""
        return bool(self._ready)

    @property
    def out(self) -> int:
        """See `SampleStates`."""
        return self._states.count(_OUT)

    def take(self) -> Iterator[int]:
        """See `SampleStates`."""
        ready, self._ready = self._ready, {}
        for number in ready:
            candidates = self._candidates[number]
            while self._out[number] < self._missing[number] and self._next[number] < len(candidates):
                ordinal = candidates[self._next[number]]
                self._next[number] += 1
                if self._states[ordinal] == _WAITS:
                    self._states[ordinal] = _OUT
                    self._out[number] += 1
                    yield ordinal

    def lacks(self, ordinal: int) -> bool:
        """See `SampleStates`."""
        return self._states[ordinal] != _DECIDED and self._missing[ordinal // self._samples] > 0

    def is_first(self, ordinal: int) -> bool:
        """See `SampleStates`."""
        number = ordinal // self._samples
        return ordinal in self._candidates[number][: self._needs[number]]

    def answered(self, ordinal: int) -> None:
        """See `SampleStates`."""
        number, state = ordinal // self._samples, self._states[ordinal]
        if state in (_ANSWERED, _DECIDED):
            return
        before = self._left_of(number)
        self._states[ordinal] = _ANSWERED
        self._out[number] += state == _WAITS
        self._answered[number] += 1
        self.left += self._left_of(number) - before

    def decide(self, ordinal: int, *, accepted: bool, answer: bytes | None = None) -> None:
        """See `SampleStates`."""
        number, state = ordinal // self._samples, self._states[ordinal]
        before = self._left_of(number)
        if state != _DECIDED:
            self._states[ordinal] = _DECIDED
            self._undecided[number] -= 1
            self._out[number] -= state in (_OUT, _ANSWERED)
            self._answered[number] -= state == _ANSWERED
        if accepted and (answer is None or answer not in self._seen[number]):
            self._missing[number] = max(0, self._missing[number] - 1)
            if answer is not None:
                self._seen[number].add(answer)
        self._changed(number, before)

    def reopen(self, ordinal: int) -> None:
        """See `SampleStates`."""
        number = ordinal // self._samples
        before = self._left_of(number)
        self._states[ordinal] = _WAITS
        self._undecided[number] += 1
        self._next[number] = 0
        self._changed(number, before)

    def _changed(self, number: int, before: int) -> None:
        self.left += self._left_of(number) - before
        if self._out[number] < self._missing[number] and self._next[number] < len(self._candidates[number]):
            self._ready[number] = None

    def _left_of(self, number: int) -> int:
        """Awaited samples always count: an answer that is there gets its verdict, needed or not."""
        return self._undecided[number] if self._missing[number] > 0 else self._answered[number]
