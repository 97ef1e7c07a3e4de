"""What asking takes, before it is asked: tokens, money and time at the declared limits.

Input is estimated by a rule, answers are taken to be as long as `ask.max_tokens` lets them; a figure that needs what
the recipe does not say is None.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.limits.shares import Cost, rates_of
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

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
        """At most; None without ask.max_tokens."""
        most = self.recipe.ask.max_tokens
        return None if most is None else most * self.samples

    def usd(self) -> float | None:
        """At most; None where a price or ask.max_tokens is not set."""
        output, usd = self.output_tokens, 0.0
        for teacher, share in zip(self.recipe.teachers, shares_of(self.recipe), strict=True):
            if teacher.price is None or (output is None and teacher.price.output > 0):
                return None
            price = teacher.price
            usd += share.share * (self.input_tokens * price.input + (output or 0) * price.output) / 1e6
        return usd

    def unpriced(self) -> tuple[str, ...]:
        """What the recipe would have to say before `usd` is known."""
        teachers = self.recipe.teachers
        lacks = [f"teachers.{teacher.name}.price" for teacher in teachers if teacher.price is None]
        wants_output = any(teacher.price is None or teacher.price.output > 0 for teacher in teachers)
        return (*lacks, "ask.max_tokens") if self.recipe.ask.max_tokens is None and wants_output else tuple(lacks)

    def seconds(self) -> tuple[float | None, str]:
        """How long it takes at the slowest account's tightest limit, and that limit's name; or None and why not."""
        slowest, bound_by = 0.0, ""
        for key, teachers in _accounts(self.recipe).items():
            seconds, name = self._account_seconds(teachers)
            if seconds is None:
                return None, f"account {key}: {name}"
            if seconds >= slowest:
                slowest, bound_by = seconds, f"{name} of {key}"
        return slowest, bound_by

    def _account_seconds(self, teachers: list[Teacher]) -> tuple[float | None, str]:
        # Of an account that several teachers share, the lower of two stated limits holds.
        rates = [(name, rate) for teacher in teachers for name, rate in rates_of(teacher.limits).items()]
        if not rates:
            slots = any(teacher.limits.in_flight is not None for teacher in teachers)
            stated = "limits.in_flight alone is declared" if slots else "no limits are declared"
            return None, f"{stated}, so the teacher's latency decides"
        output = self.output_tokens
        if output is None and any(name in ("output", "total") for name, _ in rates):
            return None, "a limit on output tokens is declared, but ask.max_tokens is not"
        share = sum(teacher.weight for teacher in teachers) / sum(teacher.weight for teacher in self.recipe.teachers)
        used = Cost(self.input_tokens * share, (output or 0) * share)
        needs = {"requests": self.samples * share} | {n: used.of(n) for n, _ in rates if n != "requests"}
        seconds, tightest = max((needs[name] / rate, name) for name, rate in rates)
        return seconds, f"limits.{_NAMES[tightest]}"


def _accounts(recipe: Recipe) -> dict[str, list[Teacher]]:
    accounts: dict[str, list[Teacher]] = {}
    for teacher in recipe.teachers:
        accounts.setdefault(teacher.limits_key, []).append(teacher)
    return accounts
