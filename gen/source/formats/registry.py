"""The formats of source files, one line each. To add one, add a module beside this file that yields Rows, and a line
here.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from stillhouse.gen.source.formats.arrow_ipc import arrow_schema, read_arrow
from stillhouse.gen.source.formats.delimited import DELIMITERS, read_delimited
from stillhouse.gen.source.formats.json_array import read_json
from stillhouse.gen.source.formats.jsonl import read_jsonl
from stillhouse.gen.source.formats.parquet import parquet_metadata, parquet_schema, read_parquet
from stillhouse.gen.source.formats.passages import read_passages
from stillhouse.gen.source.formats.row import Position, Row
from stillhouse.gen.source.formats.text import Codec
from stillhouse.schemas.source import PASSAGE_CHARS


@dataclass(frozen=True, slots=True)
class Reading:
    """What to read of a file, and from where."""

    columns: Collection[str] | None
    """The wanted columns; None: all."""
    elsewhere: Collection[str]
    """Columns that the file may lack, because the names of its folders give them."""
    start: Position
    codec: Codec | None = None
    """The file's compression."""
    delimiter: str | None = None
    """The delimiter that the recipe states for delimited text."""
    passage_chars: int = PASSAGE_CHARS
    """The longest passage of a document."""


Read = Callable[[BinaryIO, Reading], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file."""

    read: Read
    schema: Callable[[BinaryIO], pa.Schema] | None = None
    """The columns' types, if the file has them."""
    metadata: Callable[[BinaryIO], dict[bytes, bytes]] | None = None
    """The metadata that the file's writer stored, for formats that have any."""
    may_be_compressed: bool = False
    """True if .gz and .zst may follow its suffix."""
    rank: int = 0
    """In a folder, only files of the lowest rank count: files that often lie beside prompts (dataset_info.json,
    README.md) are prompts only if there is nothing else."""


def _jsonl(file: BinaryIO, reading: Reading) -> Iterator[Row]:
    return read_jsonl(file, codec=reading.codec, start=reading.start)


def _json(file: BinaryIO, reading: Reading) -> Iterator[Row]:
    return read_json(file, codec=reading.codec, start=reading.start)


def _passages(file: BinaryIO, reading: Reading) -> Iterator[Row]:
    return read_passages(file, codec=reading.codec, most_chars=reading.passage_chars, start=reading.start)


def _delimited(*likely: str) -> Read:
    def read(file: BinaryIO, reading: Reading) -> Iterator[Row]:
        return read_delimited(
            file,
            codec=reading.codec,
            columns=reading.columns,
            elsewhere=reading.elsewhere,
            delimiters=likely if reading.delimiter is None else (reading.delimiter,),
            start=reading.start,
        )

    return read


def _parquet(file: BinaryIO, reading: Reading) -> Iterator[Row]:
    return read_parquet(file, columns=reading.columns, elsewhere=reading.elsewhere, start=reading.start)


def _arrow(file: BinaryIO, reading: Reading) -> Iterator[Row]:
    return read_arrow(file, columns=reading.columns, elsewhere=reading.elsewhere, start=reading.start)


_TABS_FIRST = _delimited("\t", *DELIMITERS)

FORMATS: Mapping[str, Format] = {
    ".jsonl": Format(_jsonl, may_be_compressed=True),
    ".ndjson": Format(_jsonl, may_be_compressed=True),
    ".json": Format(_json, may_be_compressed=True, rank=1),
    ".csv": Format(_delimited(*DELIMITERS), may_be_compressed=True),
    ".tsv": Format(_TABS_FIRST, may_be_compressed=True, rank=1),
    ".tab": Format(_TABS_FIRST, may_be_compressed=True, rank=1),
    ".parquet": Format(_parquet, schema=parquet_schema, metadata=parquet_metadata),
    ".arrow": Format(_arrow, schema=arrow_schema),
    ".txt": Format(_passages, may_be_compressed=True, rank=2),
    ".md": Format(_passages, may_be_compressed=True, rank=2),
}
"""Formats by the suffix of a file's name."""
SUPPORTED = ".jsonl, .ndjson, .json, .csv, .tsv, .txt or .md (also with .gz or .zst), .parquet, .arrow"
"""The suffixes, for messages."""
