"""Adds counts, whatever they count: every field of two totals of one type, by the kind of its value."""

from typing import Any


def added(one: Any, other: Any) -> Any:
    """The sum: of dictionaries key by key, less what sums to zero, and of lists place by place.

    None is no figure at all, and of two texts the later one stands.
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
