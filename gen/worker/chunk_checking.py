"""The checker of a recipe whose last check judges whole chunks: it waits until all samples of a chunk are answered.

The function sees every answer that the other checks accept, including those judged before a crash. So it sees the same
table whichever worker recovers the chunk, and a verdict in a journal stays valid.
"""

import asyncio
from collections.abc import Mapping, Sequence

from stillhouse.gen.checks.base import Answer, Row, Verdict
from stillhouse.gen.checks.chunk_function import ChunkFunction, is_reached
from stillhouse.gen.worker.checking import Intake, Judging, large_answer
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.references import row_of
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.checks import references_of


class ChunkChecker:
    """Replaces `gen.worker.checking.Checker`."""

    def __init__(
        self,
        tasks: Tasks,
        judging: Judging,
        intake: Intake,
        *,
        function: ChunkFunction,
    ) -> None:
        """`judging` passes on what the other checks accept; `function` is the last of the intake's checks."""
        self._tasks = tasks
        self._judging = judging
        self._function = function
        self._intake = intake
        self._references = references_of(intake.checks)
        self._count = len(intake.checks)
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    def take(self, held: LeasedChunk) -> None:
        """Have the chunk judged, if it only awaits verdicts."""
        verdicts = held.open.state.verdicts
        if verdicts.has_fresh and held.open.left == verdicts.awaited and not self._closed:
            self._tasks.spawn(self._judge, held, verdicts.take())

    def close(self) -> None:
        """Judge nothing more; verdicts that come later are dropped."""
        self._closed = True

    async def _judge(self, held: LeasedChunk, ordinals: Sequence[int]) -> None:
        verdicts = await asyncio.gather(*(self._by_others(held, ordinal) for ordinal in ordinals))
        fresh = dict(zip(ordinals, verdicts, strict=True))
        all_said = held.open.state.verdicts.said | fresh
        reached = sorted(ordinal for ordinal, said in all_said.items() if is_reached(said, checks=self._count))
        async with self._one_at_a_time:  # each holds a chunk in memory
            answers = await asyncio.to_thread(lambda: [self._answer(held, ordinal) for ordinal in reached])
            together = await self._function.judge(answers)
        for ordinal, verdict in zip(reached, together, strict=True):
            if ordinal in fresh:
                fresh[ordinal] = (*fresh[ordinal][:-1], verdict)
        self._take_in(held, fresh)

    def _take_in(self, held: LeasedChunk, fresh: Mapping[int, tuple[Verdict, ...]]) -> None:
        if self._closed or held.abandoned:
            return
        for ordinal, said in fresh.items():
            self._intake.take(held, ordinal, said)
        held.advance()

    async def _by_others(self, held: LeasedChunk, ordinal: int) -> tuple[Verdict, ...]:
        if not held.open.is_large(ordinal):
            return await self._judging.judge(*self._answer(held, ordinal))
        return await self._judging.judge(await large_answer(held, ordinal), self._row(held, ordinal))

    def _answer(self, held: LeasedChunk, ordinal: int) -> tuple[Answer, Row]:
        return held.open.answer_to_judge(ordinal), self._row(held, ordinal)

    def _row(self, held: LeasedChunk, ordinal: int) -> Row:
        return row_of(self._references, held.open.samples.prompt(ordinal))
