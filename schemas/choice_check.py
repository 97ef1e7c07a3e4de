"""The settings of the check `choice`."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator

from stillhouse.schemas.check_settings import CheckSettings, ColumnName, Reference


class ChoiceCheck(CheckSettings):
    """Accepts an answer that chooses the known option."""

    answer: ColumnName
    """The column with the known choice: its letter, or the option's text."""
    options: ColumnName | Annotated[tuple[str, ...], Field(min_length=2, max_length=26)] | None = None
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
