"""A Record: one row of the dataset, and its id.

The id hashes what decides an answer's place (prompt, teacher, parameters, sample number), and nothing that the answer
says, so the same question is never stored twice.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field, JsonValue, create_model

from stillhouse.schemas.columns import RECORD_COLUMNS, python_type

RejectReason: TypeAlias = Literal[
    "duplicate_prompt",
    "duplicate_answer",
    "length",
    "content_filter",
    "refused",
    "empty",
    "only_reasoning",  # all text is in the reasoning
    "markup",  # the text contains reasoning tags or special tokens
    "prompt_truncated",
    "unknown_finish",
    "unasked_tool_call",  # the recipe offers no tools, so records have no place for a call
    "invalid_tool_call",  # it names no function, or its arguments are not a JSON object
    "unknown_tool",  # it calls a tool that was not offered
    "invalid_arguments",  # a call's arguments do not fit the tool's schema
    "not_selected",  # accepted, but other answers to its prompt were selected, or are enough
]
"""Why an answer is not in the dataset."""

NOT_SELECTED: RejectReason = "not_selected"


_FIELDS: dict[str, Any] = {
    column.name: (
        python_type(column.kind) | None if column.null else python_type(column.kind),
        Field(description=column.meaning),
    )
    for column in RECORD_COLUMNS
    if column.always
}
Record: type[BaseModel] = create_model("Record", __doc__="A row of data/ of a plain dataset.", **_FIELDS)
"""A row of data/ of a plain dataset, without the recipe's `keep` columns, as pyarrow returns it to Python."""


class RecordIds:
    """Makes the record ids of one teacher and one set of parameters."""

    def __init__(self, *, teacher: str, model: str, parameters: Mapping[str, JsonValue]) -> None:
        text = json.dumps([teacher, model, parameters], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self._hash = hashlib.blake2b(text.encode(), digest_size=16, person=b"stillhouse-rec")

    def of(self, key: bytes, sample: int) -> str:
        """The record id of a sample of the prompt with this 16-byte key: 32 hex digits."""
        digest = self._hash.copy()
        digest.update(key + sample.to_bytes(4, "big"))
        return digest.hexdigest()
