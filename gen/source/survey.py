"""Finds a source's files below the recipe's paths, in a fixed order: that of the paths, then by name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.gen.counted import counted
from stillhouse.gen.errors import NoFiles, SourceError
from stillhouse.gen.source.dataset_folder import OURS, dataset_of, is_dataset, shards_of
from stillhouse.gen.source.elsewhere import hub_advice, refuse_elsewhere
from stillhouse.gen.source.files import SourceFile, format_of, known_format, store_of
from stillhouse.gen.source.formats.registry import FORMATS, SUPPORTED
from stillhouse.gen.source.globs import matcher
from stillhouse.gen.store import split_url
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import Stat
from stillhouse.schemas.near_path import near_path
from stillhouse.schemas.source import Source

_NAMED = 5
"""Maximum number of skipped files that a message names."""
_PATH = "source.path"


@dataclass(frozen=True, slots=True)
class Found:
    """The files below the recipe's paths."""

    files: list[SourceFile]
    """The files, in order, each once."""
    passed_over: tuple[str, ...]
    """The URLs of files of other kinds."""


def passed_over_note(urls: Sequence[str]) -> str | None:
    """A note for the user about the files that a survey skipped."""
    names = [url.rpartition("/")[2] for url in urls]
    if not names:
        return None
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"skipped {counted(len(names), 'file')} of other kinds: {', '.join(names[:_NAMED])}{more}"


def survey(source: Source, *, may_be_empty: bool = False) -> Found:
    """The files below the recipe's paths, in order, each once; those below a folder or a glob by name.

    Folders are searched to any depth. Names that begin with '.' or '_' or end in '.tmp', Stillhouse datasets and files
    of other kinds are skipped, and of the rest all but those of the lowest rank (`formats.registry.Format`).
    `may_be_empty`: paths without files are allowed.

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


def _below(path: str, source: Source) -> Found:
    root, key = split_url(path)
    store = store_of(root, source)
    named = store.stat(key) if key and not key.endswith("/") else None
    if named is not None:
        known_format(path)
        return Found([_source_file(store, named)], ())
    if wildcard := re.search(r"[*?\[]", key):
        folder = key[: wildcard.start()].rpartition("/")
        prefix = folder[0] + folder[1]
        matches = matcher(key)
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
    kinds = {stat.key: found[0] if (found := format_of(stat.key)) else None for stat in seen}
    asked_for = format_of(key) if wildcard else None
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
    """Sort by name, which is the source's order; not every store lists this way."""
    return sorted(stats, key=lambda stat: stat.key.encode(errors="surrogateescape"))


def _our_datasets(stats: Sequence[Stat], prefix: str) -> tuple[str, ...]:
    """Folders below `prefix` that contain a Stillhouse dataset, whose records are not prompts."""
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
