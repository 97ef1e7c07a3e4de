"""The settings of the check `length`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stillhouse.schemas.check_settings import CheckSettings


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
