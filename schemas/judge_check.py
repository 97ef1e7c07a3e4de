"""The check `judge`: another model's verdict. Its template travels inside the recipe."""

import hashlib
import re
from collections.abc import Iterator
from operator import eq, ge, gt, le, lt, ne
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from stillhouse.schemas.carried_file import CarriedFile, file_or_value
from stillhouse.schemas.check_settings import CheckSettings, Reference

_OPERATORS = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}
_CONDITION = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*")
AT_LEAST_EQUAL = ">= 0.5"
"""The default of a comparison: a win scores 1, a tie 0.5, a loss 0."""
ASKED = "prompt"
"""The template variable for the user's last message, as it was asked."""


class Condition(NamedTuple):
    """A bound on a score."""

    sign: str
    bound: float

    def holds(self, score: float) -> bool:
        """True if the score is within the bound."""
        return bool(_OPERATORS[self.sign](score, self.bound))


def condition_of(text: str) -> Condition:
    """The condition that a text such as `>= 4` states; raises ValueError."""
    if (found := _CONDITION.fullmatch(text)) is None:
        raise ValueError(
            f"expected a comparison with the score, one of {', '.join(_OPERATORS)} and a number, such as "
            f'`">= 4"` in quotes, got {text!r}'
        )
    return Condition(found[1], float(found[2]))


def _condition(value: str) -> str:
    condition_of(value)
    return value


def _template(value: Any) -> Any:
    if isinstance(value, str) and ("\n" in value or "{{" in value):
        return CarriedFile(path="template", sha256=hashlib.sha256(value.encode()).hexdigest(), text=value)
    return file_or_value(value, (), expected="the path of a Jinja template, or the template itself")


class JudgeCheck(CheckSettings):
    """Another model scores the answer, or compares it with another one.

    Texts of more than 4,000,000 characters are left unchecked: no model reads that much.
    """

    teacher: Annotated[str, Field(min_length=1)]
    """The name of the teacher that judges; its `role` is `judge`."""
    template: Annotated[CarriedFile, BeforeValidator(_template)]
    """The rubric: the path of a Jinja template over the row's columns, or the template itself. `prompt` is the user's
    last message as it was asked. Stillhouse adds the answer after it, and the format of the verdict."""
    accept_if: Annotated[str, AfterValidator(_condition)] | None = None
    """The scores that are accepted, such as ">= 4". With `against`, a win scores 1, a tie 0.5 and a loss 0, and the
    default is ">= 0.5"."""
    against: Annotated[str, Field(min_length=1)] | None = None
    """Compare instead of scoring: with the answer of the teacher of this name to the same prompt (`route: each`), or
    with the text in the column of this name."""
    rival: Literal["teacher", "column"] | None = None
    """Which of the two `against` names; set by Stillhouse."""
    judging_allowed_because: Annotated[str, Field(min_length=1)] | None = None
    """Why this judge may be used although its terms forbid training on its output, or are not stated; the card repeats
    it."""

    @model_validator(mode="after")
    def _is_template(self) -> Self:
        _ = self.columns
        return self

    @property
    def condition(self) -> Condition:
        """Which scores are accepted."""
        return condition_of(self.accept_if or AT_LEAST_EQUAL)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that its template uses; raises ValueError if it is not a template."""
        from jinja2 import Environment, TemplateSyntaxError, meta

        try:
            tree = Environment(autoescape=True).parse(self.template.text)  # only parsed, never rendered
        except (TemplateSyntaxError, RecursionError) as error:
            line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise ValueError(f"template: {self.template.path}{line}: {error}") from None
        known = {ASKED, *Environment(autoescape=True).globals}
        return tuple(sorted(meta.find_undeclared_variables(tree) - known))

    def references(self) -> Iterator[Reference]:
        """The columns of its template, and the column with the text to compare with."""
        for column in self.columns:
            yield Reference("template", column, "json")
        if self.against is not None and self.rival == "column":
            yield Reference("against", self.against)

    def identity(self) -> dict[str, JsonValue]:
        """See `CheckSettings`; the reason that allows the judge does not decide a verdict."""
        left_out = {"template", "judging_allowed_because"}
        found: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        return found | {"template": self.template.sha256}
