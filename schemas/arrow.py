"""The Arrow schemas of the stored files: data/, rejected/, failed/, raw/ and the index.

A dataset written by a newer version (`version.py`) is refused. A dataset keeps the columns of the schema version it was
created with; columns that its recipe does not use are absent.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from stillhouse.schemas.columns import (
    ANSWERED,
    CHECKS,
    LOGPROBS,
    MESSAGES_WITH_CALLS,
    MESSAGES_WITH_TOOLS,
    NAME,
    PLAIN_MESSAGES,
    PROVIDER_DETAILS,
    RECORD_COLUMNS,
    SCORED,
    SCORES,
    TIME,
    VOTE_SHARE,
    checks_type,
)
from stillhouse.schemas.identity import (
    asks_with_tools,
    checks_in,
    has_images,
    has_votes,
    offers_tools,
    scores,
    wants_scores,
)


def _column(name: str, kind: pa.DataType, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null)


def _data(wanted: Set[str]) -> pa.Schema:
    """The columns that every record has, plus those of the optional ones that are named."""
    return pa.schema([column.field for column in RECORD_COLUMNS if column.always or column.name in wanted])


def _rejected(wanted: Set[str]) -> pa.Schema:
    return pa.schema(
        [
            *(field.with_nullable(field.name not in ("prompt_id", "prompt_key")) for field in _data(wanted)),
            _column("reject_reason", NAME),
            _column("duplicate_of", pa.string(), null=True),
        ]
    )


RECORD = _data(frozenset())
"""A record of a plain dataset, without the `keep` columns."""

REJECTED = _rejected(frozenset())
"""Answers that are not in the dataset. `duplicate_of`: the prompt id asked instead, or the record id of the equal
answer."""

FAILED = pa.schema(
    [
        _column("record_id", pa.string(), null=True),
        _column("prompt_id", pa.string(), null=True),
        _column("prompt_key", pa.string(), null=True),
        _column("sample", pa.int32(), null=True),
        _column("prompt", PLAIN_MESSAGES, null=True),
        _column("teacher", NAME, null=True),
        _column("endpoint", NAME, null=True),
        _column("kind", NAME),
        _column("status", pa.int16(), null=True),
        _column("message", pa.string()),
        _column("body_head", pa.string(), null=True),
        _column("attempts", pa.int16()),
        _column("maybe_billed", pa.int16()),
        _column("failed_at", TIME, null=True),
        _column("file", pa.string(), null=True),
        _column("line", pa.int64(), null=True),
    ]
)
"""Samples given up on and bad rows (which have file and line, but neither id nor sample)."""

RAW = pa.schema(
    [
        _column("record_id", pa.string()),
        _column("attempt", pa.int16()),
        _column("status", pa.int16()),
        _column("endpoint", NAME),
        _column("received_at", TIME),
        _column("body", pa.large_binary()),
    ]
)
"""The providers' response bodies, unchanged."""

INDEX = pa.schema(
    [
        _column("file", pa.int32()),
        _column("row", pa.int64()),
        _column("line", pa.int64()),
        _column("offset", pa.int64()),
        _column("chunk", pa.int32()),
        _column("fate", pa.dictionary(pa.int8(), pa.string())),
        _column("key", pa.binary(16), null=True),
        _column("prompt_id", pa.string(), null=True),
        _column("detail", pa.string(), null=True),
        _column("again", pa.list_(pa.struct([("sample", pa.int32()), ("kind", pa.string())])), null=True),
        _column("earlier", pa.list_(pa.struct([("generation", pa.int32()), ("chunk", pa.int32())])), null=True),
        _column("need", pa.int32(), null=True),
        _column("teacher", pa.int16(), null=True),
    ]
)
"""One row per source row. fate: ask, duplicate (`detail`: the prompt id asked instead) or bad (`detail`: the reason).

A retry generation has one row per prompt: only the samples in `again` are asked, each with the kind of Failure it was,
and `earlier` names the chunks that hold the prompt's samples so far. Both are null in a generation of source rows.
`need`: how many accepted answers the prompt lacks; asking stops once it has them. Null if all samples in `again` are
asked.

Under `route: each`, a retry generation has one row per prompt and teacher; `teacher` is the teacher's position in the
recipe. The column is left out if it is null throughout.
"""


IMAGES = "images"
"""The column with the prompts' images, if the recipe names columns with images."""

TOOLS = "tools"
"""The column with the tools, if `ask.tools` or `source.tools` offers some."""

MESSAGES = "messages"
"""The column with prompt and completion as one conversation, if the dataset has it."""

Calls: TypeAlias = Literal["beside", "inside", "nowhere"]
"""Where a dataset's records keep tool calls: only in the column `tool_calls` (schema versions 1 and 2), also inside the
assistant's message, or nowhere because the recipe offers no tools. Plain datasets must not have the key: many chat
templates fail on a message with `tool_calls` but no calls."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The stored columns of one dataset."""

    version: int
    """The schema version that the dataset was created with."""
    data: pa.Schema
    rejected: pa.Schema
    failed: pa.Schema
    raw: pa.Schema
    calls: Calls
    has_messages: bool
    """True if data/ has the column `messages`."""
    checks: tuple[str, ...] = ()
    """Names of the checks whose verdicts are in the column `checks`."""
    has_votes: bool = False
    """True if there is a column `vote_share`."""
    images: Literal["reference", "embed"] | None = None
    """What the column `images` holds; None if there is no such column."""

    def with_kept(self, kept: Sequence[pa.Field]) -> "Columns":
        """The same schema with the recipe's `keep` columns at the end of each file but raw.

        Raises:
            ValueError: a kept column has a reserved name.
        """
        for field in kept:
            if any(field.name in schema.names for schema in (self.data, self.rejected, self.failed)):
                raise ValueError(
                    f"keep: the column {field.name!r} has the name of a column of the dataset; "
                    f"give it another name: `as: source_{field.name}`"
                )
        nullable = [field.with_nullable(True) for field in kept]  # noqa: FBT003 - takes no name
        data, rejected, failed = (pa.schema([*schema, *nullable]) for schema in (self.data, self.rejected, self.failed))
        return replace(self, data=data, rejected=rejected, failed=failed)


def columns_of(version: int, identity: Mapping[str, Any]) -> Columns:
    """The columns, without those of `keep`, of a dataset with this identity and schema version.

    Versions 1 and 2 have the same columns; from version 3 on they depend on what the recipe asks for. Up to version 3,
    all datasets have the column `logprobs`.
    """
    both = frozenset[str]()
    if version < 4:
        both |= {LOGPROBS}
    elif scores(identity):
        both |= {*SCORED}
    elif wants_scores(identity):
        both |= {*SCORES}
    if version < 3:
        return Columns(version, _data(both), _rejected(both), FAILED, RAW, calls="beside", has_messages=False)
    if identity.get("provider_details"):
        both |= PROVIDER_DETAILS
    if has_votes(identity):
        both |= {VOTE_SHARE}
    if has_images(identity):
        both |= {IMAGES}
    if offers_tools(identity):
        both |= {TOOLS}
    wanted = both | {MESSAGES} if identity.get(MESSAGES) else both
    data, rejected = _data(wanted), _rejected(both)
    if scores(identity):
        data, rejected = (
            pa.schema([field for field in each if field.name not in ANSWERED]) for each in (data, rejected)
        )
    calls: Calls = "nowhere"
    if asks_with_tools(identity):
        data, rejected, calls = _with_calls(data), _with_calls(rejected), "inside"
    failed = FAILED
    if offers_tools(identity) and identity.get("source", {}).get("messages"):
        data, rejected, failed = (_with_results(schema) for schema in (data, rejected, failed))
    checks = checks_in(identity)
    if checks:
        data = data.append(pa.field(CHECKS, checks_type(checks), nullable=False))
        place = rejected.get_field_index("reject_reason")
        rejected = rejected.insert(place, pa.field(CHECKS, checks_type(checks)))
    return Columns(
        version,
        data,
        rejected,
        failed,
        RAW,
        calls,
        has_messages=MESSAGES in wanted,
        checks=tuple(checks),
        has_votes=VOTE_SHARE in both,
        images=identity.get(IMAGES, "reference") if has_images(identity) else None,
    )


def _with_calls(schema: pa.Schema) -> pa.Schema:
    """The schema with tool calls inside the assistant's messages."""
    names = ("completion", MESSAGES)
    return pa.schema([field.with_type(MESSAGES_WITH_CALLS) if field.name in names else field for field in schema])


def _with_results(schema: pa.Schema) -> pa.Schema:
    """The schema with calls and their results inside the prompt's conversation."""
    names = ("prompt", MESSAGES)
    return pa.schema([field.with_type(MESSAGES_WITH_TOOLS) if field.name in names else field for field in schema])
