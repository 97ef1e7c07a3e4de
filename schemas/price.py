"""What a teacher's tokens cost."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.base import Strict


class _Prices(Strict):
    input: Annotated[float, Field(ge=0)]
    """USD per million input tokens."""
    output: Annotated[float, Field(ge=0)]
    """USD per million output tokens, reasoning included."""
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
