"""Judges' verdicts for `stillhouse check`: requested one after another, within the judges' stated rates, never
stored."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from stillhouse.gen import simulator
from stillhouse.gen.checks.base import CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.judge import MAX_NONSENSE, Judged, Rubric, judging
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.errors import TeacherPaused
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Auth, Money
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A stored answer."""

    record_id: str
    asked: str
    row: Row
    answer: str


async def with_judges(
    recipe: Recipe, cases: Sequence[Case], verdicts: Sequence[tuple[Verdict, ...]]
) -> list[tuple[Verdict, ...]]:
    """The verdicts, with the judges' ones in place; verdicts after the first that does not accept are left out.

    Raises:
        TeacherPaused: a judge's account has no money, or its key is refused.
        UsageError: see `gen.teachers.keys.credentials_of`.
    """
    found = [list(each) for each in verdicts]
    async with AsyncExitStack() as stack:
        transport = HttpTransport()
        stack.push_async_callback(transport.close)
        for number, check in enumerate(recipe.all_checks):
            settings = getattr(check, "judge", None)
            if not isinstance(settings, JudgeCheck):
                continue
            judge = await _Judge.ready(recipe, settings, transport=transport, stack=stack)
            for case, said in zip(cases, found, strict=True):
                if len(said) > number:
                    said[number] = verdict = await judge.verdict(case)
                    if not isinstance(verdict, CheckResult) or not verdict.accepted:
                        del said[number + 1 :]
    return [tuple(each) for each in found]


class _Judge:
    def __init__(self, settings: JudgeCheck, client: TeacherClient) -> None:
        self._settings = settings
        self._client = client
        self._rubric = Rubric(settings)

    @classmethod
    async def ready(
        cls, recipe: Recipe, settings: JudgeCheck, *, transport: HttpTransport, stack: AsyncExitStack
    ) -> "_Judge":
        teacher = next(each for each in recipe.teachers if each.name == settings.teacher)
        if teacher.api == "simulator" and not teacher.endpoints:
            server = await stack.enter_async_context(await simulator.serve(teacher.simulator or SimulatorSettings()))
            teacher = teacher.model_copy(update={"endpoints": (server.url,)})
        interpreter = Interpreter(judging(teacher, settings), recipe.ask)
        return cls(settings, TeacherClient(interpreter, transport=transport, account=Account(SYSTEM), clock=SYSTEM))

    async def verdict(self, case: Case) -> Verdict:
        rival = None
        if self._settings.rival == "teacher":
            return Unchecked(
                f"it is compared with the answers of {self._settings.against}, which are available only in a run"
            )
        if self._settings.against is not None:
            rival = str(case.row.get(self._settings.against, ""))
        try:
            question = self._rubric.question(Judged(case.record_id, case.asked, case.row, case.answer, rival))
        except NoPrompt as error:
            return Unchecked(str(error))
        said = "it gave no verdict"
        for attempt in range(MAX_NONSENSE):
            await asyncio.sleep(self._pause_s(attempt))
            reply = await self._asked(question)
            if isinstance(reply, Completion):
                verdict = self._rubric.read(reply, record_id=case.record_id)
                if verdict is not None:
                    return verdict
                said = "its reply is not a verdict in JSON"
            else:
                said = reply
        return Unchecked(f"{self._settings.teacher}: {said}")

    def _pause_s(self, attempt: int) -> float:
        per_minute = self._client.teacher.limits.requests_per_minute
        return max(attempt * _PAUSE_S, 0.0 if per_minute is None else 60.0 / per_minute)

    async def _asked(self, question: Prompt) -> Completion | str:
        """The reply, or what came instead, in words."""
        client = self._client
        await client.usable()
        endpoint = client.endpoint(again=False)
        if endpoint is None:
            return "none of its endpoints can be reached"
        try:
            reply = await client.send(client.request(Request(question.messages), endpoint, now=SYSTEM.time()))
        except (NotSent, Lost) as error:
            client.done(endpoint, served=False)
            return str(error)
        outcome = client.interpreter.read(reply)
        client.done(endpoint, served=isinstance(outcome, Completion))
        if isinstance(outcome, Completion):
            return outcome
        if isinstance(outcome, (Auth, Money)):
            raise TeacherPaused(f"teacher {client.teacher.name}: {outcome.message}")
        return outcome.message
