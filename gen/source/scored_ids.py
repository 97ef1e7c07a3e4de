"""The token ids in a row that a teacher must score."""

from collections.abc import Mapping
from typing import Any

from stillhouse.gen.source.columns import is_in, value_of
from stillhouse.gen.source.conversation import NoPrompt, kind_of
from stillhouse.schemas.score import Score
from stillhouse.schemas.scored import Scored

_MAX_ID = 2**31
"""Ids are int32."""


def scored_of(values: Mapping[str, Any], score: Score) -> Scored:
    """The row's ids.

    Raises:
        NoPrompt: they are not lists of ids; or one is empty, because the very first token has no score.
    """
    return Scored.of(_ids(values, score.prompt_ids), _ids(values, score.completion_ids))


def _ids(values: Mapping[str, Any], name: str) -> list[int]:
    found = value_of(values, name)
    if found is None:
        raise NoPrompt(f"column {name!r} is {'null' if is_in(values, name) else 'missing'}")
    if not isinstance(found, list):
        raise NoPrompt(f"column {name!r}: expected a list of token ids, got {kind_of(found)}")
    for each in found:
        if type(each) is not int:
            raise NoPrompt(f"column {name!r}: expected whole numbers as token ids, got {kind_of(each)} among them")
    if not found:
        raise NoPrompt(f"column {name!r}: expected at least one token id, got an empty list")
    if min(found) < 0 or max(found) >= _MAX_ID:
        raise NoPrompt(f"column {name!r}: expected ids from 0 to {_MAX_ID - 1:,}, got {min(found):,} to {max(found):,}")
    return found
