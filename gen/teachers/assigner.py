"""Assigns samples to teachers by the recipe's route."""

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from stillhouse.gen.teachers.interpreter import Interpreter

ONLINE = 2**15
"""Added to a teacher's position for a sample that it was asked online because no batch had answered it: only the price
differs (`mode: batch-then-online`)."""


class Assigner:
    """Assigns each sample to a teacher: by weight, always the same one, or the first one of a chain."""

    def __init__(
        self,
        teachers: Sequence[Interpreter],
        *,
        is_chain: bool = False,
        online: Mapping[int, Interpreter] = MappingProxyType({}),
    ) -> None:
        """`online`: by position, teachers as they are asked online after a batch."""
        self.teachers = tuple(teachers)
        """The teachers in the recipe's order."""
        self.is_chain = is_chain
        """True if each teacher replaces the one before it (`route: fallback`)."""
        self._online = online
        self._total = sum(each.teacher.weight for each in teachers)

    def at(self, place: int) -> Interpreter:
        """The teacher at this position, which may include `ONLINE`."""
        if place >= ONLINE and (found := self._online.get(place - ONLINE)) is not None:
            return found
        return self.teachers[place % ONLINE]

    def __call__(self, key: bytes, sample: int) -> Interpreter:
        """The teacher for the sample of the prompt with this key."""
        if len(self.teachers) == 1 or self.is_chain:
            return self.teachers[0]
        drawn = hashlib.blake2b(key + sample.to_bytes(4, "big"), digest_size=8, person=b"stillhouse-who").digest()
        point = int.from_bytes(drawn, "big") / 2**64 * self._total
        for each in self.teachers:
            point -= each.teacher.weight
            if point < 0:
                return each
        return self.teachers[-1]
