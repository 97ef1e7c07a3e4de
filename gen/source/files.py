"""The source: which files hold the prompts, and their rows.

The files come in one order, that of the recipe's paths and of the names below each, and the rows in the files' order;
so every reader of a source sees the same sequence. A file that can't be read is a SourceError that names it; a row that
can't be read is a bad Row.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from stillhouse.gen.counted import counted
from stillhouse.gen.errors import ColumnMissing, NoFiles, SourceError
from stillhouse.gen.source.columns import column_of
from stillhouse.gen.source.dataset_folder import ONLY_REJECTED, OURS, dataset_of, is_dataset, shards_of
from stillhouse.gen.source.elsewhere import hub_advice, refuse_elsewhere
from stillhouse.gen.source.formats.columnar import check_columns
from stillhouse.gen.source.formats.registry import FORMATS, SUPPORTED, Reading
from stillhouse.gen.source.formats.row import MAX_ROW_BYTES, FormatError, MissingColumn, Position, Row
from stillhouse.gen.source.formats.text import Codec
from stillhouse.gen.source.kept_columns import kept_field
from stillhouse.gen.source.kept_types import OwnType, check_frozen, settled
from stillhouse.gen.store import open_store, split_url
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import Stat
from stillhouse.schemas.location import S3Location
from stillhouse.schemas.near_path import near_path
from stillhouse.schemas.recipe import Source

__all__ = [
    "MAX_ROW_BYTES",
    "START_OF_FILE",
    "Position",
    "Row",
    "SourceFile",
    "digest_of",
    "find_files",
    "kept_fields",
    "passed_over_note",
    "read_rows",
    "stat_file",
    "survey",
]

_READERS = 16
"""Files whose footers are read at a time: on S3 each is a few round trips."""

_CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd"}

_Format: TypeAlias = tuple[str, Codec | None]
"""The kind, such as '.jsonl', and its compression."""


DIGESTED_BYTES = 2**20
"""Of a file's head and of its tail: what people append, cut or rewrite shows in one of them, or in the size."""

START = Position()
"""The start of a file."""
START_OF_FILE = (START.row, START.offset, START.line)
"""The same as the index keeps it."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the source, as it was found."""

    url: str
    """An absolute path, or s3://bucket/key."""
    size: int
    """In bytes."""
    etag: str
    """Changes with the content."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is below the recipe's paths."""

    files: list[SourceFile]
    """In their order, each once."""
    passed_over: tuple[str, ...]
    """The urls of files that are of another kind."""


_NAMED = 5
_PATH = "source.path"


def passed_over_note(urls: Sequence[str]) -> str | None:
    """A note for the user about the files that a survey skipped."""
    names = [url.rpartition("/")[2] for url in urls]
    if not names:
        return None
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"passed over {counted(len(names), 'file')} of other kinds: {', '.join(names[:_NAMED])}{more}"


def find_files(source: Source) -> list[SourceFile]:
    """The files of `survey`."""
    return survey(source).files


def survey(source: Source, *, may_be_empty: bool = False) -> Found:
    """The files below the recipe's paths, in their order, each once; those below a folder or a glob by name.

    Folders are searched to any depth; names that begin with '.' or '_' or end in '.tmp', datasets of ours and files of
    other kinds are skipped, and of the others all but those of the lowest rank (`formats.registry.Format`).
    `may_be_empty`: paths without files are fine.

    Raises:
        NoFiles: there is no file at a path.
        SourceError: a path leads to no readable file.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    found: dict[str, SourceFile] = {}
    passed_over: dict[str, None] = {}
    for path in source.paths:
        refuse_elsewhere(path)
        try:
            below = _below(path, source)
        except NoFiles:
            if not may_be_empty:
                raise
            continue
        for file in below.files:
            found.setdefault(file.url, file)
        passed_over |= dict.fromkeys(below.passed_over)
    if found and source.rejected and not any(dataset_of(url) for url in found):
        raise SourceError(
            f"source.rejected: expected the folder of a Stillhouse dataset as source.path, got other files such as "
            f"{next(iter(found))}: leave `rejected` out",
            field="source.rejected",
        )
    return Found(list(found.values()), tuple(url for url in passed_over if url not in found))


def read_rows(
    file: SourceFile, *, source: Source, columns: Collection[str] | None = None, start: Position = START
) -> Iterator[Row]:
    """The file's rows from `start` on, with the wanted columns (None: all); memory does not grow with the file.

    A JSON row may lack columns. Folders named `column=value` add a column that the file lacks. Rows before a defect
    in the file are yielded, except those in its last megabyte.

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
    kind, codec = _known_format(file.url)
    if file.size == 0 and codec is not None:
        raise SourceError(f"{file.url} is empty, which no compressed file is: write it again")
    with _opened(file, source) as stream:
        reading = Reading(columns, elsewhere, start, codec, source.delimiter, source.passage_chars)
        yield from FORMATS[kind].read(stream, reading)


def _given_columns(url: str, source: Source) -> dict[str, str | None]:
    """Columns that a file's rows have even where the file lacks them."""
    return {**(dict.fromkeys(ONLY_REJECTED) if source.rejected else {}), **folder_columns(url)}


_NO_FOLDER_VALUE = "__HIVE_DEFAULT_PARTITION__"


def folder_columns(url: str) -> dict[str, str | None]:
    """Hive-style columns from the folders above a file: `lang=de/part-0.parquet`."""
    pairs = (folder.partition("=") for folder in url.split("/")[:-1] if "=" in folder)
    return {unquote(name): None if value == _NO_FOLDER_VALUE else unquote(value) for name, _, value in pairs if name}


def kept_fields(
    files: Sequence[SourceFile], *, source: Source, frozen: Sequence[pa.Field] | None = None
) -> tuple[pa.Field, ...]:
    """The kept columns as the plan freezes them: of declared type, else of a type that holds all files' values.

    `frozen`: the types of the dataset's first plan, which stay fixed, and which the files must fit.

    Raises:
        SourceError: a file is gone, changed or unreadable, lacks a kept column, or has one of a type that does not go
            with another file's, or with the frozen one.
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
    """The kept columns' types as a Parquet or Arrow file's schema has them; None for what is text."""
    kind, _ = _known_format(file.url)
    names = [keep.name for keep in source.keep]
    if (schema_of := FORMATS[kind].schema) is None:
        return dict.fromkeys(names)
    with _opened(file, source) as stream:
        schema = schema_of(stream)
        check_columns(schema, names, elsewhere=_given_columns(file.url, source))
        return {name: found[1] if (found := column_of(schema, name)) else None for name in names}


def _below(path: str, source: Source) -> Found:
    root, key = split_url(path)
    store = _store(root, source)
    named = store.stat(key) if key and not key.endswith("/") else None
    if named is not None:
        _known_format(path)
        return Found([_source_file(store, named)], ())
    if wildcard := re.search(r"[*?\[]", key):
        folder = key[: wildcard.start()].rpartition("/")
        prefix = folder[0] + folder[1]
        matches = _matcher(key)
        listed = _in_order(store.list(prefix))
        stats = [stat for stat in listed if matches(stat.key)]
    else:
        prefix = f"{key.rstrip('/')}/" if key else ""
        if is_dataset(store, prefix):
            shards = shards_of(store, prefix, rejected=source.rejected)
            return Found([_source_file(store, stat) for stat in shards], ())
        stats = listed = _in_order(store.list(prefix))
    ours = _our_datasets(listed, prefix)
    seen = [stat for stat in stats if not _is_hidden(stat.key[len(prefix) :]) and not stat.key.startswith(ours)]
    kinds = {stat.key: found[0] if (found := _format(stat.key)) else None for stat in seen}
    asked_for = _format(key) if wildcard else None
    if asked_for is None:
        lowest = min((FORMATS[kind].rank for kind in kinds.values() if kind is not None), default=0)
        kinds = {key: kind if kind and FORMATS[kind].rank == lowest else None for key, kind in kinds.items()}
    files = [_source_file(store, stat) for stat in seen if kinds[stat.key] is not None]
    if not files:
        place = path if "://" in path or path.startswith("/") else f"{path} (in {Path.cwd()})"
        others = f"only {counted(len(seen), 'file')} of other kinds" if seen else "none"
        advice = near_path(path) or hub_advice(path)
        raise NoFiles(
            f"source.path: expected files at {place}, found {others}: give a file, a folder or a glob of {SUPPORTED} "
            f"files (names that begin with '.' or '_' or end in '.tmp' are skipped){advice}",
            field=_PATH,
        )
    base = store.url.rstrip("/")
    return Found(files, tuple(f"{base}/{stat.key}" for stat in seen if kinds[stat.key] is None))


def _in_order(stats: Iterable[Stat]) -> list[Stat]:
    """By name, which the source's order is, and which not every store lists by."""
    return sorted(stats, key=lambda stat: stat.key.encode(errors="surrogateescape"))


def _our_datasets(stats: Sequence[Stat], prefix: str) -> tuple[str, ...]:
    """Folders below `prefix` that hold one of our datasets, whose records are not prompts."""
    marked = (stat.key[len(prefix) :].partition(f"/{OURS}/") for stat in stats)
    return tuple({f"{prefix}{folder}/" for folder, mark, _ in marked if mark})


def _source_file(store: Store, stat: Stat) -> SourceFile:
    url = f"{store.url.rstrip('/')}/{stat.key}"
    if not url.isascii():
        try:
            url.encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"source.path: the name of {url!a} is not UTF-8: rename the file", field=_PATH) from error
    return SourceFile(url, stat.size, stat.etag)


def _is_hidden(key: str) -> bool:
    return any(name.startswith((".", "_")) or name.endswith(".tmp") for name in key.split("/"))


def _matcher(glob: str) -> Callable[[str], object]:
    """As in the shell: `*` and `?` stay within a folder, `**/` is any number of folders, `[…]` is one character."""
    parts = []
    for piece in re.findall(r"\*\*/|\*+|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        match piece:
            case "**/":
                parts.append("(?:.*/)?")
            case "?":
                parts.append("[^/]")
            case _ if piece.startswith("*"):
                parts.append("[^/]*" if piece == "*" else ".*")
            case _ if len(piece) > 1:
                inside = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
                parts.append(
                    "[^" + inside[1:] + "]" if inside.startswith("!") else "[" + inside.replace("^", r"\^") + "]"
                )
            case _:
                parts.append(re.escape(piece))
    try:
        return re.compile("".join(parts), re.DOTALL).fullmatch
    except re.error as error:
        raise SourceError(f"source.path: {glob} is not a valid glob: {error}", field=_PATH) from error


def _format(name: str) -> _Format | None:
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in PurePosixPath(name).suffixes)]
    if outer in _CODECS and inner in FORMATS and FORMATS[inner].may_be_compressed:
        return inner, _CODECS[outer]
    return (outer, None) if outer in FORMATS else None


def _known_format(url: str) -> _Format:
    found = _format(url)
    if found is None:
        raise SourceError(
            f"source.path: {url} is of an unsupported kind: expected {SUPPORTED}; convert or rename it", field=_PATH
        )
    return found


def _store(root: str, source: Source) -> Store:
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
    if given := folder_columns(file.url):  # the same content in another folder makes different rows
        digest.update(repr(sorted(given.items())).encode(errors="replace"))
    with _opened(file, source) as stream:
        digest.update(stream.read(DIGESTED_BYTES))
        if file.size > DIGESTED_BYTES:
            stream.seek(max(DIGESTED_BYTES, file.size - DIGESTED_BYTES))
            digest.update(stream.read(DIGESTED_BYTES))
    return digest.hexdigest()


def metadata_of(file: SourceFile, *, source: Source) -> dict[bytes, bytes]:
    """What the file's writer says of it, by key; nothing if such a file has no place for that.

    Raises:
        SourceError: the file is gone, changed or damaged.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    kind, _ = _known_format(file.url)
    if (read := FORMATS[kind].metadata) is None:
        return {}
    with _opened(file, source) as stream:
        return read(stream)


def _placed(url: str, source: Source) -> tuple[Store, str]:
    """The store and the key of a url."""
    if url.startswith("s3://"):
        location = S3Location.of(url)
        return _store(f"s3://{location.bucket}", source), location.key
    root, _, key = url.rpartition("/")
    return _store(root or "/", source), key


def _located(file: SourceFile, source: Source) -> tuple[Store, str]:
    """The store and the key of the file, if it is the one that was found."""
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
    """The file's bytes, if it is the one that was found; what goes wrong with it is a SourceError."""
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
            f"{file.url} can't be read as its name says: {reason}; it is cut off, corrupt, encrypted or "
            "of another kind: write it again"
        ) from error
