"""The checks of a recipe: which answers are worth keeping. The fields of `Check` list the kinds.

A check that was read can be built: patterns compile, schemas are valid, and named files are inside. This module says
which source values a check compares with; `gen.checks` says how it judges.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, TypeAlias

from pydantic import JsonValue, model_validator

from stillhouse.schemas.asked_schema import AskedSchema
from stillhouse.schemas.base import Strict
from stillhouse.schemas.check_settings import Reference
from stillhouse.schemas.choice_check import ChoiceCheck
from stillhouse.schemas.contains_check import ContainsCheck
from stillhouse.schemas.exact_check import ExactCheck
from stillhouse.schemas.function_check import FunctionCheck
from stillhouse.schemas.json_schema_check import JsonSchemaCheck
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.language_check import LanguageCheck
from stillhouse.schemas.length_check import LengthCheck
from stillhouse.schemas.math_check import MathCheck
from stillhouse.schemas.python_check import PythonCheck
from stillhouse.schemas.reasoning_check import ReasoningCheck
from stillhouse.schemas.regex_check import RegexCheck
from stillhouse.schemas.repetition_check import RepetitionCheck


class Check(Strict):
    """One check: a mapping with its kind as its only key, such as `math: {answer: answer}`."""

    math: MathCheck | None = None
    """Compare the final answer with a known one, as mathematics."""
    choice: ChoiceCheck | None = None
    """Compare the option chosen with the known one."""
    exact: ExactCheck | None = None
    """Compare the whole answer with a known one."""
    contains: ContainsCheck | None = None
    """Require a text in the answer."""
    regex: RegexCheck | None = None
    """Require a pattern in the answer."""
    json_schema: JsonSchemaCheck | None = None
    """Check the answer, as JSON, against a schema."""
    length: LengthCheck | None = None
    """Limit the answer's length."""
    language: LanguageCheck | None = None
    """Require a language."""
    reasoning: ReasoningCheck | None = None
    """Require reasoning."""
    repetition: RepetitionCheck | None = None
    """Reject answers that repeat themselves."""
    python: PythonCheck | None = None
    """Run the answer's program against the row's tests."""
    function: FunctionCheck | None = None
    """Judge the answer with your own function."""
    judge: JudgeCheck | None = None
    """Judge the answer with another model."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            got = " and ".join(given) if given else "none"
            raise ValueError(f"expected one check per item, such as `math: {{answer: answer}}`, got {got}")
        return self

    @property
    def kind(self) -> str:
        """The kind of check."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def settings(self) -> Any:
        """The settings of this kind, a `CheckSettings`."""
        return getattr(self, self.kind)

    @property
    def name(self) -> str:
        """The name under which its verdicts are kept."""
        name: str = self.settings.named(self.kind)
        return name

    def identity(self) -> dict[str, JsonValue]:
        """The settings that decide its verdicts, without defaults; a file is given by its SHA-256."""
        settings = self.settings.identity()
        if settings.get("name") == self.kind:
            del settings["name"]
        return {self.kind: settings}


AnyCheck: TypeAlias = Check | AskedSchema
"""A check of the recipe, or the one that comes with `ask.schema`."""


def unique_names(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Check that the checks have distinct names; raises ValueError."""
    names = [check.name for check in checks]
    for name in names:
        if names.count(name) > 1:
            field = "as" if any(check.function for check in checks if check.name == name) else "name"
            places = " and ".join(str(place) for place, other in enumerate(names, 1) if other == name)
            raise ValueError(
                f"checks {places} of the list share the name {name}; give one another: `{field}: {name}_2`"
            )
    return checks


def whole_chunks(checks: Sequence[AnyCheck]) -> FunctionCheck | None:
    """The function that judges whole chunks, if there is one."""
    functions = (check.function for check in checks if isinstance(check, Check))
    return next((each for each in functions if each is not None and each.per == "chunk"), None)


def last_if_whole(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Check that only the last one judges whole chunks; raises ValueError."""
    if (function := whole_chunks(checks[:-1])) is not None:
        raise ValueError(
            f"{function.named('')} judges whole chunks, once all other checks have accepted their answers (`per: "
            "chunk`): put it last, and have at most one such function"
        )
    return checks


def references_of(checks: Sequence[AnyCheck]) -> tuple[Reference, ...]:
    """The columns that the checks compare with, each once, in the order of the recipe."""
    named = [
        replace(reference, field=f"checks.{number}.{check.kind}.{reference.field}")
        for number, check in enumerate(checks)
        for reference in check.settings.references()
    ]
    return tuple({(reference.column, reference.form): reference for reference in reversed(named)}.values())[::-1]
