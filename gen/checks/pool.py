"""Runs checks in child processes, so that no answer can stop, slow or crash the calling process.

A child that takes too long or dies is killed and replaced. Each answer that it had is then judged again on its own, so
that only the one at fault is left unchecked.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from stillhouse.gen.checks.base import Answer, Row, Unchecked, Verdict
from stillhouse.gen.checks.child_process import ChecksBroken, ChildProcess, Died, TookTooLong, start_child, verdict_of
from stillhouse.gen.checks.link import REPLACE_ME, Duty
from stillhouse.gen.checks.registry import require_kinds
from stillhouse.gen.checks.slots import Slot, Slots
from stillhouse.gen.errors import UsageError
from stillhouse.gen.process.cpus import usable_cpus
from stillhouse.schemas.checks import AnyCheck, Check
from stillhouse.schemas.select import Equality

TIMEOUT_S = 5.0
"""CPU time for all checks of one answer: math-verify needs milliseconds, and no final answer needs seconds."""
MEMORY_BYTES = 2**30
"""Address space of a child: sympy and numpy take a third of it."""
MAX_BATCH = 32
"""Answers sent to a child at once: enough that a message costs less than the judging."""
MAX_BATCH_CHARS = 200_000
"""Characters sent to a child at once: few enough that the event loop packs them in a millisecond."""
_HANGS_AFTER, _GRACE_S = 4.0, 2.0
"""A child that is silent for this many times the timeout, plus a little, is killed: it hangs, or the machine is far too
busy."""
_MAX_STARTS = 3
"""Consecutive failed starts that break a pool."""
_MAX_DEATHS = 2
"""An answer that was alone in a child when it died is judged once more: the child may have been killed from outside."""
_LOOK_S = 0.2
"""How often a pool that waits for a slot looks for one."""
_IDLE_S = 1.0
"""How often an idle pool checks whether another pool has no slot at all."""
_TURN_S = 10.0
"""If there are more pools than slots, they take turns of this length: a child takes a second or two to start."""


@dataclass(slots=True, eq=False)
class _Job:
    """An answer to judge."""

    answer: Answer
    row: Row
    duty: Duty
    verdicts: asyncio.Future[tuple[Verdict, ...]]
    is_alone: bool = False
    """True if it was in a batch that failed."""
    deaths: int = 0

    @property
    def chars(self) -> int:
        return len(self.answer.text) + len(self.answer.reasoning or "")

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        if not self.verdicts.done():
            self.verdicts.set_result(tuple(verdicts))


class CheckPool:
    """Children that judge answers by a recipe's checks; an asynchronous context manager."""

    def __init__(
        self,
        checks: Sequence[AnyCheck],
        *,
        equality: Equality | None = None,
        size: int | None = None,
        slots: Slots | None = None,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Args: checks: in the recipe's order; an answer is judged up to the first check that does not accept it.
        equality: how answers are compared with each other; None if they are not. size: the maximum number of children;
        by default the CPUs that this process may use. slots: what all pools of the node share; by default this pool
        shares nothing. timeout_s: CPU time for all checks of one answer. memory_bytes: address space of each child.
        """
        self._checks = tuple(checks)
        self._equality = equality
        self._size = size or usable_cpus()
        self._timeout_s = timeout_s
        waits_s = [check.python.wall_s for check in checks if isinstance(check, Check) and check.python]
        self._hangs_after_s = _HANGS_AFTER * timeout_s + _GRACE_S + sum(waits_s)
        self._max_batch = 1 if waits_s else MAX_BATCH
        """A program may take seconds: no answer should wait behind it while another child is free."""
        self._memory_bytes = memory_bytes
        self._slots = slots or Slots(None, count=self._size)
        self._held = 0
        """Number of slots that it has."""
        self._jobs: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._serving: list[asyncio.Task[None]] = []
        self._children: set[ChildProcess] = set()
        self._failed_starts = 0
        self._broken: ChecksBroken | None = None

    async def __aenter__(self) -> Self:
        """Start the first child; the others are started when they are needed.

        Raises:
            UsageError: the checks can't run here; says why.
        """
        require_kinds([*(check.kind for check in self._checks), *filter(None, [self._equality])])
        slot = await self._slot()
        try:
            first = await self._start()
        except BaseException as error:
            slot.release()
            if isinstance(error, ChecksBroken):
                raise UsageError(str(error)) from None
            raise
        self._held = 1
        for number in range(self._size):
            is_first = number == 0
            serving = self._serve(first if is_first else None, slot if is_first else None)
            self._serving.append(asyncio.create_task(serving))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for child in list(self._children):  # its task was cancelled before its first step, so it ends nothing itself
            await self._end(child)
        for job in self._jobs:
            job.verdicts.cancel()
        self._jobs.clear()

    def judge(self, answer: Answer, row: Row, *, duty: Duty = "check") -> "asyncio.Future[tuple[Verdict, ...]]":
        """The verdicts of the checks that ran, in order: all but the last accept, and checks after it have none.

        A future, so that many answers can be awaited without a task for each. Awaiting it raises ChecksBroken if
        children can no longer be started.

        Args:
            answer: the answer.
            row: the reference values of its source row, by column (`schemas.checks.references_of`).
            duty: what to do with it.
        """
        job = _Job(answer, row, duty, asyncio.get_running_loop().create_future())
        if self._broken is not None:
            job.verdicts.set_exception(self._broken)
            return job.verdicts
        self._jobs.append(job)
        self._wake.set()
        return job.verdicts

    async def _serve(self, child: ChildProcess | None, slot: Slot | None) -> None:
        """Keep one child busy, and replace it if it fails; only while there is a slot."""
        since_s = self._now_s
        try:
            while True:
                if slot is not None and self._can_spare(since_s):
                    if child is not None:
                        await self._end(child)
                    self._released(slot)
                    child = slot = None
                if not await self._has_work():
                    continue
                if slot is None:
                    slot, since_s = await self._slot(), self._now_s
                    self._held += 1
                    continue  # others may have done the work
                batch = self._take()
                try:
                    if child is None or child.process.poll() is not None:
                        child = await self._replaced(child)
                    if await self._judge(child, batch):
                        await self._end(child)
                        child = None
                except ChecksBroken as error:
                    self._break(error, batch)
                    return
                except TookTooLong:
                    await self._give_up(child, batch, f"took more than {self._hangs_after_s:g} s", is_final=True)
                    child = None
                except Died as error:
                    await self._give_up(child, batch, f"the check's process {error}", is_final=False)
                    child = None
        finally:
            if child is not None:
                await asyncio.shield(self._end(child))
            if slot is not None:
                self._released(slot)

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _slot(self) -> Slot:
        """One of the node's slots, as soon as one is free."""
        while (slot := self._slots.take()) is None:
            # Only a pool without any slot asks others to give theirs up.
            with self._slots.waiting() if not self._held else contextlib.nullcontext():
                await asyncio.sleep(_LOOK_S)
        return slot

    def _can_spare(self, since_s: float) -> bool:
        """True if a slot held since then must be given to others now."""
        is_spare = not self._jobs or self._held > 1 or self._now_s - since_s > _TURN_S
        return is_spare and self._slots.are_wanted()

    def _released(self, slot: Slot) -> None:
        slot.release()
        self._held -= 1

    async def _has_work(self) -> bool:
        """True if answers wait for a child; otherwise False, after a while."""
        while self._jobs and self._jobs[0].verdicts.done():  # nobody waits any more
            self._jobs.popleft()
        if not self._jobs:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._wake.wait()
        return bool(self._jobs)

    def _take(self) -> list[_Job]:
        """The next answers for one child: a share of those that wait; an answer to be judged on its own comes alone."""
        batch = [self._jobs.popleft()]
        chars, share = batch[0].chars, -(-len(self._jobs) // self._size)
        while not batch[0].is_alone and self._jobs and len(batch) < min(self._max_batch, share + 1):
            if self._jobs[0].is_alone or (chars := chars + self._jobs[0].chars) > MAX_BATCH_CHARS:
                break
            batch.append(self._jobs.popleft())
        return batch

    async def _judge(self, child: ChildProcess, batch: Sequence[_Job]) -> bool:
        """Have a batch judged, and settle each answer as its verdict comes; True if the child must be replaced."""
        child.partial = []
        jobs = [(job.answer, job.row, job.duty) for job in batch]
        await child.send(jobs, timeout_s=self._hangs_after_s)
        left = deque(batch)
        while not isinstance(frame := await child.next(self._hangs_after_s), str):
            if isinstance(frame, tuple):
                child.partial.append(verdict_of(frame))
                continue
            for verdicts in frame:
                left.popleft().settle([verdict_of(plain) for plain in verdicts])
        if left:
            self._jobs.extendleft(reversed(left))
            self._wake.set()
        return frame == REPLACE_ME

    async def _give_up(self, child: ChildProcess | None, batch: Sequence[_Job], reason: str, *, is_final: bool) -> None:
        """Settle a single answer at fault as unchecked; otherwise have each answer judged again on its own."""
        partial: list[Verdict] = []
        if child is not None:
            partial = child.partial
            await self._end(child)
        left = [job for job in batch if not job.verdicts.done()]
        for job in reversed(left):
            job.deaths += len(left) == 1
            if len(left) == 1 and (is_final or job.deaths >= _MAX_DEATHS):
                job.settle([*partial, Unchecked(reason)])
            else:
                job.is_alone = True
                self._jobs.appendleft(job)
        self._wake.set()

    def _break(self, error: ChecksBroken, batch: Sequence[_Job]) -> None:
        self._broken = error
        for job in (*batch, *self._jobs):
            if not job.verdicts.done():
                job.verdicts.set_exception(error)
        self._jobs.clear()

    async def _replaced(self, child: ChildProcess | None) -> ChildProcess:
        if child is not None:
            await self._end(child)
        while True:
            try:
                started = await self._start()
            except ChecksBroken:
                self._failed_starts += 1
                if self._failed_starts >= _MAX_STARTS:
                    raise
            else:
                self._failed_starts = 0
                return started

    async def _start(self) -> ChildProcess:
        child = await start_child(
            {
                "checks": [check.model_dump_json() for check in self._checks],
                "equality": self._equality,
                "timeout_s": self._timeout_s,
                "memory_bytes": self._memory_bytes,
            }
        )
        self._children.add(child)
        return child

    async def _end(self, child: ChildProcess) -> None:
        if child in self._children:
            self._children.remove(child)
            await child.end()
