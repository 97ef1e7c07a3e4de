"""Numbers of tokens as a wire states them."""

import math
from typing import Any

MAX_TOKENS = 2**24
"""No context is this long: a larger count is ignored, so that it can't become a debt to the limits or a price."""


def count_in(value: Any, *, below: int = MAX_TOKENS) -> int | None:
    """An integer number of tokens; a fraction is rounded up."""
    if isinstance(value, float) and math.isfinite(value):
        value = math.ceil(value)
    return value if type(value) is int and 0 <= value < below else None
