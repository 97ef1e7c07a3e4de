"""A Record: one row of the dataset, and its id.

The id hashes what decides an answer's place (prompt, teacher, parameters, sample number) and nothing the answer says,
so that the same question is never filed twice.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

from stillhouse.schemas.completion import ReasoningSource

RejectReason: TypeAlias = Literal[
    "duplicate_prompt",
    "duplicate_answer",
    "length",
    "content_filter",
    "refused",
    "empty",
    "only_reasoning",  # all text stands in the reasoning
    "markup",  # tags of thoughts or special tokens are left in the text
    "prompt_truncated",
    "unknown_finish",
    "unasked_tool_call",  # the recipe offers no tools, so records have no place for a call
    "invalid_tool_call",  # it names no function, or its arguments are not a JSON object
]
"""Why something seen is not in the dataset."""


class MessageRow(BaseModel):
    """A message as a row of a list column."""

    role: str
    content: str


class TopLogprob(BaseModel):
    """An alternative at one place of an answer."""

    token: str
    token_id: int | None
    logprob: float


class TokenLogprob(TopLogprob):
    """A token of an answer with the alternatives the teacher weighed."""

    top: list[TopLogprob]


class Record(BaseModel):
    """One row of data/, less the recipe's `keep` columns; `schemas.arrow` holds the same as an Arrow schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    record_id: str
    """32 hex digits of the hash of (prompt_key, teacher, parameters, sample)."""
    prompt_id: str
    """The user's id, or the prompt's key."""
    prompt_key: str
    """32 hex digits of the hash of the messages as asked."""
    sample: int
    """Which of the prompt's answers, from 0."""
    prompt: list[MessageRow]
    """The messages as asked."""
    completion: list[MessageRow]
    """The assistant's message; where the recipe offers tools, with `tool_calls` inside it."""
    reasoning: str | None
    """The reasoning text."""
    reasoning_source: ReasoningSource | None
    """Where the wire hid it."""
    finish_reason: str
    """Why the answer ends, normalised."""
    finish_reason_raw: str | None
    """The provider's own word."""
    tool_calls: str | None
    """The tool calls as JSON, as the provider sent them."""
    refusal: str | None
    """The refusal's text."""
    logprobs: list[TokenLogprob] | None
    """Soft labels, a row a token."""
    teacher: str
    """The recipe's name of the teacher that answered."""
    model: str | None
    """The model the response names."""
    endpoint: str
    """The host that answered."""
    response_id: str | None
    """The provider's id of the response."""
    input_tokens: int | None
    """As billed, cached ones included."""
    cached_tokens: int | None
    """Of these, read from the provider's cache."""
    output_tokens: int | None
    """As billed, reasoning included."""
    reasoning_tokens: int | None
    """Of these, reasoning."""
    cost_usd: float | None
    """By the recipe's prices."""
    asked_at: datetime
    """When the answered attempt was sent, UTC."""
    latency_s: float
    """Seconds from there to the last byte."""
    attempts: int
    """Requests sent for this sample."""


MEANINGS: Mapping[str, str] = {
    **{name: field.description or "" for name, field in Record.model_fields.items()},
    "messages": "Prompt and completion as one conversation.",
}
"""Of each column that a dataset can have by itself."""


class RecordIds:
    """Makes the record ids of one teacher under one set of parameters."""

    def __init__(self, *, teacher: str, model: str, parameters: Mapping[str, JsonValue]) -> None:
        text = json.dumps([teacher, model, parameters], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self._hash = hashlib.blake2b(text.encode(), digest_size=16, person=b"stillhouse-rec")

    def of(self, key: bytes, sample: int) -> str:
        """The record id of the sample of the prompt with this 16-byte key: 32 hex digits."""
        digest = self._hash.copy()
        digest.update(key + sample.to_bytes(4, "big"))
        return digest.hexdigest()
