"""The limits of an account."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.base import Strict


class Limits(Strict):
    """Limits of the account. A limit that you leave out is discovered during the run."""

    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Requests per minute, across all workers and jobs that use the account."""
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Input and output tokens together, per minute."""
    input_tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Input tokens per minute."""
    output_tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Output tokens per minute."""
    in_flight: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of requests in flight, across all workers."""
