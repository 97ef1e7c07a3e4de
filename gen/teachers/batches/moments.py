"""Moments in the forms in which batch APIs state them."""

from datetime import UTC, datetime
from typing import Any


def moment_of(value: Any) -> float | None:
    """UTC seconds since 1970, from such a number or from ISO 8601 text; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
