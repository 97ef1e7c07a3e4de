"""The checks of a recipe: what makes an answer worth keeping, one kind of check a model.

A check that reads is one that can be built: patterns compile, schemas are schemas, and a file that is named is inside.
Which values of a source row a check compares with is said here; how it judges is `gen.checks`'s.
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
    """The final answer equals the known one as mathematics: 0.5, 1/2, 50 % and \\frac{1}{2} are one number."""

    answer: Annotated[str, _COLUMN]
    """The column with the known answer: a number, LaTeX, or a solution that ends in `#### 72` or \\boxed{72}."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)


class ChoiceCheck(CheckSettings):
    """The option that the answer chooses is the known one."""

    answer: Annotated[str, _COLUMN]
    """The column with the known choice: its letter, or the option's own text."""
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
        """The known choice, and the options where they are a column's."""
        yield Reference("answer", self.answer)
        if isinstance(self.options, str):
            yield Reference("options", self.options, "options")


class ExactCheck(CheckSettings):
    """The answer is the known one, character by character; white space around either does not count."""

    answer: Annotated[str, _COLUMN]
    """The column with the known answer."""
    ignore_case: bool = False
    """Take upper and lower case for the same."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)


class ContainsCheck(CheckSettings):
    """The answer contains a text."""

    text: Annotated[str, Field(min_length=1)] | None = None
    """The text, the same for all rows. One of `text` and `column` is needed."""
    column: Annotated[str, _COLUMN] | None = None
    """The column with each row's text."""

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.text is None) == (self.column is None):
            raise ValueError("expected one of `text` (the same for all rows) and `column` (with each row's text)")
        return self

    def references(self) -> Iterator[Reference]:
        """The column, where there is one."""
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
            f"expected a regular expression in RE2's syntax, got one that does not compile: {reason}; lookaround "
            "and backreferences, which can take forever, are not in it"
        ) from None
    return value


class RegexCheck(CheckSettings):
    """A pattern is found in the answer."""

    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
    """A regular expression in RE2's syntax, searched for anywhere: anchor it with ^ and $; (?i) ignores case, (?s) lets
    a dot match line breaks."""


class JsonSchemaCheck(CheckSettings):
    """The answer is JSON that fits a schema; a code fence around it does not count."""

    fits: Annotated[JsonSchema, Field(alias="schema")]
    """The JSON Schema itself, or the path of a file that holds it."""

    def identity(self) -> dict[str, JsonValue]:
        """See `CheckSettings`."""
        return super().identity() | {"schema": identity_of_schema(self.fits)}


class LengthCheck(CheckSettings):
    """The answer is neither too short nor too long; its reasoning does not count."""

    min: Annotated[int, Field(ge=0)] | None = None
    """The least that is accepted."""
    max: Annotated[int, Field(ge=0)] | None = None
    """The most that is accepted."""
    unit: Literal["chars", "words", "tokens"] = "chars"
    """What is counted; `tokens` are output tokens less reasoning, as the teacher reports them."""

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
    """The answer is in a language; code and formulas in it do not count."""

    any_of: Annotated[tuple[str, ...], BeforeValidator(_languages), Field(alias="is")]
    """The language's ISO 639-1 code, such as `en`, or a list of codes any of which will do."""


class ReasoningCheck(CheckSettings):
    """The answer came with its reasoning."""

    min_chars: Annotated[int, Field(ge=1)] = 1
    """The fewest characters of reasoning, white space around it aside."""


class RepetitionCheck(CheckSettings):
    """Neither the answer nor its reasoning runs in circles."""

    max: Annotated[float, Field(ge=0, lt=1)]
    """The largest share that is accepted of runs of ten words that stood in the text before, from 0 to 1; honest prose
    and solutions stay below 0.2."""


class Check(Strict):
    """One check: a mapping with its kind as the one key, such as `math: {answer: answer}`."""

    math: MathCheck | None = None
    """Compare the final answer with a known one, as mathematics."""
    choice: ChoiceCheck | None = None
    """Compare the option chosen with the known one."""
    exact: ExactCheck | None = None
    """Compare the whole answer with a known one."""
    contains: ContainsCheck | None = None
    """Look for a text in the answer."""
    regex: RegexCheck | None = None
    """Look for a pattern in the answer."""
    json_schema: JsonSchemaCheck | None = None
    """Check the answer, which has to be JSON, against a schema."""
    length: LengthCheck | None = None
    """Bound the answer's length."""
    language: LanguageCheck | None = None
    """Tell the answer's language."""
    reasoning: ReasoningCheck | None = None
    """Ask for reasoning beside the answer."""
    repetition: RepetitionCheck | None = None
    """Refuse what repeats itself."""
    python: PythonCheck | None = None
    """Run the answer's program against the row's tests."""
    function: FunctionCheck | None = None
    """Have a function of yours judge the answer."""
    judge: JudgeCheck | None = None
    """Have another model judge the answer."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            got = " and ".join(given) if given else "none"
            raise ValueError(f"expected one check per item, such as `math: {{answer: answer}}`, got {got}")
        return self

    @property
    def kind(self) -> str:
        """Which check it is."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def settings(self) -> Any:
        """The settings of its kind, a `CheckSettings`."""
        return getattr(self, self.kind)

    @property
    def name(self) -> str:
        """The name under which its verdicts are kept."""
        name: str = self.settings.named(self.kind)
        return name

    def identity(self) -> dict[str, JsonValue]:
        """What decides its verdicts, without defaults; a file by its SHA-256."""
        settings = self.settings.identity()
        if settings.get("name") == self.kind:
            del settings["name"]
        return {self.kind: settings}


AnyCheck: TypeAlias = Check | AskedSchema
"""A check of the recipe's, or the one that comes with `ask.schema`."""


def unique_names(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """The checks, each under a name of its own; raises ValueError."""
    names = [check.name for check in checks]
    for name in names:
        if names.count(name) > 1:
            field = "as" if any(check.function for check in checks if check.name == name) else "name"
            places = " and ".join(str(place) for place, other in enumerate(names, 1) if other == name)
            raise ValueError(
                f"the name {name} is given to the checks {places} of the list; give one another: `{field}: {name}_2`"
            )
    return checks


def whole_chunks(checks: Sequence[AnyCheck]) -> FunctionCheck | None:
    """The function that judges whole chunks, if there is one."""
    functions = (check.function for check in checks if isinstance(check, Check))
    return next((each for each in functions if each is not None and each.per == "chunk"), None)


def last_if_whole(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """The checks, of which none but the last judges whole chunks; raises ValueError."""
    if (function := whole_chunks(checks[:-1])) is not None:
        raise ValueError(
            f"{function.named('')} judges whole chunks, once all other checks have accepted their answers (`per: "
            "chunk`): put it last, and have one such function at most"
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
