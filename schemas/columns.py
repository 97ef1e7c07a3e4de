"""The columns of a record, declared once: the Arrow schemas, the rows and the card derive from this table.

To add a column: add a line here, in the order of data/; a value of that name in `gen.worker.rows`; and, unless every
dataset has it, a condition in `schemas.arrow.columns_of`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from stillhouse.schemas.value_types import ValueType

PLAIN_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_FUNCTION = pa.struct([("name", pa.string()), ("arguments", pa.json_())])
_CALLS = pa.list_(pa.struct([("id", pa.string()), ("type", pa.string()), ("function", _FUNCTION)]))
MESSAGES_WITH_CALLS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", _CALLS)]))
"""`arguments` is JSON (Arrow's extension type), because each tool has its own: `datasets` reads it as a dict, which
chat templates need, and other readers as text."""
MESSAGES_WITH_TOOLS = pa.list_(
    pa.struct([*MESSAGES_WITH_CALLS.value_type, ("tool_call_id", pa.string()), ("name", pa.string())])
)
"""Messages of a prompt that may contain calls and results; a result names its call."""
TOOLS = pa.list_(pa.json_())
"""Each tool has its own schema; `datasets` reads them as dicts."""
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
"""The same form in which `datasets` stores images."""
NAME = pa.dictionary(pa.int32(), pa.string())
_TOP = [("token", pa.string()), ("token_id", pa.int32()), ("logprob", pa.float32())]
_LOGPROBS = pa.list_(pa.struct([*_TOP, ("top", pa.list_(pa.struct(_TOP)))]))
_IDS, _FLOATS, _BYTES = (pa.list_(kind) for kind in (pa.int32(), pa.float32(), pa.binary()))
TIME = pa.timestamp("us", tz="UTC")
VALUES: Mapping[ValueType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
"""The Arrow types of the types that a recipe gives to columns."""


class Column(NamedTuple):
    """A column of data/; rejected/ has the same ones but for `messages`, nearly all nullable."""

    name: str
    kind: pa.DataType
    meaning: str
    """Meaning of the column, for the card."""
    null: bool = False
    """True if the value may be null."""
    always: bool = True
    """False if a dataset has the column only if its recipe asks for it."""

    @property
    def field(self) -> pa.Field:
        """The column in data/."""
        return pa.field(self.name, self.kind, nullable=self.null)


RECORD_COLUMNS: tuple[Column, ...] = (
    Column("record_id", pa.string(), "32 hex digits of the hash of (prompt_key, teacher, parameters, sample)."),
    Column("prompt_id", pa.string(), "The user's id, or the prompt's key."),
    Column("prompt_key", pa.string(), "32 hex digits of the hash of the messages and images as asked."),
    Column("sample", pa.int32(), "Number of the sample among the prompt's answers, from 0."),
    Column("prompt", PLAIN_MESSAGES, "The messages as asked."),
    Column("prompt_ids", _IDS, "The token ids of the prompt, as they were sent.", always=False),
    Column("completion_ids", _IDS, "The token ids that were scored.", always=False),
    Column(
        "images",
        IMAGES,
        "The images at the start of the first user message: each image or its URL, or where it is in the source.",
        null=True,
        always=False,
    ),
    Column(
        "tools",
        TOOLS,
        "The tools that the teacher was offered, as JSON in OpenAI's form.",
        null=True,
        always=False,
    ),
    Column(
        "completion",
        PLAIN_MESSAGES,
        "The assistant's message; with `tool_calls` inside it if the recipe offers tools.",
    ),
    Column("messages", PLAIN_MESSAGES, "Prompt and completion as one conversation.", always=False),
    Column("reasoning", pa.large_string(), "The reasoning text.", null=True),
    Column("reasoning_source", NAME, "Where the reasoning was in the reply.", null=True),
    Column(
        "reasoning_is_summary",
        pa.bool_(),
        "True if the reasoning is the provider's summary of it; null if the provider does not say.",
        null=True,
        always=False,
    ),
    Column(
        "reasoning_signatures",
        pa.string(),
        "JSON of the reasoning's signatures and encrypted parts, in order, as the provider sent them.",
        null=True,
        always=False,
    ),
    Column("finish_reason", NAME, "Why the answer ended, normalised."),
    Column("finish_reason_raw", NAME, "Why the answer ended, in the provider's own term.", null=True),
    Column(
        "tool_calls",
        pa.string(),
        "The tool calls as JSON, in OpenAI's form whatever the provider's.",
        null=True,
    ),
    Column("refusal", pa.string(), "The refusal's text.", null=True),
    Column("refusal_category", NAME, "Category of the refusal, in the provider's own term.", null=True, always=False),
    Column(
        "logprobs",
        _LOGPROBS,
        "Soft labels of datasets of schema versions 1 to 3: one row per token.",
        null=True,
        always=False,
    ),
    Column(
        "token_ids",
        _IDS,
        "The ids of the answer's tokens in the teacher's tokenizer; null if the server gives no ids.",
        null=True,
        always=False,
    ),
    Column("token_logprobs", _FLOATS, "The log-probability of each token.", null=True, always=False),
    Column(
        "top_ids",
        pa.list_(_IDS),
        "For each token, the ids of the most likely tokens at its position, in the server's order; null if the "
        "server gives no ids.",
        null=True,
        always=False,
    ),
    Column(
        "top_logprobs", pa.list_(_FLOATS), "The log-probabilities of the most likely tokens.", null=True, always=False
    ),
    Column("tokens", _BYTES, "In place of `token_ids`: the bytes of each token.", null=True, always=False),
    Column(
        "top_tokens",
        pa.list_(_BYTES),
        "In place of `top_ids`: the bytes of the most likely tokens.",
        null=True,
        always=False,
    ),
    Column("teacher", NAME, "The recipe's name of the teacher that answered."),
    Column("model", NAME, "The model named in the response.", null=True),
    Column("endpoint", NAME, "The host that answered."),
    Column("response_id", pa.string(), "The provider's id of the response.", null=True),
    Column("input_tokens", pa.int64(), "Input tokens as billed, including cached ones.", null=True),
    Column("cached_tokens", pa.int64(), "Input tokens read from the provider's cache.", null=True),
    Column("cache_write_tokens", pa.int64(), "Input tokens written to the provider's cache.", null=True, always=False),
    Column("output_tokens", pa.int64(), "Output tokens as billed, including reasoning.", null=True),
    Column("reasoning_tokens", pa.int64(), "Output tokens that were reasoning.", null=True),
    Column("cost_usd", pa.float64(), "Cost in USD, at the recipe's prices or at those looked up.", null=True),
    Column("asked_at", TIME, "When the answered attempt was sent, UTC."),
    Column("latency_s", pa.float32(), "Seconds from `asked_at` to the reply's last byte."),
    Column("attempts", pa.int16(), "Requests sent for this sample."),
    Column(
        "vote_share",
        pa.float32(),
        "Votes for this answer, over the samples of its prompt that were answered when the vote was held.",
        always=False,
    ),
)
"""All columns that a record can have, in order, without the recipe's `keep` columns."""
PROVIDER_DETAILS = frozenset({"reasoning_is_summary", "reasoning_signatures", "refusal_category", "cache_write_tokens"})
"""Columns that only some providers fill: present if the recipe has a teacher that can fill them, or asks for them."""
LOGPROBS = "logprobs"
"""The column of all datasets of schema versions 1 to 3, whatever their recipe."""
SCORES: Mapping[str, pa.DataType] = {
    "token_ids": _IDS,
    "token_logprobs": _FLOATS,
    "top_ids": pa.list_(_IDS),
    "top_logprobs": pa.list_(_FLOATS),
    "tokens": _BYTES,
    "top_tokens": pa.list_(_BYTES),
}
"""The columns of datasets whose recipe asks for log-probabilities, from schema version 4 on."""
SCORED = ("prompt_ids", "completion_ids", "token_logprobs", "top_ids", "top_logprobs")
"""The columns of datasets of scores (`ask.score`)."""
ANSWERED = frozenset({"prompt", "completion", "reasoning", "reasoning_source", "tool_calls", "refusal"})
"""The columns that datasets of scores lack."""
VOTE_SHARE = "vote_share"
"""The column of datasets whose recipe has a vote."""
CHECKS = "checks"
"""The column with the checks' verdicts, which comes last; its type depends on the recipe."""
MEANINGS = {column.name: column.meaning for column in RECORD_COLUMNS} | {
    CHECKS: "Each check's verdict on the answer: accepted or not, its score and its reason."
}


def checks_type(checks: Mapping[str, Mapping[str, ValueType]]) -> pa.DataType:
    """The type of the column `checks`, given each check's name and its own columns; a check that did not run, because
    an earlier one rejected the answer, is null.
    """
    verdict = [("accepted", pa.bool_()), ("score", pa.float64()), ("detail", pa.string())]
    return pa.struct(
        [
            (name, pa.struct([*verdict, *((column, VALUES[kind]) for column, kind in own.items())]))
            for name, own in checks.items()
        ]
    )


def python_type(kind: pa.DataType) -> Any:
    """The Python type that pyarrow returns for a non-null value of this Arrow type."""
    if pa.types.is_list(kind):
        return list[python_type(kind.value_type)]  # type: ignore[misc] # made at run time
    if pa.types.is_struct(kind):
        return dict[str, Any]
    if pa.types.is_dictionary(kind):
        return python_type(kind.value_type)
    return next(found for is_of, found in _PYTHON if is_of(kind))


_PYTHON: tuple[tuple[Callable[[pa.DataType], bool], type], ...] = (
    (pa.types.is_string, str),
    (pa.types.is_large_string, str),
    (pa.types.is_boolean, bool),
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (pa.types.is_timestamp, datetime),
)
