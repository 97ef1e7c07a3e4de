"""What asking takes, before it is asked: tokens, money and time at the declared limits.

Input is estimated by a rule, answers are taken to be as long as `ask.max_tokens` lets them; a figure that needs what
the recipe does not say is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.limits.shares import Cost, rates_of
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Limits, Teacher

CHARS_PER_TOKEN = 4
"""The rule for input tokens: English prose in the tokenizers in use has 4 to 4.5; code and other scripts have fewer."""

_NAMES = {
    "requests": "requests_per_minute",
    "input": "input_tokens_per_minute",
    "output": "output_tokens_per_minute",
    "total": "tokens_per_minute",
}


class TeacherShare(BaseModel):
    """A teacher's part of the samples."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    weight: float
    share: float
    """0 to 1."""


def shares_of(recipe: Recipe) -> tuple[TeacherShare, ...]:
    """Each teacher's part, by weight."""
    total = sum(teacher.weight for teacher in recipe.teachers)
    return tuple(
        TeacherShare(name=t.name, model=t.model_name, weight=t.weight, share=t.weight / total) for t in recipe.teachers
    )


@dataclass(frozen=True, slots=True)
class Workload:
    """So many samples of a recipe, of prompts that have so many characters each on average."""

    recipe: Recipe
    samples: int
    chars_per_prompt: float

    @property
    def input_tokens(self) -> int:
        """By `CHARS_PER_TOKEN`."""
        return math.ceil(self.chars_per_prompt * self.samples / CHARS_PER_TOKEN)

    @property
    def output_tokens(self) -> int | None:
        """At most; None if a teacher has no max_tokens."""
        most = self._output_of(self.recipe.teachers)
        return None if most is None else math.ceil(most)

    def _output_of(self, teachers: Sequence[Teacher]) -> float | None:
        """The part of these teachers."""
        total = sum(teacher.weight for teacher in self.recipe.teachers)
        found = 0.0
        for teacher in teachers:
            if (most := self.recipe.ask.of(teacher).max_tokens) is None:
                return None
            found += most * self.samples * teacher.weight / total
        return found

    def usd(self) -> float | None:
        """At most; None where a price or ask.max_tokens is not set."""
        usd = 0.0
        for teacher, share in zip(self.recipe.teachers, shares_of(self.recipe), strict=True):
            price, output = teacher.price, self._output_of([teacher])
            if price is None or (output is None and price.output > 0):
                return None
            usd += (share.share * self.input_tokens * price.input + (output or 0) * price.output) / 1e6
        return usd

    def unpriced(self) -> tuple[str, ...]:
        """What the recipe would have to say before `usd` is known."""
        teachers = self.recipe.teachers
        lacks = [f"teachers.{teacher.name}.price" for teacher in teachers if teacher.price is None]
        unbounded = any(
            (teacher.price is None or teacher.price.output > 0) and self.recipe.ask.of(teacher).max_tokens is None
            for teacher in teachers
        )
        return (*lacks, "ask.max_tokens") if unbounded else tuple(lacks)

    def seconds(self) -> tuple[float | None, str]:
        """How long it takes at the slowest account's tightest limit, and that limit's name; or None and why not."""
        needs = {
            teacher.name: Need(self.samples * each.share, self.input_tokens * each.share, self._output_of([teacher]))
            for teacher, each in zip(self.recipe.teachers, shares_of(self.recipe), strict=True)
        }
        return slowest_account(self.recipe, needs)


@dataclass(frozen=True, slots=True)
class Need:
    """What one teacher's part takes."""

    samples: float
    input: float
    """Tokens, as all that follows but the last two."""
    output: float | None
    """None: not known."""
    busy_s: float | None = None
    """The latencies of all answers, one after the other; None: not known."""
    in_flight: int | None = None
    """The most requests in flight that the teacher was seen to take."""


def slowest_account(recipe: Recipe, needs: Mapping[str, Need]) -> tuple[float | None, str]:
    """How long it takes by teachers' needs, and the limit that decides it; or None and why not."""
    slowest, bound_by = 0.0, ""
    for key, teachers in _accounts(recipe).items():
        seconds, name = _account_seconds(recipe.accounts[key], [needs[teacher.name] for teacher in teachers])
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
