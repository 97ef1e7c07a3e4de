"""Votes on the answers to each prompt of a chunk, held when all of its samples are settled and before it is sealed.

Nothing is written: a later owner of the chunk's journals holds the same votes on the same answers. Answers are read,
stated and compared in the children of the check pool, a few at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from stillhouse.gen.checks.base import Answer, CheckResult, Unchecked, Verdict, answer_of
from stillhouse.gen.checks.equality import OTHER, compares
from stillhouse.gen.checks.selection import Selected, by_vote, joining
from stillhouse.gen.worker.accepted_answers import accepted_answers
from stillhouse.gen.worker.checking import Judging
from stillhouse.gen.worker.earlier_answers import Kept
from stillhouse.gen.worker.leased_chunk import Hands, LeasedChunk
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.select import Equality

MOST_COMPARED = 32
"""Maximum number of statements that others are compared with: each comparison may take seconds, and a statement that so
few others equal wins no vote. Statements beyond this number equal only those with the same text."""
_PROBE = "0"
_AT_ONCE = 16
"""Series whose votes are held at the same time."""
_SLICE = 16
"""Answers of a series that are in memory at the same time."""

Votes: TypeAlias = Mapping[int, Selected]
"""Selected answers, by the number of the series in its chunk."""


class Voting:
    """Holds the votes of a chunk."""

    def __init__(self, tasks: Tasks, hands: Hands, judging: Judging, equality: Equality) -> None:
        self._tasks = tasks
        self._hands = hands
        self._judging = judging
        self._equality: Equality = equality

    async def hold(self, held: LeasedChunk) -> Votes | None:
        """The votes on all series of the chunk; None if the worker stops meanwhile.

        Raises:
            StoreAway: the journal or an earlier shard can't be read.
            DatasetError: an earlier shard is missing or damaged.
            ChecksBroken: the children can't be kept running.
        """
        opened = held.open
        kept = await asyncio.to_thread(self._hands.earlier, opened.chunk)
        votes: dict[int, Selected] = {}
        numbers = iter(opened.chunk.asked)

        async def hold_some() -> None:
            for number in numbers:
                if self._tasks.stopping:
                    return
                votes[number] = await self._vote(opened, number, kept.get(opened.chunk.key_of(number)))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(hold_some())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return None if self._tasks.stopping else votes

    async def _vote(self, opened: OpenChunk, number: int, earlier: Kept | None) -> Selected:
        samples = list(opened.chunk.samples_of(number))
        said: dict[int, str] = {}
        for start in range(0, len(samples), _SLICE):
            said |= await self._said(opened, number, samples[start : start + _SLICE])
        votes = Counter(said.values())
        statements = sorted(votes, key=lambda statement: -votes[statement])  # in the order of samples if equal
        if earlier is not None and earlier.count:
            (won,) = await self._stated([Answer(earlier.text)])
            if won is None:
                return Selected(frozenset())
            classes = await self._classes([won, *(each for each in statements if each != won)], most=1)
            return joining({ordinal: classes[each] for ordinal, each in said.items()}, won, share=earlier.vote_share)
        classes = await self._classes(statements, most=MOST_COMPARED)
        ordinals = [number * opened.samples.per_series + sample for sample in samples]
        answered = sum(ordinal not in opened.state.given_up for ordinal in ordinals)
        return by_vote({ordinal: classes[each] for ordinal, each in said.items()}, answered=answered)

    async def _said(self, opened: OpenChunk, number: int, samples: Sequence[int]) -> dict[int, str]:
        """What each accepted answer states, by ordinal; answers that state nothing are missing."""
        accepted = await asyncio.to_thread(
            lambda: [(frame.ordinal, answer_of(each)) for frame, each in accepted_answers(opened, number, samples)]
        )
        stated = await self._stated([answer for _, answer in accepted])
        return {ordinal: said for (ordinal, _), said in zip(accepted, stated, strict=True) if said is not None}

    async def _stated(self, answers: Sequence[Answer]) -> list[str | None]:
        found = await asyncio.gather(*(self._judging.judge(answer, {}, duty="state") for answer in answers))
        return [said.detail if isinstance(said, CheckResult) and said.accepted else None for (said,) in found]

    async def _classes(self, statements: Sequence[str], *, most: int) -> dict[str, str]:
        if not compares(self._equality):
            return {each: each for each in statements}
        return await classes_of(self._judging, statements, most=most)


async def classes_of(judging: Judging, statements: Sequence[str], *, most: int) -> dict[str, str]:
    """For each statement, the one that names its class: the first that it equals, of at most `most` candidates.

    A statement that can't be compared in time equals nothing. Each statement is first compared with a number: if even
    that takes too long, it would take too long with each of the others.
    """
    if len(statements) < 2:
        return {each: each for each in statements}
    tried = await _compared(judging, _PROBE, statements)
    left = [each for each in statements if not isinstance(tried[each], Unchecked)]
    classes: dict[str, str] = {}
    while left and most:
        name, *others = left
        classes[name] = name
        most -= 1
        found = await _compared(judging, name, others)
        classes |= {each: name for each in others if _accepts(found[each])}
        left = [each for each in others if each not in classes]
    return {each: each for each in statements} | classes


async def _compared(judging: Judging, name: str, others: Sequence[str]) -> dict[str, Verdict]:
    compared = (judging.judge(Answer(each), {OTHER: name}, duty="compare") for each in others)
    return {each: verdicts[0] for each, verdicts in zip(others, await asyncio.gather(*compared), strict=True)}


def _accepts(verdict: Verdict) -> bool:
    return isinstance(verdict, CheckResult) and verdict.accepted
