"""Finds the answer in a document: the document itself, the first match in a list, or the content of a gateway's
envelope.
"""

from collections.abc import Callable
from typing import Any

_WRAPPERS = ("data", "result", "response", "output", "body", "completion", "message")
_MOST_DEPTH = 3


def answer_in(document: Any, is_answer: Callable[[dict[str, Any]], bool], *, depth: int = 0) -> dict[str, Any] | None:
    """The first object that is one; None if there is none."""
    if depth > _MOST_DEPTH:
        return None
    if isinstance(document, list):
        inner: list[Any] = document[:4]
    elif not isinstance(document, dict):
        return None
    elif is_answer(document):
        return document
    else:
        inner = [document.get(name) for name in _WRAPPERS]
    return next((found for each in inner if (found := answer_in(each, is_answer, depth=depth + 1))), None)
