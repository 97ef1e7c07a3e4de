"""Adds counts, field by field: totals of any one type, each value by its kind."""

from typing import Any


def added(one: Any, other: Any) -> Any:
    """The sum: dictionaries are added key by key, without zero sums, and lists element by element.

    None counts as no figure, and of two texts the later one is taken.
    """
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        sums = one | other | {name: added(one[name], other[name]) for name in one if name in other}
        return {name: value for name, value in sums.items() if value != 0}
    if isinstance(one, list):
        return [added(a, b) for a, b in zip(one, other, strict=True)]
    if isinstance(one, str):
        return other or one
    return one + other
