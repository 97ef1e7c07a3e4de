"""Arrow columns from rows' values. Conversations come as tuples, and are built without an object per cell."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from stillhouse.gen.teachers.given_scores import GivenScores
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.gen.worker.long_values import array
from stillhouse.gen.worker.score_columns import ID_COLUMNS, Arrays, id_column, score_columns
from stillhouse.schemas.arrow import MESSAGES
from stillhouse.schemas.columns import MESSAGES_WITH_CALLS, MESSAGES_WITH_TOOLS, PLAIN_MESSAGES, SCORES, TOOLS
from stillhouse.schemas.tool_call import ToolCall

Conversation: TypeAlias = Sequence[tuple[Any, ...]] | None
"""Messages as (role, content), optionally followed by tool calls, and then by a result's call id and name."""


def columns(values: Sequence[Sequence[Any]], schema: pa.Schema) -> list[pa.Array]:
    """The columns of this schema, from the values of each."""
    scores: Arrays = {}
    made = []
    for each, field in zip(values, schema, strict=True):
        if field.name in SCORES and any(isinstance(value, (TokenScores, GivenScores)) for value in each):
            scores = scores or score_columns(each)
            made.append(scores[field.name])
        elif field.name in ID_COLUMNS and any(isinstance(value, bytes) for value in each):
            made.append(id_column(each))
        else:
            made.append(column(each, field))
    return made


def column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """A column of these Python values."""
    kind = field.type
    if _is_conversation(field):
        if kind == MESSAGES_WITH_TOOLS:
            return _messages_with_tools(values)
        return _messages_with_calls(values) if kind == MESSAGES_WITH_CALLS else _messages(values)
    if kind == TOOLS:
        return _tools(values)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return array(values, kind)


def _is_conversation(field: pa.Field) -> bool:
    """A kept column may have the name `messages` if the dataset has no such column; it is nullable, ours is not."""
    return field.name in ("prompt", "completion") or (field.name == MESSAGES and not field.nullable)


def _messages(values: Sequence[Conversation]) -> pa.Array:
    roles = [message[0] for messages in values for message in messages or ()]
    contents = [message[1] for messages in values for message in messages or ()]
    fields = [pa.array(roles, pa.string()), array(contents, pa.string())]
    flat = pa.StructArray.from_arrays(fields, fields=list(PLAIN_MESSAGES.value_type))
    return pa.ListArray.from_arrays(_offsets(values), flat, type=PLAIN_MESSAGES)


def _messages_with_calls(values: Sequence[Conversation]) -> pa.Array:
    calls = [message[2] if len(message) > 2 else None for messages in values for message in messages or ()]
    message_type = MESSAGES_WITH_CALLS.value_type
    fields = [*_messages(values).values.flatten(), _calls(calls, message_type.field("tool_calls").type)]
    flat = pa.StructArray.from_arrays(fields, fields=list(message_type))
    return pa.ListArray.from_arrays(_offsets(values), flat, type=MESSAGES_WITH_CALLS)


def _messages_with_tools(values: Sequence[Conversation]) -> pa.Array:
    extras = [tuple(message[3:5]) or (None, None) for messages in values for message in messages or ()]
    message_type = MESSAGES_WITH_TOOLS.value_type
    ids, names = (pa.array([extra[at] for extra in extras], pa.string()) for at in (0, 1))
    fields = [*_messages_with_calls(values).values.flatten(), ids, names]
    flat = pa.StructArray.from_arrays(fields, fields=list(message_type))
    return pa.ListArray.from_arrays(_offsets(values), flat, type=MESSAGES_WITH_TOOLS)


def _tools(values: Sequence[Sequence[str] | None]) -> pa.Array:
    """Lists of JSON texts."""
    texts = pa.array([text for each in values for text in each or ()], pa.string())
    flat = pa.ExtensionArray.from_storage(TOOLS.value_type, texts)
    return pa.ListArray.from_arrays(_offsets(values), flat, type=TOOLS)


def _calls(values: Sequence[Sequence[ToolCall] | None], kind: pa.DataType) -> pa.Array:
    calls = [call for each in values for call in each or ()]
    call_type = kind.value_type
    function_type = call_type.field("function").type
    names = pa.array([call.name for call in calls], pa.string())
    arguments = pa.ExtensionArray.from_storage(
        function_type.field("arguments").type, array([call.arguments for call in calls], pa.string())
    )
    function = pa.StructArray.from_arrays([names, arguments], fields=list(function_type))
    ids = pa.array([call.id for call in calls], pa.string())
    types = pa.array([call.type for call in calls], pa.string())
    flat = pa.StructArray.from_arrays([ids, types, function], fields=list(call_type))
    return pa.ListArray.from_arrays(_offsets(values), flat, type=kind)


def _offsets(values: Sequence[Sequence[Any] | None]) -> pa.Array:
    """Where each list begins, null for a null list, and the end of the last one."""
    offsets: list[int | None] = []
    end = 0
    for each in values:
        offsets.append(None if each is None else end)
        end += len(each or ())
    return pa.array([*offsets, end], pa.int32())
