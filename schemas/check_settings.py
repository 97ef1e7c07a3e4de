"""Settings that all kinds of checks share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from stillhouse.schemas.base import Strict

ColumnName = Annotated[str, Field(min_length=1)]
CheckName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


@dataclass(frozen=True, slots=True)
class Reference:
    """A column of the source that a check reads."""

    field: str
    """The field that names the column: of the check's settings; in `references_of`, of the recipe
    (`checks.0.math.answer`)."""
    column: str
    form: Literal["text", "options", "json", "tests"] = "text"
    """`text`: non-empty text, or a number; `options`: a list of at least two texts; `json`: any value, as JSON;
    `tests`: any value but null, as JSON."""

    @property
    def key(self) -> str:
        """The reference's name among a row's values: two checks may read one column in different forms."""
        return f"{self.column}\0json" if self.form in ("json", "tests") else self.column


class CheckSettings(Strict):
    """Settings of every kind of check."""

    name: CheckName | None = None
    """The name in the column `checks` and in reject reasons; by default the kind of check."""

    def references(self) -> Iterator[Reference]:
        """The source columns that the check compares with."""
        yield from ()

    def named(self, kind: str) -> str:
        """The name under which its verdicts are kept."""
        return self.name or kind

    def identity(self) -> dict[str, JsonValue]:
        """The settings that decide its verdicts, without defaults; a file is given by its SHA-256."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return found
