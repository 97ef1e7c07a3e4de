"""A Completion: a teacher's answer, whatever its finish reason, in terms that hold for every protocol."""

import typing
from typing import Any, Literal, NamedTuple, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refused", "unknown"]
"""Normalised finish reason; the provider's own term is stored beside it."""

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
"""Where in the reply the reasoning was."""


class Usage(NamedTuple):
    """Tokens as billed; null if the teacher did not report them, or reported something that is not a count."""

    input_tokens: int | None = None
    """All input tokens, including cached ones."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    """All output tokens, including reasoning."""
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    """Input tokens that were written to the provider's cache."""


class Scores(typing.Protocol):
    """The log-probabilities of an answer's tokens."""

    def rows(self) -> list[dict[str, Any]] | None:
        """For each token {token, token_id, logprob, top: [{token, token_id, logprob}]}; None if they can't be read."""
        ...


class Completion(NamedTuple):
    """One answer. A named tuple: a frozen dataclass takes five times as long to make."""

    text: str | None
    """The assistant's text without its reasoning; null if there is none, as with a bare tool call."""
    finish_reason: FinishReason
    finish_reason_raw: str | None
    reasoning: str | None = None
    reasoning_source: ReasoningSource | None = None
    tool_calls: str | None = None
    """The tool calls as JSON, in OpenAI's form: {id, type, function: {name, arguments}}."""
    refusal: str | None = None
    scores: Scores | None = None
    """The log-probabilities of its tokens; None if there are none."""
    model: str | None = None
    """The model the response names."""
    response_id: str | None = None
    usage: Usage = Usage()
    markup: bool = False
    """True if the text contains reasoning tags or special tokens outside code and quotes."""
    reasoning_is_summary: bool | None = None
    """True if the reasoning is the provider's summary of it; null if the provider does not say."""
    reasoning_signatures: str | None = None
    """JSON of the reasoning's signatures and encrypted parts, in the order of the reply."""
    refusal_category: str | None = None
    """The provider's category for a refusal."""
    schema_key: str | None = None
    """The name of the JSON Schema that the answer must fit; null if none was asked for."""

    @property
    def logprobs(self) -> list[dict[str, Any]] | None:
        """The rows of its `scores`, built on each call."""
        return None if self.scores is None else self.scores.rows()
