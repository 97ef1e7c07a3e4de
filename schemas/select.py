"""Which of a prompt's accepted answers a recipe keeps: those that most of them agree with, or those that score best."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, model_validator

from stillhouse.schemas.base import Strict

Equality: TypeAlias = Literal["math", "choice", "exact"]
_SCORE = ".score"


def _score(value: str) -> str:
    if not value.removesuffix(_SCORE) or not value.endswith(_SCORE):
        raise ValueError(f"expected the score of a check, such as `length.score`, got {value!r}")
    return value


class Majority(Strict):
    """Keep every answer of the largest class of equal answers: self-consistency, which needs no known answer."""

    answer: Equality
    """When two answers are equal. `math`: their final answers are equal, as in the check `math`; `choice`: they choose
    the same letter, A to Z; `exact`: their texts are equal, ignoring white space around them."""


class BestOf(Strict):
    """Keep the answers with the highest scores of a check."""

    by: Annotated[str, AfterValidator(_score)]
    """The score that decides, `<check>.score`, by the check's name; of equal scores, the lower sample number wins."""
    keep: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How many answers to a prompt are kept."""

    @property
    def check(self) -> str:
        """The name of the check whose score decides."""
        return self.by.removesuffix(_SCORE)


class Select(Strict):
    """Which accepted answers to a prompt are kept. Give exactly one of the fields."""

    majority: Majority | None = None
    """Keep the most common of the accepted answers."""
    best_of: BestOf | None = None
    """Keep the accepted answers that score best."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.majority is None) == (self.best_of is None):
            got = "neither" if self.majority is None else "both"
            raise ValueError(
                f"expected one of `majority: {{answer: math}}` and `best_of: {{by: <check>.score, keep: 1}}`, got {got}"
            )
        return self

    @property
    def rule(self) -> Majority | BestOf:
        """The field that is given."""
        rule = self.majority or self.best_of
        assert rule is not None
        return rule

    def identity(self) -> dict[str, JsonValue]:
        """The settings that decide which answers are kept, without defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def misfit(self, *, checks: Sequence[str], samples: int, accept: int | None) -> tuple[str, str] | None:
        """What can't go together with the rest of the recipe: (field, reason and what to do), or None.

        Args:
            checks: the names of the recipe's checks.
            samples: `ask.samples` or `ask.at_most`.
            accept: `ask.accept`.
        """
        if self.best_of is None:
            return None
        if self.best_of.check not in checks:
            known = f"one of {', '.join(f'{name}{_SCORE}' for name in checks)}" if checks else "a check in `checks`"
            return "best_of.by", f"expected {known}, got {self.best_of.by}"
        most, field = (samples, "samples") if accept is None else (accept, "accept")
        if self.best_of.keep > most:
            return "best_of.keep", f"expected at most ask.{field}, {most}, got {self.best_of.keep}"
        return None
