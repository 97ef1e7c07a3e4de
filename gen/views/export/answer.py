"""An answer as exports see it, read from data/ or rejected/, whatever the dataset's schema version."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.gen.views.parquet_files import open_parquet
from stillhouse.schemas.arrow import IMAGES, TOOLS
from stillhouse.schemas.columns import CHECKS
from stillhouse.schemas.tool_call import ToolCall

_COLUMNS = (
    "record_id",
    "prompt_key",
    "sample",
    "prompt",
    IMAGES,
    TOOLS,
    "completion",
    "reasoning",
    "tool_calls",
    CHECKS,
)
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one prompt."""

    record_id: str
    prompt_key: str
    sample: int
    prompt: tuple[Mapping[str, Any], ...]
    """The messages as asked, in the form of chat templates: calls have their arguments as objects."""
    text: str
    reasoning: str | None
    """The reasoning; also None if the dataset has it inside the text."""
    calls: tuple[ToolCall, ...]
    scores: Mapping[str, float | None]
    """Score by check; null if it did not run or gives no score."""
    rejected_as: str | None = None
    """The answer's reject reason; None for a record."""
    tools: tuple[str, ...] | None = None
    """The tools in the row, as JSON in OpenAI's form; None if the dataset has no such column."""
    beyond: str | None = None
    """What the prompt contains besides text, in words; None if nothing."""


def answers_in(store: ReadableStore, key: str) -> Iterator[Answer]:
    """The answers in a file of data/ or rejected/, in order; rows without an answer are left out.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    with open_parquet(store, key) as file:
        names = [name for name in (*_COLUMNS, "reject_reason") if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            for row in batch.to_pylist():
                if row["completion"] and row["record_id"]:
                    yield _answer(row)


def _answer(row: Mapping[str, Any]) -> Answer:
    verdicts = row.get(CHECKS) or {}
    return Answer(
        record_id=row["record_id"],
        prompt_key=row["prompt_key"],
        sample=row["sample"],
        prompt=tuple(map(_message, row["prompt"])),
        text=row["completion"][0]["content"] or "",
        reasoning=row["reasoning"],
        calls=tool_calls_in(row["tool_calls"]) or (),
        scores={name: verdict and verdict["score"] for name, verdict in verdicts.items()},
        rejected_as=row.get("reject_reason"),
        tools=None if row.get(TOOLS) is None else tuple(row[TOOLS]),
        beyond=_beyond(row),
    )


def _beyond(row: Mapping[str, Any]) -> str | None:
    if row.get(IMAGES):
        return "images: read data/ with `datasets`, which trainers of vision models take as it is"
    return None


def _message(stored: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": stored["role"], "content": stored["content"] or ""}
    if calls := stored.get("tool_calls"):
        message["tool_calls"] = [called(call["id"], call["type"], **call["function"]) for call in calls]
    return message | {name: stored[name] for name in ("tool_call_id", "name") if stored.get(name) is not None}


def called(id: str | None, type: str, name: str, arguments: str) -> dict[str, Any]:
    """A call in the form of chat templates."""
    known = {} if id is None else {"id": id}
    return known | {"type": type, "function": {"name": name, "arguments": json.loads(arguments)}}
