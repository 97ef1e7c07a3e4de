"""A Completion: a teacher's answer, whatever its finish reason, in terms that hold for every protocol."""

import typing
from typing import Any, Literal, NamedTuple, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refused", "unknown"]
"""Normalised; the provider's own word stands beside it."""

ReasoningSource: TypeAlias = Literal[
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "think_tag",
    "content_part",
    "reasoning_item",  # OpenAI's Responses
    "thought_part",  # Gemini's
    "thinking",  # Anthropic's blocks
    "reasoningContent",  # Bedrock's
]
"""Where the wire hid the reasoning."""


class Usage(NamedTuple):
    """Tokens as billed; null if the teacher did not say, or said something that is not a count."""

    input_tokens: int | None = None
    """All input tokens, cached ones included."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    """All output tokens, reasoning included."""
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    """Of the input tokens, those written to the provider's cache."""


class Scores(typing.Protocol):
    """The log-probabilities of an answer's tokens."""

    def rows(self) -> list[dict[str, Any]] | None:
        """Per token {token, token_id, logprob, top: [{token, token_id, logprob}]}; None if they can't be read."""
        ...


class Completion(NamedTuple):
    """One answer. A named tuple: a frozen dataclass takes five times as long to make."""

    text: str | None
    """The assistant's text without its reasoning; null where it is none, as with a bare tool call."""
    finish_reason: FinishReason
    finish_reason_raw: str | None
    reasoning: str | None = None
    reasoning_source: ReasoningSource | None = None
    tool_calls: str | None = None
    """The tool calls as JSON, in OpenAI's form: {id, type, function: {name, arguments}}."""
    refusal: str | None = None
    scores: Scores | None = None
    """The log-probabilities of its tokens; None if it came without."""
    model: str | None = None
    """The model the response names."""
    response_id: str | None = None
    usage: Usage = Usage()
    markup: bool = False
    """The text holds tags of thoughts or special tokens outside code and quotes."""
    reasoning_is_summary: bool | None = None
    """True if the reasoning is the provider's summary of it; null if the provider does not say."""
    reasoning_signatures: str | None = None
    """JSON of the signatures and the encrypted parts of the reasoning, in order, as the wire gave them."""
    refusal_category: str | None = None
    """The provider's word for what a refusal is about."""
    schema_key: str | None = None
    """The name of the JSON Schema that it was asked to fit; null if none was asked for."""

    @property
    def logprobs(self) -> list[dict[str, Any]] | None:
        """The rows of its `scores`, made anew each time."""
        return None if self.scores is None else self.scores.rows()
