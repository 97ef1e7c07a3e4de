"""Writes values from a wire as JSON; no value makes it raise, however deep or odd."""

import json
import re
from typing import Any

import orjson

MAX_DEPTH = 200
"""No answer is nested this deep. Deeper values become null: JSON libraries fail at depths of their own."""
MAX_KEPT_DEPTH = 128
"""A value that is kept whole or not at all is at most this deep: less than `MAX_DEPTH`, so that it contains no such
null."""
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
"""Strings and brackets of a JSON text."""


class Packed(bytes):
    """A value as JSON in a document. It takes far less memory than its objects, which the garbage collector would
    visit again and again."""

    __slots__ = ()

    @classmethod
    def of(cls, value: Any) -> Any:
        """The value packed, or itself if that can't be written, such as half a character."""
        try:
            return cls(orjson.dumps(value))
        except TypeError:
            return value


def dumped(document: Any) -> bytes:
    """The document as JSON. Surrogate halves that meet in a text become one character; others become U+FFFD."""
    try:
        return orjson.dumps(document, default=_fragment)
    except TypeError:  # deeper than 254, a surrogate, or an integer of more than 64 bits
        text = json.dumps(shallow(document), ensure_ascii=False, default=_unpacked)
        return without_surrogates(text).encode()


def _fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, Packed):
        return orjson.Fragment(bytes(value))
    raise TypeError(type(value).__name__)


def _unpacked(value: Packed) -> Any:
    return orjson.loads(bytes(value))


def text_of(value: Any) -> str | None:
    """The value as compact JSON; None if it is nested too deeply to be kept."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return None
    return None if is_deep(text) else text


def is_deep(text: str) -> bool:
    """True if JSON text is nested deeper than `MAX_KEPT_DEPTH`."""
    if text.count("{") + text.count("[") <= MAX_KEPT_DEPTH:
        return False
    depth = 0
    for token in TOKENS.finditer(text):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth > MAX_KEPT_DEPTH:
            return True
    return False


def without_surrogates(text: str) -> str:
    """The text as valid Unicode: pairs of surrogates joined, U+FFFD for each lone one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shallow(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with null for everything nested deeper."""
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return None
    if isinstance(value, dict):
        return {name: shallow(each, depth - 1) for name, each in value.items()}
    return [shallow(each, depth - 1) for each in value]
