"""The price of a teacher's tokens."""

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from stillhouse.schemas.base import Strict


class _Prices(Strict):
    input: Annotated[float, Field(ge=0)]
    """USD per million input tokens."""
    output: Annotated[float, Field(ge=0)]
    """USD per million output tokens, including reasoning."""
    cached_input: Annotated[float, Field(ge=0)] | None = None
    """USD per million input tokens read from the provider's cache; by default the input price."""
    cache_write: Annotated[float, Field(ge=0)] | None = None
    """USD per million input tokens written to the provider's cache; by default the input price."""
    reasoning: Annotated[float, Field(ge=0)] | None = None
    """USD per million output tokens of reasoning; by default the output price."""


class PriceAbove(_Prices):
    """Prices of long requests."""

    input_tokens: Annotated[int, Field(gt=0)]
    """The prices apply to requests with more input tokens than this."""


class Price(_Prices):
    """USD per million tokens."""

    above: tuple[PriceAbove, ...] = ()
    """Prices of long requests, in ascending order; each applies to the whole request."""
    source: str | None = None
    """Where a looked-up price comes from; set by Stillhouse."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(high.input_tokens <= low.input_tokens for low, high in pairwise(self.above)):
            raise ValueError("expected `above` in ascending order of `input_tokens`, each number once")
        return self
