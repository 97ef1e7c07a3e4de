"""The recipe's checks on virtual time: what they say is what they say, when they say it is drawn from the seed."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from stillhouse.gen.checks.base import Answer, Unchecked, Verdict
from stillhouse.gen.checks.equality import equality_checks
from stillhouse.gen.checks.link import Duty
from stillhouse.gen.checks.registry import NamedCheck, built
from stillhouse.gen.checks.runner import verdicts
from stillhouse.schemas.recipe import Recipe


class VirtualJudging:
    """A `gen.worker.checking.Judging`."""

    def __init__(self, recipe: Recipe, rng: random.Random, *, takes_s: float) -> None:
        stating, comparing = equality_checks(recipe.equality) if recipe.equality else (None, None)
        self._duties: dict[Duty, Sequence[NamedCheck]] = {
            "check": built(recipe.checks),
            "state": [stating] if stating else [],
            "compare": [comparing] if comparing else [],
        }
        self._rng = rng
        self._takes_s = takes_s
        self.breaks = False
        """True if answers that end in 2 can't be judged."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def judge(
        self, answer: Answer, row: Mapping[str, str | tuple[str, ...]], *, duty: Duty = "check"
    ) -> "asyncio.Future[tuple[Verdict, ...]]":
        """See `Judging`."""
        loop = asyncio.get_running_loop()
        judged: asyncio.Future[tuple[Verdict, ...]] = loop.create_future()
        said = tuple(verdicts(self._duties[duty], answer, row))
        if self.breaks and duty == "check" and answer.text.endswith("2"):
            said = (*said[:-1], Unchecked("it is broken"))
        loop.call_later(self._takes_s * self._rng.uniform(0.1, 2.0), _settle, judged, said)
        return judged


def _settle(judged: "asyncio.Future[tuple[Verdict, ...]]", said: tuple[Verdict, ...]) -> None:
    if not judged.done():
        judged.set_result(said)
