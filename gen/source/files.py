"""A source's files and their rows.

The rows have a fixed order, so every reader of a source sees the same sequence. A file that can't be read is a
SourceError that names it; a row that can't be read is a bad Row. `gen.source.survey` finds the files.
"""

import functools
import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from stillhouse.gen.errors import ColumnMissing, SourceError
from stillhouse.gen.source.columns import column_of
from stillhouse.gen.source.dataset_folder import ONLY_REJECTED
from stillhouse.gen.source.formats.columnar import check_columns
from stillhouse.gen.source.formats.registry import FORMATS, SUPPORTED, Reading
from stillhouse.gen.source.formats.row import FormatError, MissingColumn, Position, Row
from stillhouse.gen.source.formats.text import Codec
from stillhouse.gen.source.kept_columns import kept_field
from stillhouse.gen.source.kept_types import OwnType, check_frozen, settled
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.schemas.location import S3Location
from stillhouse.schemas.source import Source

_READERS = 16
"""Number of files whose footers are read at a time: on S3 each takes a few round trips."""
_CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd"}
Format: TypeAlias = tuple[str, Codec | None]
"""The kind, such as '.jsonl', and its compression."""
DIGESTED_BYTES = 2**20
"""Bytes of a file's head and tail: if people append, cut or rewrite, one of them changes, or the size."""
START = Position()
"""The start of a file."""
START_OF_FILE = (START.row, START.offset, START.line)
"""The start of a file, as the index stores it."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the source, as it was found."""

    url: str
    """An absolute path, or s3://bucket/key."""
    size: int
    """The file's size in bytes."""
    etag: str
    """Changes with the content."""


def read_rows(
    file: SourceFile, *, source: Source, columns: Collection[str] | None = None, start: Position = START
) -> Iterator[Row]:
    """The file's rows from `start` on, with the wanted columns (None: all); memory does not grow with the file.

    A JSON row may lack columns. Folders named `column=value` add a column that the file lacks. Rows before a defect in
    the file are yielded, except those in its last megabyte.

    Raises:
        SourceError: the file is gone, does not match `file`, is corrupt or cut off, or lacks a wanted column.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    given = _given_columns(file.url, source)
    if not given:
        yield from _rows(file, source, columns, frozenset(), start)
        return
    for row in _rows(file, source, columns, given.keys(), start):
        yield row if row.values is None else Row(row.at, {**given, **row.values}, None)


def _rows(
    file: SourceFile, source: Source, columns: Collection[str] | None, elsewhere: Collection[str], start: Position
) -> Iterator[Row]:
    kind, codec = known_format(file.url)
    if file.size == 0 and codec is not None:
        raise SourceError(f"{file.url} is empty, which a compressed file never is: write it again")
    with _opened(file, source) as stream:
        reading = Reading(columns, elsewhere, start, codec, source.delimiter, source.passage_chars)
        yield from FORMATS[kind].read(stream, reading)


def _given_columns(url: str, source: Source) -> dict[str, str | None]:
    """Columns that a file's rows have even if the file lacks them."""
    return {**(dict.fromkeys(ONLY_REJECTED) if source.rejected else {}), **folder_columns(url)}


_NO_FOLDER_VALUE = "__HIVE_DEFAULT_PARTITION__"


def folder_columns(url: str) -> dict[str, str | None]:
    """Hive-style columns from the folders above a file: `lang=de/part-0.parquet`."""
    pairs = (folder.partition("=") for folder in url.split("/")[:-1] if "=" in folder)
    return {unquote(name): None if value == _NO_FOLDER_VALUE else unquote(value) for name, _, value in pairs if name}


def kept_fields(
    files: Sequence[SourceFile], *, source: Source, frozen: Sequence[pa.Field] | None = None
) -> tuple[pa.Field, ...]:
    """The kept columns as the plan freezes them: of the declared type, else of a type that holds all files' values.

    `frozen`: the types of the dataset's first plan, which stay fixed, and which the files must fit.

    Raises:
        SourceError: a file is gone, changed or unreadable, lacks a kept column, or has one whose type does not fit
            another file's, or the frozen one.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        own = list(pool.map(lambda file: _own_types(file, source), files)) if source.keep else []
    fields = []
    for place, keep in enumerate(source.keep):
        kinds = [OwnType(file.url, types[keep.name]) for file, types in zip(files, own, strict=True)]
        if keep.type is not None:
            fields.append(kept_field(keep))
        elif frozen is None:
            fields.append(kept_field(keep, settled(keep.name, kinds)))
        else:
            check_frozen(keep.name, frozen[place].type, kinds)
            fields.append(frozen[place])
    return tuple(fields)


def _own_types(file: SourceFile, source: Source) -> dict[str, pa.DataType | None]:
    """The kept columns' types according to a Parquet or Arrow file's schema; None for text."""
    kind, _ = known_format(file.url)
    names = [keep.name for keep in source.keep]
    if (schema_of := FORMATS[kind].schema) is None:
        return dict.fromkeys(names)
    with _opened(file, source) as stream:
        schema = schema_of(stream)
        check_columns(schema, names, elsewhere=_given_columns(file.url, source))
        return {name: found[1] if (found := column_of(schema, name)) else None for name in names}


def format_of(name: str) -> Format | None:
    """The format that a file's name indicates; None if it is not supported."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in PurePosixPath(name).suffixes)]
    if outer in _CODECS and inner in FORMATS and FORMATS[inner].may_be_compressed:
        return inner, _CODECS[outer]
    return (outer, None) if outer in FORMATS else None


def known_format(url: str) -> Format:
    """The format of the file; raises SourceError if it is not supported."""
    found = format_of(url)
    if found is None:
        raise SourceError(
            f"source.path: {url} is of an unsupported kind: expected {SUPPORTED}; convert or rename it",
            field="source.path",
        )
    return found


def store_of(root: str, source: Source) -> Store:
    """The store at this root, with the source's settings."""
    return _opened_store(root, source.endpoint_url, source.region, path_style=source.path_style)


@functools.lru_cache(maxsize=16)  # S3 clients are slow to create, and each chunk opens its files again
def _opened_store(root: str, endpoint_url: str | None, region: str | None, *, path_style: bool | None) -> Store:
    return open_store(root, endpoint_url=endpoint_url, region=region, path_style=path_style)


def stat_file(url: str, source: Source) -> SourceFile | None:
    """The file now at that url, or None if there is none."""
    store, key = _placed(url, source)
    found = store.stat(key)
    return None if found is None else SourceFile(url, found.size, found.etag)


def digest_of(file: SourceFile, *, source: Source) -> str:
    """32 hex digits that identify the file's content, from its size, head and tail.

    Raises:
        SourceError: the file is gone or changed.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    digest = hashlib.blake2b(b"%d\0" % file.size, digest_size=16, person=b"stillhouse-file")
    if given := folder_columns(file.url):  # the same content in another folder gives different rows
        digest.update(repr(sorted(given.items())).encode(errors="replace"))
    with _opened(file, source) as stream:
        digest.update(stream.read(DIGESTED_BYTES))
        if file.size > DIGESTED_BYTES:
            stream.seek(max(DIGESTED_BYTES, file.size - DIGESTED_BYTES))
            digest.update(stream.read(DIGESTED_BYTES))
    return digest.hexdigest()


def metadata_of(file: SourceFile, *, source: Source) -> dict[bytes, bytes]:
    """The metadata that the file's writer stored, by key; empty for formats that have none.

    Raises:
        SourceError: the file is gone, changed or damaged.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    kind, _ = known_format(file.url)
    if (read := FORMATS[kind].metadata) is None:
        return {}
    with _opened(file, source) as stream:
        return read(stream)


def _placed(url: str, source: Source) -> tuple[Store, str]:
    """The store and the key of a url."""
    if url.startswith("s3://"):
        location = S3Location.of(url)
        return store_of(f"s3://{location.bucket}", source), location.key
    root, _, key = url.rpartition("/")
    return store_of(root or "/", source), key


def _located(file: SourceFile, source: Source) -> tuple[Store, str]:
    """The store and the key of the file, if it is still the one that was found."""
    store, key = _placed(file.url, source)
    now = store.stat(key)
    if now is None:
        raise SourceError(f"{file.url} is gone: put it back, or use another dataset.path")
    if (now.size, now.etag) != (file.size, file.etag):
        raise SourceError(
            f"{file.url} changed since it was planned ({file.size} bytes then, {now.size} now): put the old file back, "
            "or use another dataset.path; new prompts belong in new files beside it"
        )
    return store, key


@contextmanager
def _opened(file: SourceFile, source: Source) -> Iterator[BinaryIO]:
    """The file's bytes, if it is still the one that was found; errors with it become SourceErrors."""
    store, key = _located(file, source)
    try:
        with store.open(key) as stream:
            yield stream
    except MissingColumn as error:
        raise ColumnMissing(f"{file.url}: {error}", column=error.column) from error
    except FormatError as error:
        raise SourceError(f"{file.url}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SourceError(
            f"{file.url} can't be read: {reason}; it is cut off, corrupt, encrypted or not what its name says: "
            "write it again"
        ) from error
