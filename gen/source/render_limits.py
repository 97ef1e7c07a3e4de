"""Limits on rendering a template, counted in steps, so that a row has the same outcome on any machine.

A step is an element visited, a call or a loop iteration, plus one for every hundred characters read or produced. Text
that would become far too large is refused before it is created. The time of comparisons and slices of long texts inside
loops is not limited; it is up to the template's author.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_TEXT_CHARS = 16 * 2**20
"""The longest text that a template may create, at its end and on the way."""

MAX_STEPS = 1_000_000
"""Maximum number of steps for one row."""

_CHARS_PER_STEP = 100
_CHARS_PER_NUMBER = 6
_ROUNDING_CHARS = 1000
"""A decimal place in rounding a number costs as much as this many characters."""

_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")


class Steps:
    """The steps left for one rendering; all methods raise SecurityError when none are left."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, chars: int = 0) -> None:
        """Take a step, and those for the characters."""
        self._left -= 1 + chars // _CHARS_PER_STEP
        if self._left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps on this row: shorten its loops")

    def each(self, items: Iterable[Any], chars: int = 0) -> Iterator[Any]:
        """The items, each of which costs a step and this many characters."""
        for item in items:
            self.take(chars)
            yield item

    def weigh(self, value: Any, *, indent: int = 0) -> int:
        """Charge the steps for the value as it would be written out, with extra characters per level; returns its
        length.

        Raises:
            SecurityError: it is longer than a text may be.
        """
        chars = 0
        todo = [(value, 0)]
        while todo:
            item, level = todo.pop()
            if isinstance(item, (str, bytes)):
                size = len(item)
            elif isinstance(item, range):
                size = _CHARS_PER_NUMBER * len(item)
            else:
                size = _CHARS_PER_NUMBER + indent * level
                todo += [(part, level + 1) for part in _parts(item)]
            chars += size
            refuse_beyond(chars, "a value")
            self.take(size)
        return chars


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Undefined) or not isinstance(value, Collection):
        return ()
    return (part for pair in value.items() for part in pair) if isinstance(value, Mapping) else value


def refuse_beyond(chars: int, what: str) -> None:
    """Raise SecurityError if `what` would be longer than a text may be."""
    if chars > MAX_TEXT_CHARS:
        raise SecurityError(f"{what} is too large: at most {MAX_TEXT_CHARS:,} characters")


def outcome_chars(name: str, value: Any, given: list[Any]) -> int:
    """Roughly the maximum length of a filter's or method's result, if that can exceed its input."""
    widths = [abs(number) for number in given if type(number) is int]
    texts = [item for item in given if isinstance(item, (str, bytes))]
    longest = max(map(len, texts), default=0)
    widest = max(widths, default=0)
    match name:
        case "center" | "ljust" | "rjust" | "zfill" | "to_bytes" | "batch" | "slice":
            return widest
        case "round":
            return widest * _ROUNDING_CHARS
        case "indent":
            return (str(value).count("\n") + 1) * max(widest, longest)
        case "expandtabs" if isinstance(value, str):
            return value.count("\t") * widest
        case "expandtabs" if isinstance(value, bytes):
            return len(value) * widest
        case "wordwrap":
            return len(str(value)) * longest
        case "replace" if isinstance(value, bytes):
            return (len(value) + 1) * longest
        case "replace" if len(texts) > 1:
            return str(value).count(str(texts[0])) * len(texts[1])
        case "translate" if isinstance(value, str) and given and isinstance(given[0], Mapping):
            return len(value) * max((len(text) for text in given[0].values() if isinstance(text, str)), default=1)
        case "join":  # of a filter and of a method, whose separator is the value
            is_method = isinstance(value, str) and given and not texts
            items, separator = (given[0], len(value)) if is_method else (value, longest)
            return len(items) * separator if isinstance(items, Collection) else 0
        case "sum" if any(isinstance(start, (list, tuple)) for start in given):
            return len(value) ** 2
    return 0


def percent_chars(form: str, values: Any, *, values_chars: int) -> int:
    """Roughly the maximum length of `form % values`.

    Raises:
        SecurityError: a width is taken from the values.
    """
    widths = [width for pair in _PERCENT.findall(form) for width in pair if width]
    if "*" in widths:
        raise SecurityError("a width of * is not supported: write the number")
    times = form.count("%") if isinstance(values, Mapping) else 1
    return len(form) + sum(map(int, widths)) + times * values_chars


def format_chars(form: str, *, values_chars: int) -> int:
    """Roughly the maximum length of `form.format(…)`.

    Raises:
        SecurityError: a width is taken from the values.
    """
    specs = [spec or "" for _, field, spec, _ in Formatter().parse(form) if field is not None]
    if any("{" in spec for spec in specs):
        raise SecurityError(
            "a format inside a format, such as {:{width}}, is not supported: write the number, as in {:10}"
        )
    widths = sum(int(width) for spec in specs for width in re.findall(r"\d+", spec))
    return len(form) + widths + len(specs) * values_chars
