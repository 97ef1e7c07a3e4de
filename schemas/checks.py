"""The checks of a recipe: which answers are worth keeping; one model per kind of check.

A check that was read can be built: patterns compile, schemas are valid, and named files are inside. This module says
which source values a check compares with; `gen.checks` says how it judges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from stillhouse.schemas.asked_schema import AskedSchema
from stillhouse.schemas.base import Strict
from stillhouse.schemas.check_settings import CheckSettings, Reference
from stillhouse.schemas.function_check import FunctionCheck
from stillhouse.schemas.json_schema import JsonSchema, identity_of_schema
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.languages import LANGUAGES
from stillhouse.schemas.python_check import PythonCheck

_COLUMN = Field(min_length=1)


class MathCheck(CheckSettings):
    """Accepts an answer whose final result equals the known one as mathematics: 0.5, 1/2, 50 % and \\frac{1}{2} are
    equal.
    """

    answer: Annotated[str, _COLUMN]
    """The column with the known answer: a number, LaTeX, or a solution that ends in `#### 72` or \\boxed{72}."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)


class ChoiceCheck(CheckSettings):
    """Accepts an answer that chooses the known option."""

    answer: Annotated[str, _COLUMN]
    """The column with the known choice: its letter, or the option's text."""
    options: Annotated[str, _COLUMN] | Annotated[tuple[str, ...], Field(min_length=2, max_length=26)] | None = None
    """The column with the options' texts, in the order of their letters, or a list of the letters in use; by default A
    to Z."""

    @field_validator("options")
    @classmethod
    def _letters(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple) and (
            len(set(value)) < len(value) or not all(len(letter) == 1 and letter.isalnum() for letter in value)
        ):
            raise ValueError(
                "expected different single letters or digits such as `[A, B, C, D]`, or the column with the texts"
            )
        return value

    def references(self) -> Iterator[Reference]:
        """The known choice, and the options if they are in a column."""
        yield Reference("answer", self.answer)
        if isinstance(self.options, str):
            yield Reference("options", self.options, "options")


class ExactCheck(CheckSettings):
    """Accepts an answer that equals the known one, character by character; white space around either is ignored."""

    answer: Annotated[str, _COLUMN]
    """The column with the known answer."""
    ignore_case: bool = False
    """Ignore the difference between upper and lower case."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)


class ContainsCheck(CheckSettings):
    """Accepts an answer that contains a text."""

    text: Annotated[str, Field(min_length=1)] | None = None
    """The text, if it is the same for all rows. One of `text` and `column` is required."""
    column: Annotated[str, _COLUMN] | None = None
    """The column with each row's text."""

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.text is None) == (self.column is None):
            raise ValueError("expected one of `text` (the same for all rows) and `column` (with each row's text)")
        return self

    def references(self) -> Iterator[Reference]:
        """The column, if there is one."""
        if self.column is not None:
            yield Reference("column", self.column)


def _pattern(value: str) -> str:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except re2.error as error:
        (reason,) = error.args
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"expected a regular expression in RE2's syntax, got one that does not compile: {reason}; RE2 has no "
            "lookaround and no backreferences, because they can take forever"
        ) from None
    return value


class RegexCheck(CheckSettings):
    """Accepts an answer that contains a match of a pattern."""

    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
    """A regular expression in RE2's syntax, which may match anywhere: anchor it with ^ and $; (?i) ignores case, (?s)
    lets a dot match line breaks."""


class JsonSchemaCheck(CheckSettings):
    """Accepts an answer that is JSON and fits a schema; a code fence around it is ignored."""

    fits: Annotated[JsonSchema, Field(alias="schema")]
    """The JSON Schema itself, or the path of a file with it."""

    def identity(self) -> dict[str, JsonValue]:
        """See `CheckSettings`."""
        return super().identity() | {"schema": identity_of_schema(self.fits)}


class LengthCheck(CheckSettings):
    """Accepts an answer that is neither too short nor too long; its reasoning does not count."""

    min: Annotated[int, Field(ge=0)] | None = None
    """The smallest length accepted."""
    max: Annotated[int, Field(ge=0)] | None = None
    """The largest length accepted."""
    unit: Literal["chars", "words", "tokens"] = "chars"
    """What to count; `tokens` are output tokens without reasoning, as the teacher reports them."""

    @model_validator(mode="after")
    def _some_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("expected `min` or `max`, or both, got neither")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"expected `min` to be at most `max`, got {self.min} and {self.max}")
        return self


def _languages(value: Any) -> Any:
    codes = (value,) if isinstance(value, str) else value
    if not isinstance(codes, (list, tuple)) or not codes or not all(isinstance(code, str) for code in codes):
        raise ValueError("expected a language code, such as `en`, or a list of them, `[en, de]`")
    for code in codes:
        if code not in LANGUAGES:
            raise ValueError(f"expected a language code that is known, got {code!r}{_language_meant(code)}")
    return tuple(codes)


def _language_meant(code: str) -> str:
    head = code.lower().replace("_", "-").split("-")[0]
    named = [known for known, name in LANGUAGES.items() if name.lower() == code.lower()]
    if meant := named or [known for known in LANGUAGES if known == head]:
        return f"; did you mean {meant[0]}?"
    return f"; the codes are {', '.join(LANGUAGES)}"


class LanguageCheck(CheckSettings):
    """Accepts an answer in a language; code and formulas in it are ignored."""

    any_of: Annotated[tuple[str, ...], BeforeValidator(_languages), Field(alias="is")]
    """The language's ISO 639-1 code, such as `en`, or a list of accepted codes."""


class ReasoningCheck(CheckSettings):
    """Accepts an answer that came with its reasoning."""

    min_chars: Annotated[int, Field(ge=1)] = 1
    """The minimum number of characters of reasoning, not counting white space around it."""


class RepetitionCheck(CheckSettings):
    """Rejects an answer if it or its reasoning repeats itself."""

    max: Annotated[float, Field(ge=0, lt=1)]
    """The largest accepted share, from 0 to 1, of runs of ten words that occurred earlier in the text; normal prose and
    solutions stay below 0.2."""


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
