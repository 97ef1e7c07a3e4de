"""The recipe's `budget`: what a dataset may cost, over all its runs and workers."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from stillhouse.schemas.base import Strict


class Budget(Strict):
    """Spending limits of the dataset, over all its runs and workers. Whichever is reached first ends the run."""

    usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """USD, at the teachers' prices. Needs a price and `max_tokens` for every teacher."""
    requests: Annotated[int, Field(gt=0)] | None = None
    """Requests sent, including refused and repeated ones."""
    output_tokens: Annotated[int, Field(gt=0)] | None = None
    """Output tokens. Needs `max_tokens` for every teacher."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is None and self.requests is None and self.output_tokens is None:
            raise ValueError("expected at least one of `usd`, `requests` and `output_tokens`, got none")
        return self
