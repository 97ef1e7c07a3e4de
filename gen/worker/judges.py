"""The judges of a worker's checks: each is asked over its own lane, within its own account's limits.

The verdicts of the other checks are known before a judge is asked. The judges are then asked one after another, until a
check rejects the answer. An answer that waits here is only a number.
"""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.link import Duty
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.hearing import Hearing, JudgeOf
from stillhouse.gen.worker.lanes import LANES
from stillhouse.gen.worker.lanes.base import Gate, Lane
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt


class LetPass:
    """A `Judging` without processes, for recipes whose checks all ask judges: it accepts every answer."""

    def __init__(self, checks: int) -> None:
        self._verdicts = (CheckResult(True, None, ""),) * checks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def judge(self, answer: Answer, row: Row, *, duty: Duty = "check") -> "asyncio.Future[tuple[Verdict, ...]]":
        """See `Judging`."""
        judged: asyncio.Future[tuple[Verdict, ...]] = asyncio.get_running_loop().create_future()
        judged.set_result(self._verdicts)
        return judged


@dataclass(frozen=True, slots=True)
class HeldHearing:
    """A chunk as a judge's lane sees it; a `Docket`."""

    held: LeasedChunk
    attempts: Hearing

    @property
    def abandoned(self) -> bool:
        """See `Docket`."""
        return self.held.abandoned

    def prompt_key(self, ordinal: int) -> tuple[Any, ...]:
        """See `Docket`."""
        return (*self.held.prompt_key(ordinal), ordinal)

    def number(self, ordinal: int) -> int:
        """Every verdict is requested with the judge's own seed."""
        return 0

    async def images(self, prompt: Prompt) -> tuple[SentImage, ...]:
        """A judge reads only text."""
        return ()

    def began(self) -> None:
        """See `Docket`."""
        self.held.began()

    def ended(self) -> None:
        """See `Docket`."""
        self.held.ended()

    def advance(self) -> None:
        """Whoever waits for a verdict acts on it."""


@dataclass(slots=True)
class _Case:
    """An answer on its way through the checks that ask judges."""

    held: LeasedChunk
    ordinal: int
    verdicts: list[Verdict]
    done: Callable[[tuple[Verdict, ...]], None]
    stages: list[int] = field(default_factory=list)
    """The judges still to ask."""


class Judges:
    """Asks the judges of a worker's checks."""

    def __init__(
        self,
        tasks: Tasks,
        judges: Sequence[JudgeOf],
        *,
        accounts: Mapping[str, Account],
        transport: Transport,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._judges = judges
        self.clients = [
            TeacherClient(
                judge.interpreter,
                transport=transport,
                account=accounts[judge.interpreter.teacher.limits_key],
                clock=clock,
            )
            for judge in judges
        ]
        """One lane for each check that asks a judge."""
        self._lanes: dict[int, Lane[HeldHearing]] = {}
        self._waiting: defaultdict[ChunkId, defaultdict[int, list[_Case]]] = defaultdict(lambda: defaultdict(list))
        """By chunk and sample: cases whose answer is compared with that sample's answer, which has not come yet."""

    def begin(self, gate: Gate, *, counters: Counters, clock: Clock) -> tuple[Lane[HeldHearing], ...]:
        """Create the judges' lanes."""
        for judge, client in zip(self._judges, self.clients, strict=True):
            self._lanes[judge.stage] = LANES["online"](
                client,
                tasks=self._tasks,
                listener=_Unheard(),
                gate=gate,
                counters=counters,
                clock=clock,
                goes_first=True,
            )
        return tuple(self._lanes.values())

    def judge(
        self, held: LeasedChunk, ordinal: int, verdicts: Sequence[Verdict], done: Callable[[tuple[Verdict, ...]], None]
    ) -> None:
        """Insert the judges' verdicts on the answer among those of the other checks, then call `done`.

        `verdicts`: those of the checks up to the first that does not accept; a judge's place holds a placeholder.
        """
        stages = [stage for stage in sorted(self._lanes) if stage <= len(verdicts)]
        self._next(_Case(held, ordinal, list(verdicts), done, stages))

    def look(self, held: LeasedChunk, ordinals: Iterable[int] | None = None) -> None:
        """Continue the cases that waited for the answers to these samples of the chunk; None: for any answer."""
        if (waiting := self._waiting.get(held.open.chunk.id)) is None:
            return
        for ordinal in list(waiting) if ordinals is None else ordinals:
            for case in waiting.pop(ordinal, ()):
                if not case.held.abandoned:
                    self._next(case)
        if not waiting:
            self._waiting.pop(held.open.chunk.id, None)

    def _next(self, case: _Case) -> None:
        if not case.stages:
            case.done(tuple(case.verdicts))
            return
        hearing = case.held.open.hearings[case.stages[0]]
        if (other := hearing.awaited_by(case.ordinal)) is not None:
            self._waiting[case.held.open.chunk.id][other].append(case)
        elif hearing.ask(case.ordinal, functools.partial(self._said, case)):
            self._lanes[case.stages[0]].take(HeldHearing(case.held, hearing), (case.ordinal,))

    def _said(self, case: _Case, verdict: Verdict) -> None:
        stage = case.stages.pop(0)
        case.verdicts[stage - 1] = verdict
        if isinstance(verdict, Unchecked) or (isinstance(verdict, CheckResult) and not verdict.accepted):
            del case.verdicts[stage:]
            case.stages.clear()
        self._next(case)


class _Unheard:
    """The `Listener` of the judges' lanes: what waits for a verdict learns of it from its hearing."""

    def heard(self, held: HeldHearing, ordinal: int) -> None:
        """See `Listener`."""

    def wants_more(self) -> None:
        """See `Listener`."""
