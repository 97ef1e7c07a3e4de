"""The settings of the check `contains`."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from stillhouse.schemas.check_settings import CheckSettings, ColumnName, Reference


class ContainsCheck(CheckSettings):
    """Accepts an answer that contains a text."""

    text: Annotated[str, Field(min_length=1)] | None = None
    """The text, if it is the same for all rows. One of `text` and `column` is required."""
    column: ColumnName | None = None
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
