"""What asking needs, before anything is asked: tokens, money and time at the declared limits.

Input is estimated by a rule, and answers are assumed to be as long as `ask.max_tokens` allows; a figure that needs
something the recipe does not say is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.limits.shares import Cost, rates_of
from stillhouse.gen.teachers.image_tokens import CHARS_PER_TOKEN
from stillhouse.gen.teachers.prices import asked_by
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.price import Price
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

_NAMES = {
    "requests": "requests_per_minute",
    "input": "input_tokens_per_minute",
    "output": "output_tokens_per_minute",
    "total": "tokens_per_minute",
}

JUDGING_CHARS = 500
"""Approximate length of Stillhouse's own text to a judge, besides rubric and answer."""


class TeacherShare(BaseModel):
    """A teacher's part of the samples."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    weight: float
    share: float
    """0 to 1; under `route: fallback` the first teacher's is 1, as long as it can answer."""


def shares_of(recipe: Recipe) -> tuple[TeacherShare, ...]:
    """Each teacher's part of the samples."""
    return tuple(
        TeacherShare(name=each.name, model=each.model_name, weight=each.weight, share=_share(recipe, place))
        for place, each in enumerate(recipe.answering)
    )


def _share(recipe: Recipe, place: int) -> float:
    match recipe.route:
        case "weighted":
            return recipe.answering[place].weight / sum(each.weight for each in recipe.answering)
        case "each":
            return 1 / len(recipe.answering)
        case "fallback":
            return float(place == 0)
        case _:
            assert_never(recipe.route)


@dataclass(frozen=True, slots=True)
class Workload:
    """A number of samples of a recipe, for prompts with a given average number of characters."""

    recipe: Recipe
    samples: int
    chars_per_prompt: float

    def of(self, recipe: Recipe) -> "Workload":
        """This workload's samples under another recipe."""
        return replace(self, recipe=recipe)

    @property
    def input_tokens(self) -> int:
        """Estimated input tokens, by `CHARS_PER_TOKEN`."""
        return math.ceil(self.chars_per_prompt * self.samples / CHARS_PER_TOKEN)

    @property
    def output_tokens(self) -> int | None:
        """The maximum; None if a teacher has no max_tokens."""
        most = self._combined([self._output_at(teacher) for teacher in self.recipe.answering])
        return None if most is None else math.ceil(most)

    def usd(self) -> float | None:
        """The maximum; None if a price or ask.max_tokens is not set."""
        return self._combined([self.usd_at(teacher) for teacher in self.recipe.answering])

    def usd_at(self, teacher: Teacher) -> float | None:
        """The maximum if this teacher answers everything; None if its price or ask.max_tokens is not set."""
        asked = asked_by(teacher, "online") if teacher.mode == "batch-then-online" else teacher
        return self._usd_for(teacher, asked.price)

    def usd_if_answered(self) -> float | None:
        """Cost if batches answer everything that they are asked (`mode: batch-then-online`)."""
        return self._combined([self._usd_if_answered(teacher) for teacher in self.recipe.answering])

    def _usd_if_answered(self, teacher: Teacher) -> float | None:
        online, batched = self.usd_at(teacher), self._usd_for(teacher, teacher.price)
        if teacher.mode != "batch-then-online" or online is None or batched is None:
            return online
        first = self.first_share
        return first * batched + (1 - first) * online

    @property
    def first_share(self) -> float:
        """Part of the samples that are asked whatever becomes of the others."""
        ask = self.recipe.ask
        return 1.0 if ask.accept is None else ask.accept / ask.most_samples

    def _usd_for(self, teacher: Teacher, price: Price | None) -> float | None:
        output = self._output_at(teacher)
        if price is None or (output is None and price.output > 0):
            return None
        return (self.input_tokens * price.input + (output or 0) * price.output) / 1e6

    def _output_at(self, teacher: Teacher) -> float | None:
        most = self.recipe.ask.of(teacher).max_tokens
        return None if most is None else most * self.samples

    def _combined(self, figures: Sequence[float | None]) -> float | None:
        """The total, given each teacher's figure for everything; under `route: fallback` the highest of these."""
        known = [figure for figure in figures if figure is not None]
        if len(known) < len(figures):
            return None
        if self.recipe.route == "fallback":
            return max(known)
        return sum(each.share * figure for each, figure in zip(shares_of(self.recipe), known, strict=True))

    def checks_usd(self) -> float | None:
        """The maximum if every answer is judged; None if a judge's price, or a length limit, is not set."""
        total, asks = 0.0, [self.recipe.ask.of(teacher).max_tokens for teacher in self.recipe.answering]
        for _, judge, teacher in self.recipe.judges:
            output = self.recipe.ask.of(teacher).max_tokens
            if teacher.price is None or output is None or None in asks:
                return None
            tokens = math.ceil(self.chars_per_question(judge) / CHARS_PER_TOKEN)
            total += self.samples * (tokens * teacher.price.input + output * teacher.price.output) / 1e6
        return total

    def chars_per_question(self, judge: JudgeCheck) -> float:
        """Characters of a question to the judge about an answer of the maximum length, as far as that is known."""
        asks = [self.recipe.ask.of(teacher).max_tokens or 0 for teacher in self.recipe.answering]
        return JUDGING_CHARS + len(judge.template.text) + self.chars_per_prompt + CHARS_PER_TOKEN * max(asks)

    def unpriced(self) -> tuple[str, ...]:
        """What the recipe would have to say before `usd` is known."""
        teachers = self.recipe.answering
        lacks = [f"teachers.{teacher.name}.price" for teacher in teachers if teacher.price is None]
        unbounded = any(
            (teacher.price is None or teacher.price.output > 0) and self.recipe.ask.of(teacher).max_tokens is None
            for teacher in teachers
        )
        return (*lacks, "ask.max_tokens") if unbounded else tuple(lacks)

    def seconds(self) -> tuple[float | None, str]:
        """How long it takes at the slowest account's tightest limit, and that limit's name; or None and the reason.

        Batches are left out: the limits of an account do not apply to them. Of a teacher that is asked online after
        them, only the samples count that are in none.
        """
        needs = {}
        for teacher, each in zip(self.recipe.answering, shares_of(self.recipe), strict=True):
            output, share = self._output_at(teacher), each.share
            if teacher.mode == "batch-then-online":
                share *= 1 - self.first_share
            if not share or teacher.mode == "batch":
                continue
            needs[teacher.name] = Need(
                self.samples * share, self.input_tokens * share, None if output is None else output * share
            )
        return slowest_account(self.recipe, needs)


@dataclass(frozen=True, slots=True)
class Need:
    """What one teacher's part needs."""

    samples: float
    input: float
    """Tokens, like the following fields except the last two."""
    output: float | None
    """Output tokens; None if not known."""
    busy_s: float | None = None
    """Sum of the latencies of all answers; None if unknown."""
    in_flight: int | None = None
    """The most requests in flight that the teacher was seen to sustain."""


def slowest_account(recipe: Recipe, needs: Mapping[str, Need]) -> tuple[float | None, str]:
    """How long it takes for the needs of these teachers, and the limit that decides it; or None and the reason."""
    slowest, bound_by = 0.0, ""
    for key, teachers in _accounts(recipe).items():
        asked = [needs[teacher.name] for teacher in teachers if teacher.name in needs]
        if not asked:
            continue
        seconds, name = _account_seconds(recipe.accounts[key], asked)
        if seconds is None:
            return None, f"account {key}: {name}"
        if seconds >= slowest:
            slowest, bound_by = seconds, f"{name} of {key}"
    return slowest, bound_by


def _account_seconds(limits: Limits, needs: list[Need]) -> tuple[float | None, str]:
    rates = rates_of(limits)
    outputs = [need.output for need in needs if need.output is not None]
    if len(outputs) < len(needs) and {"output", "total"} & rates.keys():
        return None, "a limit on output tokens is declared, but ask.max_tokens is not"
    used = Cost(sum(need.input for need in needs), sum(outputs))
    wanted = {"requests": sum(need.samples for need in needs)} | {n: used.of(n) for n in rates if n != "requests"}
    found = [(wanted[name] / rate, f"limits.{_NAMES[name]}") for name, rate in rates.items()]
    busy = [need.busy_s for need in needs if need.busy_s is not None]
    if len(busy) == len(needs):
        if limits.in_flight is not None:
            found.append((sum(busy) / limits.in_flight, "limits.in_flight and the latency so far"))
        elif not rates:
            slots = sum(need.in_flight or 1 for need in needs)
            found.append((sum(busy) / slots, f"the latency and the {slots:,} requests in flight so far"))
    if not found:
        stated = "limits.in_flight alone is declared" if limits.in_flight is not None else "no limits are declared"
        return None, f"{stated}, so the teacher's latency decides"
    return max(found)


def _accounts(recipe: Recipe) -> dict[str, list[Teacher]]:
    accounts: dict[str, list[Teacher]] = {}
    for teacher in recipe.teachers:
        accounts.setdefault(teacher.limits_key, []).append(teacher)
    return accounts
