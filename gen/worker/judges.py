"""The judges of a worker's checks: each is asked over its own lane, within its own account's limits or in batches.

The verdicts of the other checks are known before a judge is asked. The judges are then asked one after another, until a
check rejects the answer. An answer that waits here is only a number.
"""

import asyncio
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.link import Duty
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.batch_intents import who_of
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.transport import Transport
from stillhouse.gen.worker.gathering import Case, Gathering
from stillhouse.gen.worker.hearing import Hearing
from stillhouse.gen.worker.judge_of import JudgeOf
from stillhouse.gen.worker.lanes import LANES
from stillhouse.gen.worker.lanes.base import Gate, Lane, prepared
from stillhouse.gen.worker.lanes.batch import BatchLane
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt


class LetPass:
    """A `Judging` without processes, for recipes whose checks all ask judges: it accepts every answer."""

    def __init__(self, checks: int) -> None:
        self._verdicts = (_PLACEHOLDER,) * checks

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


_PLACEHOLDER = CheckResult(True, None, "")
_AT_ONCE = 32
"""Questions written before other tasks get their turn."""


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
        self.batch_lanes: dict[int, BatchLane] = {}
        """Lanes of judges in batch mode, by stage."""
        self._gatherings: dict[int, Gathering] = {}
        """Cases gathered for batches, by `id` of the chunk."""
        self._waiting: defaultdict[ChunkId, defaultdict[int, list[Case]]] = defaultdict(lambda: defaultdict(list))
        """Cases whose answer is compared with one that has not come yet, by chunk and sample of that one."""

    def begin(
        self, gate: Gate, *, counters: Counters, clock: Clock, store: Store, keep_going: bool
    ) -> tuple[Lane[HeldHearing], ...]:
        """Create the judges' lanes. For `store` and `keep_going` see `Asker`."""
        for judge, client in zip(self._judges, self.clients, strict=True):
            stage = judge.stage
            if judge.interpreter.teacher.mode == "online":
                self._lanes[stage] = LANES["online"](
                    client,
                    tasks=self._tasks,
                    listener=_Unheard(),
                    gate=gate,
                    counters=counters,
                    clock=clock,
                    goes_first=True,
                )
                continue
            name = judge.interpreter.teacher.name
            stages = [each.stage for each in self._judges if each.interpreter.teacher.name == name]
            self._lanes[stage] = self.batch_lanes[stage] = BatchLane(
                client,
                tasks=self._tasks,
                listener=_Heard(self, self._tasks),
                gate=gate,
                counters=counters,
                clock=clock,
                store=store,
                keep_going=keep_going,
                stage=stage,
                beside=[who_of(0, stage=each) for each in stages],
            )
        return tuple(self._lanes.values())

    def open(self, held: LeasedChunk) -> None:
        """The worker begins with the chunk: batches of its earlier owners are collected."""
        for stage, lane in self.batch_lanes.items():
            self._gatherings.setdefault(id(held), Gathering(held))
            lane.take(HeldHearing(held, held.open.hearings[stage]), ())

    def drop(self, held: LeasedChunk) -> None:
        """The chunk is no longer this worker's."""
        self._gatherings.pop(id(held), None)
        for lane in self.batch_lanes.values():
            lane.drop(held)

    def by_others(self, known: Mapping[int, Verdict], *, checks: int) -> list[Verdict] | None:
        """What `judge` takes, from verdicts of the other of so many checks, by stage; None if some are missing."""
        found: list[Verdict] = []
        for stage in range(1, checks + 1):
            if (verdict := _PLACEHOLDER if stage in self._lanes else known.get(stage)) is None:
                return None
            found.append(verdict)
            if isinstance(verdict, Unchecked) or not verdict.accepted:
                break
        return found

    def to_keep(self, verdicts: Sequence[Verdict]) -> dict[int, Verdict]:
        """Of these verdicts, by stage, those that are worth keeping while the judges' batches run, maybe for a day."""
        if not any(stage <= len(verdicts) for stage in self.batch_lanes):
            return {}
        said = enumerate(verdicts, 1)
        return {stage: each for stage, each in said if stage not in self._lanes and isinstance(each, CheckResult)}

    def judge(
        self, held: LeasedChunk, ordinal: int, verdicts: Sequence[Verdict], done: Callable[[tuple[Verdict, ...]], None]
    ) -> None:
        """Insert the judges' verdicts on the answer among those of the other checks, then call `done`.

        `verdicts`: those of the checks up to the first that does not accept; a judge's place holds a placeholder.
        """
        stages = [stage for stage in sorted(self._lanes) if stage <= len(verdicts)]
        self._next(Case(held, ordinal, list(verdicts), done, stages))

    def look(self, held: LeasedChunk, ordinals: Iterable[int] | None = None) -> None:
        """Continue the cases that waited for the answers to these samples of the chunk; None: all, as nothing more is
        asked."""
        waiting: dict[int, list[Case]] = self._waiting.get(held.open.chunk.id, {})
        for ordinal in list(waiting) if ordinals is None else ordinals:
            for case in waiting.pop(ordinal, ()):
                if not case.held.abandoned:
                    self._next(case)
        if not waiting:
            self._waiting.pop(held.open.chunk.id, None)
        if (gathering := self._gatherings.get(id(held))) is not None:
            for case in gathering.taken() if ordinals is None else ():
                self._next(case)
            self.gathered(held)

    def gathered(self, held: LeasedChunk) -> None:
        """Ask the judges in batch mode about the chunk's answers, if no more are to come for now."""
        gathering = self._gatherings.get(id(held))
        if gathering is not None and gathering.is_complete:
            gathering.is_asking = True
            self._tasks.spawn(self._ask_together, gathering)

    def heard(self, held: LeasedChunk, ordinal: int) -> None:
        """A batch of a judge settled this: the case continues if it is still to be asked about."""
        gathering = self._gatherings.get(id(held))
        if gathering is None or (case := gathering.waiting.get(ordinal)) is None:
            return
        if not held.open.hearings[case.stage].is_new(ordinal):
            del gathering.waiting[ordinal]
            self._next(case)

    def at_provider(self, held: LeasedChunk) -> list[OpenBatch] | None:
        """The batches that contain the questions about all answers of the chunk that await their verdicts; None if some
        are not in one, and may be asked about now."""
        if not self._covers_all(held):
            return None
        batches = list[OpenBatch]()
        for lane in self.batch_lanes.values():
            if lane.fresh(held) or (found := lane.open_batches(held)) is None:
                return None
            batches += found.batches
        return batches

    def waits_for_room(self, held: LeasedChunk) -> bool:
        """True if the chunk's answers only wait for batches, some of which may not be opened yet."""
        lanes = self.batch_lanes.values()
        return self._covers_all(held) and all(
            (lane.is_full or not lane.fresh(held)) and lane.open_batches(held) is not None for lane in lanes
        )

    def _covers_all(self, held: LeasedChunk) -> bool:
        if (gathering := self._gatherings.get(id(held))) is None:
            return not held.open.state.verdicts.awaited
        return gathering.covers_all

    def _next(self, case: Case) -> None:
        if not case.stages:
            case.done(tuple(case.verdicts))
            return
        hearing = case.held.open.hearings[case.stage]
        if (gathering := self._gathering_of(case)) is not None and hearing.is_new(case.ordinal):
            gathering.waiting[case.ordinal] = case
            if gathering.covers_all:
                case.held.due.set()  # it may be parked now
            self.gathered(case.held)
        elif (other := hearing.awaited_by(case.ordinal)) is not None:
            self._waiting[case.held.open.chunk.id][other].append(case)
        elif hearing.is_slow(case.ordinal):
            self._tasks.spawn(self._ask_slowly, case)
        else:
            self._ask(case)

    async def _ask_slowly(self, case: Case) -> None:
        await prepared(_docket(case), case.ordinal)
        if not case.held.abandoned:
            self._ask(case)

    def _ask(self, case: Case) -> None:
        if self._must_ask(case):
            self._lanes[case.stage].take(_docket(case), (case.ordinal,))

    def _gathering_of(self, case: Case) -> Gathering | None:
        """Where the case waits for its next judge; None if that is asked online."""
        return self._gatherings.get(id(case.held)) if case.stage in self.batch_lanes else None

    def _must_ask(self, case: Case) -> bool:
        """True if the case's next judge must be asked now; otherwise the case has its verdict, or will have it."""
        if (gathering := self._gathering_of(case)) is not None:
            gathering.asked += 1
        return case.held.open.hearings[case.stage].ask(case.ordinal, functools.partial(self._said, case))

    async def _ask_together(self, gathering: Gathering) -> None:
        held = gathering.held
        for stage, cases in itertools.groupby(gathering.taken(), key=lambda case: case.stage):
            docket, ordinals = HeldHearing(held, held.open.hearings[stage]), []
            for number, case in enumerate(cases, 1):
                if docket.attempts.is_slow(case.ordinal):
                    await prepared(docket, case.ordinal)
                if held.abandoned:
                    return
                if self._must_ask(case):
                    ordinals.append(case.ordinal)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            self.batch_lanes[stage].take(docket, ordinals)
        gathering.is_asking = False
        self.gathered(held)
        held.due.set()

    def _said(self, case: Case, verdict: Verdict) -> None:
        if (gathering := self._gathering_of(case)) is not None:
            gathering.asked -= 1
        stage = case.stages.pop(0)
        case.verdicts[stage - 1] = verdict
        if isinstance(verdict, Unchecked) or (isinstance(verdict, CheckResult) and not verdict.accepted):
            del case.verdicts[stage:]
            case.stages.clear()
        self._next(case)


def _docket(case: Case) -> HeldHearing:
    """The case's chunk, as the lane of its next judge sees it."""
    return HeldHearing(case.held, case.held.open.hearings[case.stage])


class _Heard:
    """The `Listener` of the lane of a judge in batch mode."""

    def __init__(self, judges: Judges, tasks: Tasks) -> None:
        self._judges = judges
        self._tasks = tasks

    def heard(self, held: LeasedChunk, ordinal: int) -> None:
        """See `Listener`."""
        self._judges.heard(held, ordinal)

    def wants_more(self) -> None:
        """See `Listener`."""
        self._tasks.changed.set()


class _Unheard:
    """The `Listener` of the judges' lanes: what waits for a verdict learns of it from its hearing."""

    def heard(self, held: HeldHearing, ordinal: int) -> None:
        """See `Listener`."""

    def wants_more(self) -> None:
        """See `Listener`."""
