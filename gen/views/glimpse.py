"""One record to show when a run ends: the question and the answer, each on one line of a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.inert import inert
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.parquet_files import open_parquet

MAX_CHARS = 240
"""Maximum length shown of a prompt or an answer."""
END_CHARS = 60
"""How many of these characters show the end of a text that is cut."""
MAX_SHARDS = 8
"""Maximum number of shards opened in search of a record; a shard may have none."""
_COLUMNS = ("prompt_id", "teacher", "prompt", "completion", "tool_calls")


def glimpse(dataset: DatasetReader) -> str | None:
    """A record of one of the last shards, on three lines; None if they have none.

    Raises:
        DatasetError: a shard is damaged.
        StoreAway: the store does not answer.
    """
    for chunk in dataset.shards[: -MAX_SHARDS - 1 : -1]:
        if (row := _first_row(dataset.store, chunk.data_key)) is not None:
            if "completion" not in row:  # scores
                return None
            answer = _last(row["completion"]) or row.get("tool_calls") or ""
            title = f"one answer by {_line(row['teacher'])}, to {_line(row['prompt_id'])}:"
            return f"{title}\n  asked      {_line(_last(row['prompt']))}\n  answered   {_line(answer)}"
    return None


def _first_row(store: ReadableStore, key: str) -> Mapping[str, Any] | None:
    with open_parquet(store, key) as file:
        names = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(1, columns=names):
            if len(batch):
                row: dict[str, Any] = batch.to_pylist()[0]
                return row
    return None


def _last(messages: Iterable[Mapping[str, str | None]] | None) -> str:
    contents = [message["content"] or "" for message in messages or ()]
    return contents[-1] if contents else ""


def _line(text: str) -> str:
    """The text on one line, cut to size, with nothing in it that acts on a terminal."""
    words = " ".join(text[: 4 * MAX_CHARS].split())
    if len(words) <= MAX_CHARS and len(text) <= 4 * MAX_CHARS:
        return inert(words)
    end = " ".join(text[-4 * MAX_CHARS :].split())[-END_CHARS:]  # where a solution states its result
    return inert(f"{words[: MAX_CHARS - END_CHARS - 1]}…{end}")
