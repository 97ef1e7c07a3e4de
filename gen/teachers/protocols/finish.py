"""Normalises finish reasons of many servers, by families of words, because no list of them is complete."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

from stillhouse.schemas.completion import FinishReason

Finish: TypeAlias = FinishReason | Literal["failed"]
"""`failed`: the server broke off and reports that instead of a reason."""

_FAMILIES: tuple[tuple[Finish, re.Pattern[str]], ...] = (
    # In this order: `max_length_exceeded` is a length, not an error; `content_filter_stop` is a filter, not a stop.
    (
        "content_filter",
        re.compile(r"filter|safety|moderat|sensitive|inspect|polic|prohibit|block|harm|spii|recitation|violat|risk"),
    ),
    ("refused", re.compile(r"refus|declin")),
    ("tool_calls", re.compile(r"tool|function")),
    (
        "length",
        re.compile(r"length|max_?(new_|output_|completion_)?tokens?|context|truncat|token_?limit|too_long|^limit$"),
    ),
    (
        "failed",
        re.compile(r"error|fail|abort|cancel|insufficient|unavailable|interrupt|time(d_)?_?out|disconnect|overload"),
    ),
    ("stop", re.compile(r"^(stop|eos|eot|end|complete|normal|finish|done|success|natural)")),
)


def finish_of(raw: str | None, mapped: Mapping[str, FinishReason]) -> Finish:
    """The reason for a server's word; `mapped` is the recipe's, in which an empty word stands for a missing one."""
    word = raw or ""
    if word in mapped:
        return mapped[word]
    return _family_of(word)


@lru_cache(maxsize=256)  # a server has only a few words, and each answer has one
def _family_of(word: str) -> Finish:
    word = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")
    return next((finish for finish, pattern in _FAMILIES if pattern.search(word)), "unknown")
