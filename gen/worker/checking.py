"""The checker: has answers judged by the recipe's checks, without delaying requests.

An answer waits here only as a number; its text is read from the chunk when its turn comes. At most `_AT_ONCE` answers
are with the pool at a time, so memory is bounded, however slow a check is. No request's slot is held.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from stillhouse.gen.checks.base import Answer, CheckResult, Verdict
from stillhouse.gen.checks.link import Duty
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import StillhouseError, cause_of
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.worker.check_guard import CheckGuard
from stillhouse.gen.worker.judges import Judges
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.references import row_of
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.checks import AnyCheck, references_of

MOST_AT_ONCE = 256
"""Enough to keep the children of a large node busy: eight full batches."""


class Judging(Protocol):
    """Judges answers, like `gen.checks.pool.CheckPool`; an asynchronous context manager."""

    async def __aenter__(self) -> Self:
        """Get ready; raises UsageError if the checks can't run here."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what it started."""
        ...

    def judge(
        self, answer: Answer, row: Mapping[str, str | tuple[str, ...]], *, duty: Duty = "check"
    ) -> "asyncio.Future[tuple[Verdict, ...]]":
        """The verdicts of the checks that ran, in order; `duty`: what to do with the answer."""
        ...


async def large_answer(held: LeasedChunk, ordinal: int) -> Answer:
    """An answer to judge, read in a thread."""
    held.began()  # so that its journal stays open
    try:
        return await reply_threads.read(functools.partial(held.open.answer_to_judge, ordinal))
    finally:
        held.ended()


class Checker:
    """Passes answers to the pool, and verdicts to the intake."""

    def __init__(
        self,
        tasks: Tasks,
        judging: Judging,
        intake: "Intake",
        *,
        judges: Judges | None = None,
    ) -> None:
        """`judges`: asks the judges among the checks, which `judging` lets every answer pass."""
        self._tasks = tasks
        self._judging = judging
        self._judges = judges
        self._intake = intake
        self._references = references_of(intake.checks)
        self._waiting: deque[tuple[LeasedChunk, int]] = deque()
        self._running = 0
        self._closed = False

    def take(self, held: LeasedChunk) -> None:
        """Judge those of the chunk's answers that await it."""
        self._waiting.extend((held, ordinal) for ordinal in held.open.state.verdicts.take())
        self._start()

    def close(self) -> None:
        """Judge nothing more; verdicts that come later are dropped."""
        self._closed = True
        self._waiting.clear()

    def _start(self) -> None:
        while self._waiting and self._running < MOST_AT_ONCE and not self._closed:
            held, ordinal = self._waiting.popleft()
            if held.abandoned:
                continue
            if self._judges is not None and (known := held.open.state.verdicts.known(ordinal)):
                by_others = self._judges.by_others(known, checks=len(self._intake.checks))
                if by_others is not None:  # an earlier owner had them, and a judge's batch was awaited
                    self._ask_judges(held, ordinal, by_others)
                    continue
            self._running += 1
            if held.open.is_large(ordinal):
                self._tasks.spawn(self._judge_large, held, ordinal)
            else:
                self._judge(held, ordinal, held.open.answer_to_judge(ordinal))

    async def _judge_large(self, held: LeasedChunk, ordinal: int) -> None:
        if held.abandoned:  # meanwhile
            self._running -= 1
            self._start()
        else:
            self._judge(held, ordinal, await large_answer(held, ordinal))

    def _judge(self, held: LeasedChunk, ordinal: int, answer: Answer) -> None:
        verdicts = self._judging.judge(answer, row_of(self._references, held.open.samples.prompt(ordinal)))
        verdicts.add_done_callback(functools.partial(self._judged, held, ordinal))

    def _judged(self, held: LeasedChunk, ordinal: int, judged: "asyncio.Future[tuple[Verdict, ...]]") -> None:
        self._running -= 1
        if self._closed or judged.cancelled():
            return
        try:
            verdicts = judged.result()
            if self._judges is None:
                self._take_in(held, ordinal, verdicts)
            else:
                if not held.abandoned and (kept := self._judges.to_keep(verdicts)):
                    self._intake.keep(held, ordinal, kept)
                self._ask_judges(held, ordinal, verdicts)
            self._start()
        except StillhouseError as error:
            self._tasks.fail(error)
        except Exception as error:  # noqa: BLE001 - our bug: a callback's error would go unheard
            self._tasks.fail(StillhouseError(f"checks: a verdict can't be processed: {cause_of(error)}"))

    def _ask_judges(self, held: LeasedChunk, ordinal: int, verdicts: Sequence[Verdict]) -> None:
        assert self._judges is not None, "no check asks a judge"
        self._judges.judge(held, ordinal, verdicts, functools.partial(self._take_in, held, ordinal))

    def _take_in(self, held: LeasedChunk, ordinal: int, verdicts: tuple[Verdict, ...]) -> None:
        if self._closed or held.abandoned:
            return
        try:
            self._intake.take(held, ordinal, verdicts)
            if self._judges is not None:
                self._judges.gathered(held)
            held.advance()
        except StillhouseError as error:  # the answer still awaits them
            self._tasks.fail(error)


class Intake:
    """Adds verdicts to their chunk, counts them, and stops the run if they show that a check is useless."""

    def __init__(
        self, tasks: Tasks, checks: Sequence[AnyCheck], *, counters: Counters, clock: Clock, keep_going: bool
    ) -> None:
        self.checks = checks
        self._tasks = tasks
        self._counters = counters
        self._clock = clock
        self._names = [check.name for check in checks]
        self._guard = CheckGuard(self._names, keep_going=keep_going)

    def keep(self, held: LeasedChunk, ordinal: int, verdicts: Mapping[int, Verdict]) -> None:
        """Keep these verdicts on an answer, by stage, while it awaits the others.

        Raises:
            StoreAway: the journal can't be written.
        """
        held.open.judged_so_far(ordinal, verdicts, at=self._clock.time())

    def take(self, held: LeasedChunk, ordinal: int, verdicts: Sequence[Verdict]) -> None:
        """Add the verdicts on an answer.

        Raises:
            StoreAway: the journal can't be written.
        """
        held.open.judged(ordinal, verdicts, at=self._clock.time())
        tally = self._counters.of(held.open.answered_by(ordinal))
        for name, verdict in zip(self._names, verdicts, strict=False):
            if isinstance(verdict, CheckResult):
                tally.judged(name, accepted=verdict.accepted)
        if (why := self._guard.note(verdicts)) is not None:
            self._tasks.fail(why)
