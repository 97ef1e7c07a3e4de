"""A Row: one row of a source file, or why it isn't one, and the Position from which reading can resume."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stillhouse.gen.source.columns import instead

MAX_ROW_BYTES = 16 * 2**20
"""The largest row that is read; a larger one is a bad row and is never held in memory as a whole."""

TOO_LARGE = f"the row is larger than {MAX_ROW_BYTES // 2**20} MiB"


class FormatError(Exception):
    """The file is not what its name says; the message leaves out the file's name."""


class MissingColumn(FormatError):
    """The file lacks a wanted column.

    `names`: the columns it has. `likely`: columns that may be meant, those or more. `of`: " from the header", if it has
    one.
    """

    def __init__(self, column: str, *, names: Sequence[str], likely: Iterable[str] | None = None, of: str = "") -> None:
        has = f"{of}, which has" if of else "; the file has"
        super().__init__(f"the column {column!r} is missing{instead(column, names, has=has, likely=likely)}")
        self.column = column


class Position(NamedTuple):
    """Where a row starts; the default is the start of a file. Reading resumes from a position that came with a Row."""

    row: int = 0
    """Number of rows before it in the file; a blank line is not a row, a bad row is one."""
    offset: int = 0
    """Bytes before it, decompressed in .gz and .zst; 0 in Parquet and Arrow."""
    line: int = 1
    """The line it starts on, counted from 1; in Parquet and Arrow the row, counted from 1."""


class Row(NamedTuple):
    """A row of a file. Exactly one of `values` and `bad` is given."""

    at: Position
    values: dict[str, Any] | None
    """The wanted columns that the row has, and perhaps others."""
    bad: str | None
    """Why it is not a row, without its content."""


@dataclass(frozen=True, slots=True)
class OddNumber:
    """A JSON number that neither Python nor Parquet can represent; a row that does not use it is still good."""

    literal: str

    def __str__(self) -> str:
        return self.literal
